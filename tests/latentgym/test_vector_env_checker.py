import random
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit, TransformReward
from scripted import Chain, Counting, vector

from latentgym import check_vector_env

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode
MODES = [NEXT_STEP, SAME_STEP, DISABLED]
STEPS = 5
LATENTGYM_IDS = [
    env_id
    for env_id, spec in gym.registry.items()
    if str(spec.vector_entry_point).startswith("latentgym.")
]


# Correct environments -----------------------------------------------------------------------------


def drawn(position):
    """The frame of a walk."""
    return np.full((4, 6, 3), 100 + int(10 * position), dtype=np.uint8)


class Walk(gym.Env):
    """A noisy walk on a line that ends when it leaves [-1, 1]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-99, 99, (2,), np.float32)
        self.action_space = spaces.Discrete(3)

    def observe(self):
        return np.array([self.position, self.steps], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-0.5, 0.5), 0
        return self.observe(), {}

    def step(self, action):
        self.position += 0.4 * (action - 1) + 0.2 * self.np_random.normal()
        self.steps += 1
        info = {"sign": float(np.sign(self.position)), "deep": {"steps": self.steps}}
        return self.observe(), self.position, bool(abs(self.position) > 1), False, info

    def render(self):
        return drawn(self.position)


def limited_walk(render_mode=None):
    return TimeLimit(Walk(render_mode), STEPS)


def drawn_walk():
    return limited_walk("rgb_array")


class Walks(VectorEnv):
    """The same walk, many at a time: without a defect."""

    def __init__(
        self, num_envs=3, max_episode_steps=STEPS, autoreset_mode=NEXT_STEP, render_mode=None
    ):
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"autoreset_mode": self.autoreset_mode}
        self.limit = np.inf if max_episode_steps is None else max_episode_steps
        self.single_observation_space = spaces.Box(-99, 99, (2,), np.float32)
        self.single_action_space = spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.positions, self.steps = np.zeros(num_envs), np.zeros(num_envs)
        self.rngs = [None] * num_envs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed if isinstance(seed, int) else None)
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        self.seed(seed, mask)
        self.ended = np.zeros(self.num_envs, dtype=bool)
        self.begin(mask)
        return self.observe(), self.infos(mask)

    def seed(self, seed, mask):
        seeds = [seed + row for row in range(self.num_envs)] if isinstance(seed, int) else seed
        for row in np.flatnonzero(mask):
            if seeds is not None:
                self.rngs[row] = seeding.np_random(seeds[row])[0]

    def begin(self, mask):
        for row in np.flatnonzero(mask):
            self.positions[row], self.steps[row] = self.rngs[row].uniform(-0.5, 0.5), 0

    def step(self, actions):
        resetting = self.ended & (self.autoreset_mode == NEXT_STEP)
        self.move(actions, ~resetting)
        self.begin(resetting)
        rewards = np.where(resetting, 0.0, self.positions)
        terminations = ~resetting & (abs(self.positions) > 1)
        truncations = ~resetting & (self.steps >= self.limit)
        self.ended = terminations | truncations
        infos = self.infos(~resetting)
        if self.autoreset_mode == SAME_STEP and self.ended.any():
            infos |= self.final(self.ended.copy())
            self.begin(self.ended)
        return self.observe(), rewards, terminations, truncations, infos

    def move(self, actions, mask):
        for row in np.flatnonzero(mask):
            self.positions[row] += 0.4 * (actions[row] - 1) + 0.2 * self.rngs[row].normal()
            self.steps[row] += 1

    def observe(self):
        return np.stack([self.positions, self.steps], axis=1).astype(np.float32)

    def infos(self, mask):
        side = {"side": np.sign(self.positions), "_side": mask.copy()}
        return {"steps": self.steps.copy(), "_steps": mask.copy(), "at": side, "_at": mask.copy()}

    def render(self):
        return tuple(drawn(position) for position in self.positions)

    def final(self, ended):
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = self.observe()[row]
        info = {"final_obs": final_obs, "final_info": self.infos(ended)}
        return info | {"_final_obs": ended.copy(), "_final_info": ended.copy()}


class Reach(gym.Env):
    """Nested observations and infos, continuous actions; three steps."""

    def __init__(self):
        place = spaces.Box(-5, 5, (2,), np.float64)
        pair = spaces.Tuple([spaces.Discrete(9), spaces.MultiBinary(2)])
        self.observation_space = spaces.Dict({"place": place, "pair": pair, "goal": place})
        self.action_space = spaces.Dict({"move": spaces.Box(-1, 1, (2,), np.float32)})

    def observe(self):
        pair = (self.steps, np.array([1, 0], dtype=np.int8))
        return {"place": self.place.copy(), "pair": pair, "goal": np.ones(2)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, size=2), 0
        return self.observe(), {"at": {"x": self.place[0]}}

    def step(self, action):
        self.place += action["move"]
        self.steps += 1
        reward = -float(np.abs(self.place - 1).sum())
        info = {"at": {"x": self.place[0], "deep": {"y": self.place.copy()}}, "text": "here"}
        return self.observe(), reward, reward > -0.5, self.steps == 3, info


class Numbered(Counting):
    """Counts, but a seed decides the number of the first episode."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.episode = int(seeding.np_random(seed)[0].integers(50))
        return super().reset(seed=seed, options=options)


def cartpoles(mode):
    return gym.make_vec("CartPole-v1", 3, "sync", vector_kwargs={"autoreset_mode": mode})


SYNC = {
    "Chain": lambda mode: vector(Chain(), Chain(), Chain(), mode=mode),
    "Chain alone": lambda mode: vector(Chain(), mode=mode),
    "Numbered": lambda mode: vector(Numbered(tag=1), Numbered(1, "truncated"), mode=mode),
    "Reach": lambda mode: SyncVectorEnv([Reach] * 3, autoreset_mode=mode),
    "FrozenLake": lambda mode: vector(*(gym.make("FrozenLake-v1") for _ in range(2)), mode=mode),
    "CartPole": cartpoles,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SYNC)
def test_gymnasiums_vector_environment(name, mode):
    env = SYNC[name](mode)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check_vector_env(env) is None
    messages = [str(warning.message) for warning in caught]
    expected = {"reset removed 'reset_mask' from the caller's options": mode == DISABLED}
    # make_vec keeps its vector_kwargs, and with them the mode, as they are.
    expected["spec does not survive JSON, and was not checked"] = name == "CartPole"
    for message in messages:
        assert any(part in message and allowed for part, allowed in expected.items())
    env.step(env.action_space.sample())  # not closed, and begun anew
    env.close()


@pytest.mark.filterwarnings("ignore:.*reset removed 'reset_mask'")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("single", [Chain, Reach])
def test_rows_are_compared_with_singles(single, mode):
    check_vector_env(SyncVectorEnv([single] * 2, autoreset_mode=mode), single)


def test_async_vector_environment():
    env = AsyncVectorEnv([limited_walk] * 2)
    check_vector_env(env, limited_walk)
    env.close()


@pytest.mark.parametrize("mode", MODES)
def test_latent_edit(mode, tiny_file):
    options = {"backbone": tiny_file, "terminate_on_success": True, "autoreset_mode": mode}
    env = gym.make_vec("LatentEdit-v0", 3, max_episode_steps=6, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(env, atol=1e-4)


@pytest.mark.parametrize("num_envs", [1, 2, 5])
@pytest.mark.parametrize("single", [limited_walk, False, None])
@pytest.mark.parametrize("mode", MODES)
def test_what_the_defects_are_made_of_has_none(num_envs, single, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(Walks(num_envs, autoreset_mode=mode), single)
        one_step = Walks(num_envs, max_episode_steps=1, autoreset_mode=mode)
        check_vector_env(one_step, single and (lambda: TimeLimit(Walk(), 1)))


# Broken environments ------------------------------------------------------------------------------

DEFECTS = []


def defect(match, mode=NEXT_STEP, single=False):
    """The environment is caught with a message that begins so."""

    def register(cls):
        DEFECTS.append(pytest.param(cls, match, mode, single, id=cls.__name__))
        return cls

    return register


@defect(r"reset\(seed=0\): observations is float64 array of shape \(3, 2\); expected float32 array")
class ObservationDtype(Walks):
    def observe(self):
        return super().observe().astype(np.float64)


@defect(r"reset\(seed=0\): observations is float32 array of shape \(3, 1\); expected .* \(3, 2\)$")
class ObservationShape(Walks):
    def observe(self):
        return super().observe()[:, :1]


@defect(r"step 1, row 2: observation \[nan nan\] is outside its space; expected .* Box\(-99")
class ObservationIsNaN(Walks):
    def observe(self):
        observations = super().observe()
        observations[2] = np.nan if self.steps[2] else 0
        return observations


@defect(r"later calls must not change what was returned: reset\(seed=0\): observations\[0, 0\] is")
class ReusedObservations(Walks):
    def observe(self):
        self.buffer = getattr(self, "buffer", np.zeros((self.num_envs, 2), dtype=np.float32))
        self.buffer[:] = super().observe()
        return self.buffer


@defect(r"later calls must not change what was returned: step 1: rewards\[\d\] is")
class ReusedRewards(Walks):
    buffer = np.zeros(3)

    def step(self, actions):
        observations, self.buffer[:], *rest = super().step(actions)
        return observations, self.buffer, *rest


@defect(r"each call must return new arrays: infos\['c'\] of step 1 shares memory .* of step 2$")
class ConstantInfo(Walks):
    constant = np.ones(3)

    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, infos | {"c": self.constant, "_c": np.ones(3, dtype=bool)}


@defect(r"reset\(seed=0\): infos\['steps'\] is float64 array of shape \(2,\); expected .* 3 rows$")
class InfoLength(Walks):
    def infos(self, mask):
        return super().infos(mask) | {"steps": self.steps[:2].copy()}


@defect(r"reset\(seed=0\): infos\['_x'\] is missing; expected bool array of shape \(3,\), the mask")
class InfoWithoutMask(Walks):
    def infos(self, mask):
        return super().infos(mask) | {"x": self.positions.copy()}


@defect(r"reset\(seed=0\): infos\['at'\]\['_x'\] is missing; expected bool array")
class NestedInfoWithoutMask(Walks):
    def infos(self, mask):
        return super().infos(mask) | {"at": {"x": self.positions.copy()}}


@defect(r"step \d: infos\['at'\]\['_side'\] is True in row \d; expected False, as in the mask")
class NestedMaskIsWider(Walks):
    def infos(self, mask):
        infos = super().infos(mask)
        infos["at"]["_side"][:] = True
        return infos


@defect(r"reset\(seed=0\): infos\['_steps'\] is int64 array .*; expected bool array")
class IntegerMask(Walks):
    def infos(self, mask):
        return super().infos(mask) | {"_steps": mask.astype(int)}


@defect(r"the same seed must give the same rollout: reset\(seed=0\), row 0: observation\[0\] is")
class SeedIgnored(Walks):
    def seed(self, seed, mask):
        self.rngs = [np.random.default_rng() for _ in range(self.num_envs)]


@defect(r"the same seed must give the same rollout: reset\(seed=0\): infos\['n'\]\[0\] is \d+, ")
class InfosCountOn(Walks):
    count = 0

    def infos(self, mask):
        self.count += 1
        return super().infos(mask) | {"n": np.full(3, self.count), "_n": mask.copy()}


@defect(r"the seed must decide the start: 20 seeds gave one start; expected several")
class SeedConstant(Walks):
    def seed(self, seed, mask):
        super().seed(None if seed is None else list(range(self.num_envs)), mask)


@defect(r"reset\(seed=\[0, 1, 2\]\) must equal reset\(seed=0\): .* row 1: observation\[0\] is")
class OneSeedForAllRows(Walks):
    def seed(self, seed, mask):
        super().seed([seed] * self.num_envs if isinstance(seed, int) else seed, mask)


@defect(r"reset\(seed=\[0, 1, 2\]\) must equal reset\(seed=0\): it raised TypeError: no lists$")
class ListedSeedsRefused(Walks):
    def seed(self, seed, mask):
        if isinstance(seed, list):
            raise TypeError("no lists")
        super().seed(seed, mask)


@defect(r"a row must not depend on the seeds and actions of other rows: step .*: reward is")
class RowsShareOneGenerator(Walks):
    def seed(self, seed, mask):
        super().seed(seed, mask)
        self.rngs = [self.rngs[0]] * self.num_envs


@defect(r"a row must not depend on the seeds and actions of other rows: step 1, row 0: reward is")
class RewardsAreNormalised(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, np.where(rewards, rewards - rewards.mean(), 0), *rest


@defect(r"the same seed must give the same rollout: step 1, row \d: observation\[1\] is")
class ResetKeepsTheStepCount(Walks):
    def reset(self, *, seed=None, options=None):
        steps = self.steps % self.limit
        observations, infos = super().reset(seed=seed, options=options)
        self.steps = np.where(abs(self.positions) > 9, self.steps, steps)
        return observations, infos


@defect(r"the same seed must give the same rollout: step 1, row \d: ")
class ResetKeepsTheEnd(Walks):
    def reset(self, *, seed=None, options=None):
        ended = getattr(self, "ended", np.zeros(self.num_envs, dtype=bool))
        result = super().reset(seed=seed, options=options)
        self.ended = ended
        return result


@defect("reset or step changed the global random state of numpy.random$")
class GlobalNumpy(Walks):
    def move(self, actions, mask):
        np.random.random()  # noqa: NPY002
        super().move(actions, mask)


@defect("reset or step changed the global random state of torch$")
class GlobalTorch(Walks):
    def begin(self, mask):
        torch.manual_seed(3)
        super().begin(mask)


@defect("reset or step changed the global random state of random$")
class GlobalPython(Walks):
    def begin(self, mask):
        random.random()
        super().begin(mask)


@defect("NEXT_STEP: the action of the step that resets must not matter: step .*: observation")
class ResettingActionCounts(Walks):
    def step(self, actions):
        ended = self.ended
        _, *rest = super().step(actions)
        self.positions += 0.01 * ended * actions
        return self.observe(), *rest


@defect(r"NEXT_STEP: step \d, row \d, the step that resets: reward is 1.0; expected 0$")
class ResettingStepPays(Walks):
    def step(self, actions):
        ended = self.ended
        observations, rewards, *rest = super().step(actions)
        return observations, rewards + ended, *rest


@defect(r"NEXT_STEP: step \d, row \d, the step that resets: a flag is True; expected both to be")
class ResettingStepEndsAgain(Walks):
    def step(self, actions):
        ended = self.ended
        observations, rewards, terminations, *rest = super().step(actions)
        return observations, rewards, terminations | ended, *rest


@defect(
    r"SAME_STEP: step \d: infos\['_final_obs'\] is True in rows \[\]; expected .* \[.+\]$",
    SAME_STEP,
)
class NoFinalObservation(Walks):
    def final(self, ended):
        final = super().final(ended)
        return {key: final[key] for key in ("final_info", "_final_info")}


@defect(r"SAME_STEP: step \d: infos\['_final_info'\] is True in rows \[\]; expected", SAME_STEP)
class NoFinalInfo(Walks):
    def final(self, ended):
        final = super().final(ended)
        return {key: final[key] for key in ("final_obs", "_final_obs")}


@defect(
    r"SAME_STEP: step \d: infos\['_final_obs'\] is True in rows \[0, 1, 2\]; expected", SAME_STEP
)
class FinalOfAllRows(Walks):
    def final(self, ended):
        return super().final(np.ones(self.num_envs, dtype=bool))


@defect(r"SAME_STEP: step \d: infos\['_final_obs'\] is True in rows \[.*\]; expected", SAME_STEP)
class FinalOfWrongRows(Walks):
    def final(self, ended):
        return super().final(np.roll(ended, 1))


@defect(r"SAME_STEP: step \d, row \d: final_obs is None; expected an element of Box", SAME_STEP)
class FinalObservationIsNone(Walks):
    def final(self, ended):
        return super().final(ended) | {"final_obs": np.full(self.num_envs, None)}


@defect(r"row i must equal .*: step \d, row \d: final_obs\[0\] is .*", SAME_STEP, limited_walk)
class FinalObservationIsTheNextStart(Walks):
    def step(self, actions):
        observations, *rest, infos = super().step(actions)
        for row in np.flatnonzero(infos.get("_final_obs", ())):
            infos["final_obs"][row] = observations[row].copy()
        return observations, *rest, infos


@defect(r"row i must equal .*: step \d, row \d: observation\[0\] is", SAME_STEP, limited_walk)
class ObservationIsTheFinalOne(Walks):
    def step(self, actions):
        observations, *rest, infos = super().step(actions)
        for row in np.flatnonzero(infos.get("_final_obs", ())):
            observations[row] = infos["final_obs"][row]
        return observations, *rest, infos


@defect("DISABLED: reset must leave rows outside reset_mask as they are: reset.*: obs", DISABLED)
class MaskIgnored(Walks):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


@defect(
    r"DISABLED: reset must leave rows outside reset_mask as they are: step \d after it, row",
    DISABLED,
)
class MaskedResetSeedsAllRows(Walks):
    def seed(self, seed, mask):
        super().seed(seed, np.ones_like(mask))


@defect(r"DISABLED: reset must leave rows outside .*: reset.*: observation\[1\] is 0.0", DISABLED)
class MaskedResetRestartsAllClocks(Walks):
    def begin(self, mask):
        super().begin(mask)
        self.steps[:] = 0 if mask.any() else self.steps


@defect("DISABLED: reset must leave rows .*: reset.seed=None, .*: observation.0. is", DISABLED)
class MaskedResetMovesTheNextStart(Walks):
    def seed(self, seed, mask):
        super().seed(seed, mask)
        self.moved = self.moved if seed is None else ~mask

    def begin(self, mask):
        super().begin(mask)
        self.positions[mask & self.moved] += 0.01


@defect(
    "DISABLED: reset must begin new episodes in the rows of reset_mask: reset.*: observation",
    DISABLED,
)
class MaskInverted(Walks):
    def begin(self, mask):
        super().begin(~mask if mask.any() and not mask.all() else mask)


@defect(
    "DISABLED: reset must begin new episodes in the rows of reset_mask: step .* reward is", DISABLED
)
class MaskedResetKeepsTheNoise(Walks):
    def begin(self, mask):
        rngs = [seeding.np_random(7)[0] for _ in self.rngs] if not mask.all() else self.rngs
        super().begin(mask)
        self.rngs = [r if m else o for r, o, m in zip(rngs, self.rngs, mask, strict=True)]


@defect(r"DISABLED: reset changed the caller's mask: reset_mask\[\d\] is", DISABLED)
class MaskChanged(Walks):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if options:
            options["reset_mask"][:] = False
        return result


@defect(
    "DISABLED: reset changed the caller's options to {'reset_mask': .*, 'seen': True}", DISABLED
)
class OptionsChanged(Walks):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if options:
            options["seen"] = True
        return result


@defect(r"metadata\['autoreset_mode'\] is None; expected an AutoresetMode$")
class NoAutoresetMode(Walks):
    metadata = property(lambda self: {}, lambda self, value: None)


@defect(r"metadata\['autoreset_mode'\] is 'NextStep'; expected an AutoresetMode$")
class AutoresetModeIsText(Walks):
    metadata = property(lambda self: {"autoreset_mode": "NextStep"}, lambda self, value: None)


@defect(r"autoreset_mode is .*SAME_STEP.*; expected metadata\['autoreset_mode'\] = .*NEXT_STEP")
class AutoresetModesDisagree(Walks):
    metadata = property(lambda self: {"autoreset_mode": NEXT_STEP}, lambda self, value: None)

    def __init__(self):
        super().__init__(autoreset_mode=SAME_STEP)


@defect(r"action_space is MultiDiscrete\(\[3 3\]\); expected batch_space\(single_action_space, 3\)")
class ActionSpaceOfTwoRows(Walks):
    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = batch_space(self.single_action_space, 2)


@defect("single_observation_space is None; expected a gymnasium.Space$")
class NoSingleSpace(Walks):
    def __init__(self, **options):
        super().__init__(**options)
        del self.single_observation_space


@defect("num_envs is 0; expected an integer of at least 1$")
class NoRows(Walks):
    def __init__(self, **options):
        super().__init__(num_envs=0, **options)


@defect(r"reset\(seed=0\) returned \[\[.*; expected \(observations, infos\)$")
class ResetWithoutInfos(Walks):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed, options=options)[0]


@defect(
    r"step 1 returned .*; expected \(observations, rewards, terminations, truncations, infos\)$"
)
class OneFlagOnly(Walks):
    def step(self, actions):
        observations, rewards, terminations, truncations, infos = super().step(actions)
        return observations, rewards, terminations | truncations, infos


@defect(r"step 1: infos is list \[\]; expected a dict$")
class InfosInAList(Walks):
    def step(self, actions):
        return *super().step(actions)[:4], []


@defect(
    r"step 1: truncations is int64 array of shape \(3,\); expected bool.* array of shape \(3,\)$"
)
class IntegerFlags(Walks):
    def step(self, actions):
        observations, rewards, terminations, truncations, infos = super().step(actions)
        return observations, rewards, terminations, truncations.astype(int), infos


@defect(r"step 1: rewards is int64 array of shape \(3,\); expected floating array of shape")
class IntegerRewards(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards.astype(int), *rest


@defect(r"step 1, row 1: reward is nan; expected a finite one$")
class RewardIsNaN(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        rewards[1] = np.nan
        return observations, rewards, *rest


@defect(
    r"step must not change the actions it is given: step \d+: actions\[\d\] is 0, expected [12]$"
)
class ActionsChanged(Walks):
    def step(self, actions):
        result = super().step(actions)
        actions[:] = 0
        return result


@defect(
    "the environment must keep no reference to its actions: after they were over.*: step 2",
    SAME_STEP,
)
class ActionsKept(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        rewards += 0.1 * getattr(self, "last", 0) * (rewards != 0)
        self.last = actions
        return observations, rewards, *rest

    def reset(self, **options):
        self.last = 0
        return super().reset(**options)


@defect(
    "the environment must keep no reference to what it returned: after it was over.*: step .*row"
)
class FlagsKept(Walks):
    def step(self, actions):
        observations, rewards, self.ended, truncations, infos = super().step(actions)
        self.ended |= truncations
        return observations, rewards, self.ended, truncations & False, infos


@defect("row i must equal the single .* step 1, row 0: reward is", single=limited_walk)
class RewardIsOff(Walks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards * 1.001, *rest


@defect(
    "row i must equal the single .*, row .: truncated is True, expected False", single=limited_walk
)
class LimitIsOneShort(Walks):
    def __init__(self, **options):
        super().__init__(max_episode_steps=STEPS - 1, **options)


@defect("row i must equal .*: step .* row .: truncated is False, expected", single=limited_walk)
class SecondLimitIsOneLong(Walks):
    def begin(self, mask):
        super().begin(mask)
        self.limit = np.where(mask, STEPS + self.ended, self.limit)


@defect("row i must equal .*: single_action_space is .*, expected Discrete.3.", single=limited_walk)
class OtherActionSpace(Walks):
    def __init__(self, **options):
        super().__init__(**options)
        self.single_action_space = spaces.Discrete(2)
        self.action_space = batch_space(self.single_action_space, 3)


INFOS = r"infos must be those of the single environments, values aside: step \d+: infos"


@defect(rf"{INFOS}\['sign'\] is float32 array .*; expected float64 array", single=limited_walk)
class InfoDtype(Walks):
    def move(self, actions, mask):
        super().move(actions, mask)
        self.moved = mask

    def infos(self, mask):
        sign = np.sign(self.positions).astype(np.float32)
        return super().infos(mask) | {"sign": sign, "_sign": mask.copy()}


@defect(rf"{INFOS}\['deep'\] is int64 array .*; expected dict", single=limited_walk)
class InfoIsNotNested(Walks):
    def infos(self, mask):
        return super().infos(mask) | {"deep": self.steps.astype(int), "_deep": mask.copy()}


@defect(rf"{INFOS}\['_sign'\] is True in row \d; expected False", single=limited_walk)
class InfoMaskOfAllRows(Walks):
    def infos(self, mask):
        infos = super().infos(mask)
        return infos | {"sign": np.sign(self.positions), "_sign": np.ones_like(mask)}


@defect(r"spec must survive JSON: spec.kwargs\['mode'\] is .*NEXT_STEP.*; expected 'NextStep'$")
class SpecHoldsAnEnum(Walks):
    spec = gym.envs.registration.EnvSpec("Walk-v0", kwargs={"mode": NEXT_STEP})


@defect(r"spec must make the same environment again: reset\(seed=0\), row 0: observation\[0\] is")
class SpecOfAnotherEnvironment(Walks):
    spec = gym.envs.registration.EnvSpec(
        "CartPole-v1",
        vector_entry_point=f"{__name__}:OtherWalks",
        kwargs={"num_envs": 3, "vectorization_mode": "vector_entry_point"},
    )


class OtherWalks(Walks):
    def begin(self, mask):
        super().begin(mask)
        self.positions[mask] *= 0.5


@defect(r"reset\(seed=0\): np_random_seed is \d+; expected \(0, 1, 2\) or 0$")
class SeedIsNotTold(Walks):
    def reset(self, *, seed=None, options=None):
        returned = super().reset(seed=seed, options=options)
        self._np_random_seed = None
        return returned


@pytest.mark.filterwarnings("ignore:.*Casting input x")  # None is no observation
@pytest.mark.parametrize(("broken", "match", "mode", "single"), DEFECTS)
def test_defects_are_caught(broken, match, mode, single):
    env = broken() if broken is AutoresetModesDisagree else broken(autoreset_mode=mode)
    with pytest.raises(AssertionError, match=f"^{match}") as caught:
        check_vector_env(env, single)
    assert "\n" not in str(caught.value)


class OnePicture(Walks):
    def render(self):
        return np.concatenate(super().render())


class FramesOfTwoRows(Walks):
    def render(self):
        return super().render()[:2]


class FloatFrames(Walks):
    def render(self):
        return tuple(frame / 255 for frame in super().render())


class RenderMoves(Walks):
    def render(self):
        self.positions += 0.01
        return super().render()


class FramesAreOff(Walks):
    def render(self):
        return tuple(frame + np.uint8(1) for frame in super().render())


class Closing(Walk):
    """Takes the display away from all others, as pygame.quit does."""

    display = True

    def close(self):
        type(self).display = False


class FramesNeedTheDisplay(Walks):
    def __init__(self, **options):
        super().__init__(**options)
        Closing.display = True

    def render(self):
        if not Closing.display:
            raise RuntimeError("Surface is not initialized")
        return super().render()


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        (
            OnePicture,
            r"reset\(seed=0\): render\(\) returned uint8 array .*; expected a tuple of 3$",
        ),
        (
            FramesOfTwoRows,
            r"reset\(seed=0\): render\(\) returned a tuple of 2; expected a .* of 3$",
        ),
        (
            FloatFrames,
            r"reset\(seed=0\): render\(\), row 0: frame is float64 .*; expected uint8 arr",
        ),
        (RenderMoves, r"render must not change the rollout: step 1, row \d: "),
        (FramesAreOff, r"each frame must be the single environment's: reset\(seed=0\): frame\[0\]"),
        (
            FramesNeedTheDisplay,
            "render must work after other environments have closed: it raised RuntimeError: Surfa",
        ),
    ],
)
def test_defects_of_rendering_are_caught(broken, match):
    with pytest.raises(AssertionError, match=f"^{match}") as caught:
        check_vector_env(
            broken(render_mode="rgb_array"), lambda: TimeLimit(Closing("rgb_array"), STEPS)
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("single", [drawn_walk, limited_walk, False])
def test_rendering_without_a_defect(single):
    check_vector_env(Walks(render_mode="rgb_array"), single)


def test_an_ignored_mask_in_episodes_of_one_step():
    with pytest.raises(
        AssertionError, match=r"^DISABLED: reset must leave rows outside reset_mask"
    ):
        check_vector_env(MaskIgnored(max_episode_steps=1, autoreset_mode=DISABLED))


def test_a_mask_that_is_removed_from_the_options_is_a_warning():
    class MaskRemoved(Walks):
        def reset(self, *, seed=None, options=None):
            result = super().reset(seed=seed, options=options)
            (options or {}).pop("reset_mask", None)
            return result

    with pytest.warns(UserWarning, match="reset removed 'reset_mask' from the caller's options"):
        check_vector_env(MaskRemoved(autoreset_mode=DISABLED))


def test_not_a_vector_environment():
    with pytest.raises(
        AssertionError, match=r"^env is <.*; expected a gymnasium.vector.VectorEnv$"
    ):
        check_vector_env(Walk())


def test_cartpole_vector_environment():
    """Gymnasium's own breaks two rules: other starts than CartPole-v1's, and no listed seeds."""
    env = gym.make_vec("CartPole-v1", 3, "vector_entry_point")
    with pytest.raises(AssertionError, match=r"^row i must equal the single .*: reset\(seed=0\)"):
        check_vector_env(env)
    with pytest.raises(
        AssertionError, match=r"^reset\(seed=\[0, 1, 2\]\) must equal .* raised Error"
    ):
        check_vector_env(env, single=False)


def test_an_episode_number_is_no_start_of_a_seed():
    with pytest.raises(AssertionError, match=r"^the same seed must give the same rollout: reset"):
        check_vector_env(vector(Counting(), Counting()))


def test_sync_vector_environment_that_does_not_copy():
    with pytest.raises(AssertionError, match=r"^later calls must not change what was returned: "):
        check_vector_env(SyncVectorEnv([Chain] * 2, copy=False))


# Arguments ----------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """Walks under a name, for what make_vec writes into a spec."""
    monkeypatch.setattr(gym.envs.registration, "registry", gym.registry.copy())
    gym.register("Walk-v0", Walk, vector_entry_point=Walks, max_episode_steps=STEPS)


@pytest.mark.filterwarnings("ignore:.*spec does not survive JSON")  # it holds the classes
@pytest.mark.parametrize(
    "limit", [{}, {"max_episode_steps": 3}, {"max_episode_steps": None}], ids=str
)
def test_single_environment_of_a_spec(registered, limit):
    options = {"num_envs": 2, "autoreset_mode": "SameStep", **limit}
    env = gym.make_vec("Walk-v0", vectorization_mode="vector_entry_point", **options)
    check_vector_env(env)
    env.limit = 2
    with pytest.raises(
        AssertionError, match=r"^row i must equal .*: truncated is True, expected F"
    ):
        check_vector_env(env)


@pytest.mark.filterwarnings("ignore:.*spec does not survive JSON")  # it holds the classes
@pytest.mark.parametrize(
    "limit", [{}, {"max_episode_steps": 3}, {"max_episode_steps": None}], ids=str
)
def test_single_environment_of_a_sync_spec(registered, limit):
    wrappers = [lambda env: TransformReward(env, lambda reward: reward + 1)]
    options = {"vector_kwargs": {"autoreset_mode": SAME_STEP}, "wrappers": wrappers, **limit}
    check_vector_env(gym.make_vec("Walk-v0", 2, "sync", **options))


def test_no_end_within_the_steps():
    with pytest.warns(UserWarning, match=r"No episode ended in 1 steps: autoreset was not checked"):
        check_vector_env(Walks(), max_steps=1)


def test_tolerance():
    check_vector_env(RewardIsOff(), limited_walk, atol=1e-2)


def test_other_seed():
    with pytest.raises(AssertionError, match=r"^reset\(seed=7\): observations is"):
        check_vector_env(ObservationDtype(), seed=7)


def global_states():
    numpy_state = str(np.random.get_state())  # noqa: NPY002
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


def test_nothing_else_is_touched():
    env, untouched = Walks(), Walks()
    for each in (env, untouched):
        each.action_space.seed(0)
        each.single_action_space.seed(0)
    states = global_states()
    check_vector_env(env, limited_walk)
    assert global_states() == states
    for space in ("action_space", "single_action_space"):
        one, other = (getattr(each, space).sample() for each in (env, untouched))
        np.testing.assert_array_equal(one, other)
    assert not env.closed
    env.step(env.action_space.sample())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", LATENTGYM_IDS)
def test_every_environment_of_this_package_passes(tiny_file, env_id, mode):
    edits = env_id.startswith("LatentEdit")
    task = {"backbone": tiny_file, "max_episode_steps": 6, "terminate_on_success": True}
    options = {"num_envs": 3, "autoreset_mode": mode, "render_mode": "rgb_array"}
    env = gym.make_vec(env_id, **options, **(task if edits else {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(env, atol=1e-4)
