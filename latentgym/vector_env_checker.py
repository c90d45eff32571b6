"""The contract test for vector environments that Gymnasium does not have."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from latentgym.rollouts import (
    Call,
    arrays,
    check_equal,
    check_rows,
    check_same_kind,
    describe,
    difference,
    first_end,
    leaves,
    mix,
    play,
    record,
    reset,
    samples,
    script_of,
    step,
    text,
    without_masked_resets,
)


def check_vector_env(
    env: VectorEnv,
    single: Callable[[], gym.Env] | Literal[False] | None = None,
    *,
    seed: int = 0,
    max_steps: int = 1000,
    atol: float = 1e-5,
) -> None:
    """Check that a vector environment keeps to Gymnasium's contract.

    What `gymnasium.utils.env_checker.check_env` does for single environments. The rules, in order:

    - batched spaces are the single ones, batched; ``metadata["autoreset_mode"]`` is set;
    - observations, rewards, flags and infos have the right types, shapes and dtypes, each array in
      infos next to its mask; actions are left as they are;
    - the global random states of Python, NumPy and PyTorch are left alone;
    - no later call changes what was returned, or shares its memory;
    - the same seed gives the same rollout, exactly;
    - ended rows are treated as the autoreset mode says: the step that resets pays nothing and
      ignores its action (``NEXT_STEP``), infos have ``final_obs`` and ``final_info`` of exactly
      the ended rows (``SAME_STEP``), ``reset_mask`` resets exactly its rows (``DISABLED``);
    - row ``i`` is the single environment seeded with ``seed + i``, under the same actions; infos
      that both have are of the same kind and stand in no other rows, whatever their values;
    - with ``render_mode="rgb_array"``, ``render`` returns a tuple of frames and changes nothing;
      each frame is the single environment's, and other environments may close;
    - ``spec``, if there is one, survives JSON and makes the same environment again;
    - ``np_random_seed`` tells the seed, or the seed of each row;
    - seeds may be listed, they decide the start, and no row depends on its neighbours;
    - the environment keeps no reference to the actions, or to what it returned.

    Check an environment before it is wrapped: a wrapper that puts the time into infos, such as
    `RecordEpisodeStatistics`, never gives the same rollout twice. A rollout is held in memory,
    so large observations ask for few rows.

    Gymnasium's logger only warns when no episode ended, so that what comes after was not checked,
    when ``reset`` removed ``reset_mask`` from the caller's options, as `SyncVectorEnv` does, and
    when the environment was made with arguments that JSON does not have, such as functions.

    Example:
        >>> import gymnasium as gym
        >>> import latentgym
        >>> env = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
        >>> latentgym.check_vector_env(env)
        >>> env.close()

    Args:
        env: what to check. It is not closed, and begins new episodes at the end.
        single: makes the single environment with the same arguments, its step limit included. By
            default it is made from ``env.spec``, which `gymnasium.make_vec` sets. Without a spec,
            or with ``False``, rows are not compared with single environments.
        seed: of the rollouts.
        max_steps: a rollout goes on until each row has ended twice, but no longer than this.
        atol: by how much floats may differ, absolute or relative, between a row and its single
            environment, and when a row's neighbours do something else.

    Raises:
        AssertionError: the first rule that is broken, on one line: which call and row, what was
            found and what was expected.
    """
    _check_spaces(env)
    _check_autoreset_mode(env)
    with _global_rngs_untouched():
        calls, rollout = record(env, seed, max_steps)
    _check_memory(calls, rollout)
    _check_same_seed(env, seed, rollout)
    mode = env.metadata["autoreset_mode"]
    if not any(call.ended.any() for call in rollout):
        logger.warn(f"No episode ended in {max_steps} steps: autoreset was not checked.")
    if mode == AutoresetMode.NEXT_STEP:
        _check_next_step(env, seed, rollout)
    elif mode == AutoresetMode.SAME_STEP:
        _check_same_step(env, rollout)
    else:
        _check_reset_mask(env, seed, rollout, atol)
    if single is None:
        single = _single_from_spec(env.spec)
    if env.render_mode == "rgb_array":
        _check_render(env, seed, rollout)
    if single:
        singles = SyncVectorEnv([single] * env.num_envs, autoreset_mode=mode)
        with closing(singles):
            _check_singles(env, singles, seed, rollout, atol)
            frames = _check_frames(env, singles, seed, rollout)
        _check_frames_stay(env, frames)
    _check_spec(env, seed, rollout)
    _check_seeds_are_told(env, seed)
    _check_listed_seeds(env, seed, rollout)
    _check_seed_matters(env, seed)
    _check_neighbours(env, seed, rollout, atol)
    _check_references(env, seed, rollout)
    env.reset()


def _check_spaces(env: VectorEnv) -> None:
    """There are num_envs rows, and batched spaces are the single ones so many times."""
    if not isinstance(env, VectorEnv):
        raise AssertionError(f"env is {text(env)}; expected a gymnasium.vector.VectorEnv")
    num_envs = getattr(env, "num_envs", None)
    if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
        raise AssertionError(f"num_envs is {num_envs!r}; expected an integer of at least 1")
    for name in ("observation_space", "action_space"):
        one, many = getattr(env, f"single_{name}", None), getattr(env, name, None)
        if not isinstance(one, gym.Space):
            raise AssertionError(f"single_{name} is {text(one)}; expected a gymnasium.Space")
        # The observation spaces of SyncVectorEnv(observation_mode="different") differ by row.
        if name == "observation_space" and getattr(env, "observation_mode", "same") != "same":
            continue
        if many != (batched := batch_space(one, int(num_envs))):
            expected = f"batch_space(single_{name}, {num_envs}) = {text(batched)}"
            raise AssertionError(f"{name} is {text(many)}; expected {expected}")


def _check_autoreset_mode(env: VectorEnv) -> None:
    """The metadata say what happens to ended rows, and the attribute, if any, says the same."""
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        raise AssertionError(f"metadata['autoreset_mode'] is {mode!r}; expected an AutoresetMode")
    if (attribute := getattr(env, "autoreset_mode", mode)) != mode:
        expected = f"metadata['autoreset_mode'] = {mode!r}"
        raise AssertionError(f"autoreset_mode is {attribute!r}; expected {expected}")


@contextmanager
def _global_rngs_untouched() -> Iterator[None]:
    """Random numbers come from the environment's own generators."""
    before = _global_rngs()
    yield
    for name, state in _global_rngs().items():
        if name in before and difference(state, before[name]):
            raise AssertionError(f"reset or step changed the global random state of {name}")


def _global_rngs() -> dict[str, Any]:
    states = {"random": random.getstate(), "numpy.random": np.random.get_state()}  # noqa: NPY002
    if torch := sys.modules.get("torch"):  # what nobody imported, nobody drew from
        states["torch"] = torch.get_rng_state().numpy()
    return states


def _check_memory(calls: list[Call], copies: list[Call]) -> None:
    """What was returned is the caller's: no later call changes it or shares its memory."""
    for call, copied in zip(calls, copies, strict=True):
        if found := difference(call.returned, copied.returned):
            rule = "later calls must not change what was returned"
            raise AssertionError(f"{rule}: {call.name}: {found}")
    held = [(call, arrays(call.returned)) for call in calls]
    for lag in (1, 2, 3):
        for (earlier, ones), (later, others) in zip(held, held[lag:], strict=False):
            for (name, one), (other, another) in itertools.product(ones, others):
                if np.shares_memory(one, another):
                    found = f"{name} of {earlier.name} shares memory with {other} of {later.name}"
                    raise AssertionError(f"each call must return new arrays: {found}")


def _check_same_seed(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """The seed and the actions decide everything, also when a reset cuts an episode short."""
    rule = "the same seed must give the same rollout"
    check_equal(rule, play(env, seed, script_of(rollout)), rollout)
    episode = rollout[: first_end(rollout) + 1]
    for _ in play(env, seed, script_of(episode[: len(episode) // 2 + 1])):
        pass
    check_equal(rule, play(env, seed, script_of(episode)), episode)


# Autoreset modes ----------------------------------------------------------------------------------


def _check_next_step(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """NEXT_STEP: the step after an end resets, pays nothing and ignores its action."""
    others, script = samples(env.action_space, seed + 1), []
    for before, call in itertools.pairwise(rollout):
        for row in np.flatnonzero(before.ended):
            where = f"NEXT_STEP: {call.name}, row {row}, the step that resets"
            if call.rewards[row] != 0:
                raise AssertionError(f"{where}: reward is {call.rewards[row]}; expected 0")
            if call.ended[row]:
                raise AssertionError(f"{where}: a flag is True; expected both to be False")
        mixed = (mix(env, before.ended, next(others), call.actions) for _ in range(100))
        changed = (actions for actions in mixed if difference(actions, call.actions))
        script.append(next(changed, call.actions) if before.ended.any() else call.actions)
    rule = "NEXT_STEP: the action of the step that resets must not matter"
    check_equal(rule, play(env, seed, script), rollout)


def _check_same_step(env: VectorEnv, rollout: list[Call]) -> None:
    """SAME_STEP: infos tell how the ended rows ended, and of no other row."""
    for call in rollout:
        ended = np.flatnonzero(call.ended)
        for key in ("final_obs", "final_info"):
            told = np.flatnonzero(call.infos.get(f"_{key}", ()))
            if not np.array_equal(told, ended):
                found = f"infos['_{key}'] is True in rows {told.tolist()}"
                expected = f"the ended rows {ended.tolist()}"
                raise AssertionError(f"SAME_STEP: {call.name}: {found}; expected {expected}")
        for row in ended:
            if (final := call.infos["final_obs"][row]) not in env.single_observation_space:
                found = f"SAME_STEP: {call.name}, row {row}: final_obs is {text(final)}"
                expected = f"an element of {text(env.single_observation_space)}"
                raise AssertionError(f"{found}; expected {expected}")


def _check_reset_mask(env: VectorEnv, seed: int, rollout: list[Call], atol: float) -> None:
    """DISABLED: a reset begins new episodes in the rows of its mask; the others continue."""
    begins = "DISABLED: reset must begin new episodes in the rows of reset_mask"
    goes_on = "DISABLED: reset must leave rows outside reset_mask as they are"
    end, length = _longest_stretch(rollout)
    rows = np.arange(env.num_envs)
    mask = rows % 2 != rollout[end].ended.argmax() % 2 if env.num_envs > 1 else rows == 0
    masked, others = np.flatnonzero(mask), np.flatnonzero(~mask)

    for _ in play(env, seed, script_of(rollout[: end - length + 1])):
        pass
    # A row outside the mask that is seeded all the same would start elsewhere.
    seeds = [seed + row + (0 if mask[row] else 1000) for row in rows.tolist()]
    call = _masked_reset(env, seeds, mask)
    check_rows(begins, call, rollout[0], masked, atol)
    as_it_was = call._replace(observations=rollout[end - length].observations)
    check_rows(goes_on, call, as_it_was, others, atol)
    for number in range(1, length + 1):
        fresh, continued = rollout[number], rollout[end - length + number]
        call = step(env, f"{number} after it", mix(env, mask, fresh.actions, continued.actions))
        check_rows(begins, call, fresh, masked, atol)
        check_rows(goes_on, call, continued, others, atol)
    ended = call.ended & ~mask
    if ended.any() and end + 1 < len(rollout):
        call = reset(env, options={"reset_mask": call.ended})
        check_rows(goes_on, call, rollout[end + 1], np.flatnonzero(ended), atol)


def _longest_stretch(rollout: list[Call]) -> tuple[int, int]:
    """Where the longest part without resets ends, and half its length.

    It is no longer than the first episode, so that a row that was reset needs none in it.
    """
    resets = [index for index, call in enumerate(rollout) if call.actions is None]
    stretches = zip(resets, [*resets[1:], len(rollout)], strict=True)
    begin, end = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    return end - 1, min((end - begin) // 2, first_end(rollout))


def _masked_reset(env: VectorEnv, seeds: list[int], mask: np.ndarray) -> Call:
    """The caller's options and mask stay as they are."""
    given = mask.copy()
    options = {"reset_mask": given}
    call = reset(env, seeds, options)
    if not options:
        logger.warn(
            "reset removed 'reset_mask' from the caller's options, as Gymnasium's SyncVectorEnv "
            "does: a wrapper around the environment does not see which rows were reset."
        )
    elif list(options) != ["reset_mask"] or options["reset_mask"] is not given:
        raise AssertionError(f"DISABLED: reset changed the caller's options to {text(options)}")
    if found := difference({"reset_mask": given}, {"reset_mask": mask}):
        raise AssertionError(f"DISABLED: reset changed the caller's mask: {found}")
    return call


# Single environments ------------------------------------------------------------------------------


def _check_singles(
    env: VectorEnv, singles: SyncVectorEnv, seed: int, rollout: list[Call], atol: float
) -> None:
    """Row i is the single environment that is seeded with seed + i and given the same actions."""
    rule = "row i must equal the single environment seeded with seed + i"
    for name in ("single_observation_space", "single_action_space"):
        if (found := getattr(env, name)) != (expected := getattr(singles, name)):
            found = f"{name} is {text(found)}, expected {text(expected)}"
            raise AssertionError(f"{rule}: {found}")
    played = play(singles, seed, script_of(rollout))
    for call, expected in zip(rollout, played, strict=False):
        check_rows(rule, call, expected, atol=atol)
        rule_of_infos = "infos must be those of the single environments, values aside"
        check_same_kind(call.infos, expected.infos, f"{rule_of_infos}: {call.name}: infos")


def _single_from_spec(spec: EnvSpec | None) -> Callable[[], gym.Env] | None:
    """What makes the single environment of `make_vec`'s spec; None if there is none."""
    if spec is None or spec.entry_point is None:
        return None
    not_its_own = {*inspect.signature(gym.make_vec).parameters, "autoreset_mode"}
    kwargs = {key: value for key, value in spec.kwargs.items() if key not in not_its_own}
    limit = kwargs.pop("max_episode_steps", None)
    if limit is None and spec.kwargs.get("vectorization_mode") == "vector_entry_point":
        limit = -1  # to a vector environment None means no limit, to make the registered one
    kwargs = {"disable_env_checker": True, **kwargs, "max_episode_steps": limit}
    wrappers = spec.kwargs.get("wrappers", ())
    spec = copy.copy(spec)
    spec.kwargs = {}
    return lambda: functools.reduce(lambda e, wrap: wrap(e), wrappers, gym.make(spec, **kwargs))


# Rendering and spec -------------------------------------------------------------------------------

RENDERED_STEPS = 3


def _check_render(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """Render returns a tuple of frames, and nothing else happens."""
    script = script_of(rollout)[:RENDERED_STEPS]
    for call, expected in zip(play(env, seed, script), rollout, strict=False):
        check_equal("render must not change the rollout", [call], [expected])
        frames, name = env.render(), f"{call.name}: render()"
        if not isinstance(frames, tuple) or len(frames) != env.num_envs:
            found = f"a tuple of {len(frames)}" if isinstance(frames, tuple) else describe(frames)
            raise AssertionError(f"{name} returned {found}; expected a tuple of {env.num_envs}")
        for row, frame in enumerate(frames):
            found = describe(frame)
            if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3):
                shape = "uint8 array of shape (height, width, 3)"
                raise AssertionError(f"{name}, row {row}: frame is {found}; expected {shape}")


def _check_frames(
    env: VectorEnv, singles: SyncVectorEnv, seed: int, rollout: list[Call]
) -> tuple[np.ndarray, ...]:
    """Each frame is the single environment's. Returns the last ones, if frames are rendered."""
    frames: Any = ()
    if not env.render_mode == singles.render_mode == "rgb_array":
        return frames
    script = script_of(rollout)[:RENDERED_STEPS]
    for call, _ in zip(play(env, seed, script), play(singles, seed, script), strict=False):
        frames = env.render()
        if found := difference({"frame": frames}, {"frame": singles.render()}):
            rule = "each frame must be the single environment's"
            raise AssertionError(f"{rule}: {call.name}: {found}")
    return frames


def _check_frames_stay(env: VectorEnv, frames: tuple[np.ndarray, ...]) -> None:
    """The frames are still there when others have closed, and pygame's display with them."""
    rule = "render must work after other environments have closed"
    try:
        again = env.render() if frames else frames
    except Exception as error:
        raise AssertionError(f"{rule}: it raised {type(error).__name__}: {text(error)}") from error
    if found := difference({"frame": again}, {"frame": frames}):
        raise AssertionError(f"{rule}: {found}")


def _check_spec(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """The spec survives JSON, and makes the same environment again."""
    if env.spec is None:
        return
    for name, value in env.spec.kwargs.items():
        if isinstance(value, AutoresetMode):
            found = f"spec.kwargs[{name!r}] is {value!r}"
            raise AssertionError(f"spec must survive JSON: {found}; expected {value.value!r}")
    try:
        spec = EnvSpec.from_json(env.spec.to_json())
    except (TypeError, ValueError) as error:
        logger.warn(f"spec does not survive JSON, and was not checked: {text(error)}")
        return
    with closing(gym.make_vec(spec)) as again:
        rule = "spec must make the same environment again"
        check_equal(rule, play(again, seed, script_of(rollout)[:RENDERED_STEPS]), rollout)


# Seeds and neighbours -----------------------------------------------------------------------------


def _check_seeds_are_told(env: VectorEnv, seed: int) -> None:
    """The seed is told as it was given, as `VectorEnv` does, or row by row, as `SyncVectorEnv`."""
    seeds = tuple(seed + row for row in range(env.num_envs))
    reset(env, seed)
    if env.np_random_seed not in (seed, seeds):
        found = f"np_random_seed is {text(env.np_random_seed)}"
        raise AssertionError(f"reset(seed={seed}): {found}; expected {text(seeds)} or {seed}")


def _check_listed_seeds(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """One seed s means s, s + 1, ... for the rows."""
    seeds = [seed + row for row in range(env.num_envs)]
    rule = f"reset(seed={text(seeds)}) must equal reset(seed={seed})"
    try:
        call = reset(env, seeds)
    except (TypeError, ValueError, gym.error.Error) as error:
        raise AssertionError(f"{rule}: it raised {type(error).__name__}: {text(error)}") from error
    check_equal(rule, [call], rollout)


def _check_seed_matters(env: VectorEnv, seed: int) -> None:
    """Starts that differ from reset to reset differ from seed to seed; others may be constant."""
    start = reset(env, seed).observations

    def differs(seed: int | None) -> bool:
        return bool(difference(reset(env, seed).observations, start))

    seeded = any(differs(seed + 1000 * i) for i in range(1, 20))
    if not seeded and any(differs(None) for _ in range(20)):
        found = "20 seeds gave one start; expected several, as resets without a seed gave"
        raise AssertionError(f"the seed must decide the start: {found}")


def _check_neighbours(env: VectorEnv, seed: int, rollout: list[Call], atol: float) -> None:
    """A row depends on its own seed and actions only."""
    rule = "a row must not depend on the seeds and actions of other rows"
    for parity in range(min(env.num_envs, 2)):
        kept = np.arange(env.num_envs) % 2 == parity
        seeds = [seed + row + (0 if kept[row] else 1000) for row in range(env.num_envs)]
        others = samples(env.action_space, seed + 1)
        script = [mix(env, kept, actions, next(others)) for actions in script_of(rollout)]
        # Other rows end at other times, so masked resets come at other times too.
        calls = (without_masked_resets(each) for each in (rollout, play(env, seeds, script)))
        for expected, call in zip(*calls, strict=False):
            check_rows(rule, call, expected, np.flatnonzero(kept), atol)


def _check_references(env: VectorEnv, seed: int, rollout: list[Call]) -> None:
    """What the caller does afterwards to the actions and to what was returned does not matter."""

    def overwritten(what: str) -> Iterator[Call]:
        others = samples(env.action_space, seed + 1)
        for call in play(env, seed, script_of(rollout)):
            yield call
            new = dict(leaves(next(others)))
            for name, array in arrays(getattr(call, what)):
                if array.flags.writeable:
                    array[...] = new[name] if what == "actions" else 0

    rule = "the environment must keep no reference to its actions: after they were overwritten"
    check_equal(rule, overwritten("actions"), rollout)
    rule = "the environment must keep no reference to what it returned: after it was overwritten"
    check_equal(rule, overwritten("returned"), rollout)
