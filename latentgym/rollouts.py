"""Rollouts of vector environments: played, recorded and compared, for the checks of them."""

from __future__ import annotations

import copy
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate


class Call(NamedTuple):
    """A reset or step: what it was given and what it returned. A reset's rewards are zeros."""

    name: str
    observation_space: gym.Space
    actions: Any
    observations: Any
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    infos: dict[str, Any]

    @property
    def returned(self) -> dict[str, Any]:
        """What the environment returned."""
        return {name: getattr(self, name) for name in self._fields[3:]}

    @property
    def ended(self) -> np.ndarray:
        """The rows whose episode ended in this step."""
        return self.terminations | self.truncations

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was returned of each row, infos aside."""
        names = ("terminated", "truncated", "reward", "observation")  # in order of consequence
        observations = iterate(self.observation_space, self.observations)
        parts = zip(self.terminations, self.truncations, self.rewards, observations, strict=True)
        rows = [dict(zip(names, part, strict=True)) for part in parts]
        for row in np.flatnonzero(self.infos.get("_final_obs", ())):
            rows[row]["final_obs"] = self.infos["final_obs"][row]
        return rows

    def copied(self) -> Call:
        """The same with data of its own."""
        return self._replace(actions=copy.deepcopy(self.actions), **copy.deepcopy(self.returned))


# Playing ------------------------------------------------------------------------------------------


def reset(
    env: VectorEnv, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
) -> Call:
    """Reset, and check what is returned."""
    name = text(f"reset(seed={seed})" if options is None else f"reset({seed=}, {options=})")
    returned: Any = env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # lists, too
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise AssertionError(f"{name} returned {text(returned)}; expected (observations, infos)")
    zeros, never = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.bool_)
    observations, infos = returned
    call = Call(name, env.observation_space, None, observations, zeros, never, never.copy(), infos)
    check_returned(call, env)
    return call


def step(env: VectorEnv, number: int | str, actions: Any) -> Call:
    """Step, and check what is returned."""
    name, given = f"step {number}", copy.deepcopy(actions)
    returned = env.step(given)
    if not isinstance(returned, tuple) or len(returned) != 5:
        expected = "(observations, rewards, terminations, truncations, infos)"
        raise AssertionError(f"{name} returned {text(returned)}; expected {expected}")
    if found := difference({"actions": given}, {"actions": actions}):
        raise AssertionError(f"step must not change the actions it is given: {name}: {found}")
    call = Call(name, env.observation_space, given, *returned)
    check_returned(call, env)
    return call


def play(env: VectorEnv, seed: int | list[int], script: Iterable[Any]) -> Iterator[Call]:
    """A seeded reset, a step for each of the script's actions, and the resets the mode asks for."""
    disabled = env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    yield reset(env, seed)
    for number, actions in enumerate(script, 1):
        call = step(env, number, actions)
        ended = call.ended
        yield call
        if disabled and ended.any():
            yield reset(env, options={"reset_mask": ended})


def record(env: VectorEnv, seed: int, max_steps: int) -> tuple[list[Call], list[Call]]:
    """A rollout of random actions until each row has ended twice: as returned, and copied.

    It stops while rows wait for their reset, which the next seeded reset must make up for.
    """
    script = itertools.islice(samples(env.action_space, seed), max_steps)
    calls, copies, ends = [], [], np.zeros(env.num_envs, dtype=np.int64)
    for call in play(env, seed, script):
        calls.append(call)
        copies.append(call.copied())
        ends += call.ended
        if (ends >= 2).all():
            break
    return calls, copies


def samples(space: gym.Space, seed: int) -> Iterator[Any]:
    """Random elements of a space, whose own random numbers stay as they are."""
    space = copy.deepcopy(space)
    space.seed(seed)
    while True:
        yield space.sample()


def script_of(rollout: list[Call]) -> list[Any]:
    """The actions of its steps."""
    return [call.actions for call in rollout if call.actions is not None]


def without_masked_resets(calls: Iterable[Call]) -> Iterator[Call]:
    """The first reset, and the steps."""
    for index, call in enumerate(calls):
        if index == 0 or call.actions is not None:
            yield call


def first_end(rollout: list[Call]) -> int:
    """The index of the call in which the first episode ended, or of the last call."""
    ends = (index for index, call in enumerate(rollout) if call.ended.any())
    return next(ends, len(rollout) - 1)


def mix(env: VectorEnv, mask: np.ndarray, actions: Any, others: Any) -> Any:
    """`actions` in the rows of a mask, `others` elsewhere."""
    both = zip(*(iterate(env.action_space, each) for each in (actions, others)), strict=True)
    rows = [one if chosen else other for chosen, (one, other) in zip(mask, both, strict=True)]
    empty: Any = create_empty_array(env.single_action_space, env.num_envs)
    return concatenate(env.single_action_space, rows, empty)


# The form of what is returned ---------------------------------------------------------------------


def check_returned(call: Call, env: VectorEnv) -> None:
    """Observations are in their space; rewards are finite floats and flags bools, one per row."""
    check_layout(env.observation_space, call.observations, f"{call.name}: observations")
    if call.observations not in env.observation_space:
        rows = enumerate(iterate(env.observation_space, call.observations))
        outside = (each for each in rows if each[1] not in env.single_observation_space)
        row, observation = next(outside, ("any", call.observations))
        raise AssertionError(
            f"{call.name}, row {row}: observation {text(observation)} is outside its space; "
            f"expected an element of {text(env.single_observation_space)}"
        )
    kinds = {"rewards": np.floating, "terminations": np.bool_, "truncations": np.bool_}
    for name, kind in kinds.items():
        value, shape = getattr(call, name), (env.num_envs,)
        array = isinstance(value, np.ndarray) and value.shape == shape
        if not array or not np.issubdtype(value.dtype, kind):
            expected = f"{kind.__name__} array of shape {shape}"
            raise AssertionError(f"{call.name}: {name} is {describe(value)}; expected {expected}")
    for row in np.flatnonzero(~np.isfinite(call.rewards)).tolist():
        found = call.rewards[row]
        raise AssertionError(f"{call.name}, row {row}: reward is {found}; expected a finite one")
    check_infos(call.infos, np.ones(env.num_envs, dtype=np.bool_), f"{call.name}: infos")


def check_layout(space: gym.Space, value: Any, name: str) -> None:
    """Types, shapes and dtypes are the space's own; `contains` would accept a narrower dtype."""
    found = describe(value)
    parts: Iterable[tuple[Any, gym.Space]] = ()
    if isinstance(space, spaces.Dict):
        expected, parts = f"dict of {sorted(space)}", space.items()
        found = f"dict of {sorted(value)}" if isinstance(value, dict) else found
    elif isinstance(space, spaces.Tuple):
        expected, parts = f"tuple of {len(space)}", enumerate(space)
        found = f"tuple of {len(value)}" if isinstance(value, tuple) else found
    elif isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        expected = f"{space.dtype} array of shape {space.shape}"
    else:
        return
    if found != expected:
        raise AssertionError(f"{name} is {found}; expected {expected}")
    for key, part in parts:
        check_layout(part, value[key], f"{name}[{key!r}]")


def check_infos(infos: Any, rows: np.ndarray, name: str) -> None:
    """Infos are arrays of one value per row, or dicts of such, each with its mask of rows."""
    if not isinstance(infos, dict):
        raise AssertionError(f"{name} is {describe(infos)}; expected a dict")
    for key, value in infos.items():
        if key[:1] == "_" and key[1:] in infos:
            continue  # a mask
        mask: Any = infos.get(f"_{key}")
        expected = f"bool array of shape {rows.shape}"
        if describe(mask) != expected:
            found = f"{name}['_{key}'] is {describe(mask)}"
            raise AssertionError(f"{found}; expected {expected}, the mask of {key!r}")
        for row in np.flatnonzero(mask & ~rows):
            found = f"{name}['_{key}'] is True in row {row}"
            raise AssertionError(f"{found}; expected False, as in the mask around it")
        if isinstance(value, dict):
            check_infos(value, mask, f"{name}[{key!r}]")
        elif not isinstance(value, np.ndarray) or value.shape[:1] != rows.shape:
            found = f"{name}[{key!r}] is {describe(value)}"
            raise AssertionError(f"{found}; expected an array of {len(rows)} rows")


def check_same_kind(infos: dict[str, Any], expected: dict[str, Any], name: str) -> None:
    """Infos that both have are of the same type, dtype and shape, and stand in no other rows."""
    for key, value in infos.items():
        if key not in expected:
            continue
        other = expected[key]
        if isinstance(value, dict) and isinstance(other, dict):
            check_same_kind(value, other, f"{name}[{key!r}]")
        elif (found := _kind(value)) != (wanted := _kind(other)):
            raise AssertionError(f"{name}[{key!r}] is {found}; expected {wanted}")
        elif key[:1] == "_" and key[1:] in infos and (rows := np.flatnonzero(value & ~other)).size:
            found = f"{name}[{key!r}] is True in row {rows[0]}"
            raise AssertionError(f"{found}; expected False")


def _kind(value: Any) -> str:
    return "dict" if isinstance(value, dict) else describe(value)


# Comparing ----------------------------------------------------------------------------------------


def check_equal(rule: str, calls: Iterable[Call], rollout: list[Call]) -> None:
    """All that was returned is exactly what it was in the recorded rollout."""
    for expected, call in zip(rollout, calls, strict=False):
        check_rows(rule, call, expected)
        if found := difference({"infos": call.infos}, {"infos": expected.infos}):
            raise AssertionError(f"{rule}: {call.name}: {found}")


def check_rows(
    rule: str, call: Call, expected: Call, rows: Iterable[int] | None = None, atol: float = 0.0
) -> None:
    """Observations, rewards and flags of these rows, and how they ended, are the expected ones."""
    these, those = call.rows, expected.rows
    for row in range(len(these)) if rows is None else rows:
        if found := difference(these[row], those[row], atol):
            raise AssertionError(f"{rule}: {call.name}, row {row}: {found}")


def difference(data: Any, expected: Any, atol: float = 0.0) -> str:
    """The first value that differs, in words, or nothing; floats may differ by `atol`."""
    ones, others = dict(leaves(data)), dict(leaves(expected))
    for name in [*ones, *others]:
        if name not in ones or name not in others:
            return f"{name} is {'there, expected none' if name in ones else 'missing'}"
        one, other = np.asarray(ones[name]), np.asarray(others[name])
        if one.shape != other.shape:
            return f"{name} has shape {one.shape}, expected {other.shape}"
        container = isinstance(ones[name], np.ndarray) and one.dtype == object
        if container or np.array_equal(one, other):
            continue  # the elements of an array of objects are leaves of their own
        numbers = one.dtype.kind in "biufc" and other.dtype.kind in "biufc"
        if numbers and "f" in one.dtype.kind + other.dtype.kind:
            differs = ~np.isclose(one, other, rtol=atol, atol=atol, equal_nan=True)
        else:
            differs = np.asarray(one != other)
        for index in np.argwhere(differs)[:1]:
            where = f"{name}{index.tolist()}" if len(index) else name
            found, wanted = one[tuple(index)], other[tuple(index)]
            return f"{where} is {text(found)}, expected {text(wanted)}"
    return ""


def leaves(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of all that nested data hold; an array of objects and its elements too."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, (tuple, list)):
        items = enumerate(data)
    else:
        yield name, data
        objects = isinstance(data, np.ndarray) and data.dtype == object
        items = enumerate(data.flat) if objects else ()
    for key, value in items:
        yield from leaves(value, f"{name}[{key!r}]" if name else str(key))


def arrays(data: Any) -> list[tuple[str, np.ndarray]]:
    """Names and values of all arrays that nested data hold."""
    return [(name, leaf) for name, leaf in leaves(data) if isinstance(leaf, np.ndarray)]


def describe(value: Any) -> str:
    """What kind of value it is."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return "missing" if value is None else f"{type(value).__name__} {text(value)}"


def text(value: Any) -> str:
    """The value on one short line."""
    return textwrap.shorten(str(value), 100, placeholder=" ...")
