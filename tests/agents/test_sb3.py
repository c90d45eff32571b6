import gymnasium as gym
import numpy as np
import pytest
from edits import make, make_vec
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from scripted import Chain, Counting, vector
from stable_baselines3 import DQN, PPO, SAC, HerReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from agents import SB3VecEnv

MODES = [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


class Telling(Counting):
    """Its resets have infos too."""

    def reset(self, **options):
        observation, _ = super().reset(**options)
        return observation, {"begun": self.episode, "only_reset": True}


def said(call, *args, **options):
    """The one line that a ValueError says."""
    with pytest.raises(ValueError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Equal to Stable-Baselines3's own -----------------------------------------------------------------


def assert_alike(ours, theirs, steps, seed=3, tolerance=None, whole_infos=True):
    """Both give the same, from reset on; returns the infos of the ended rows."""

    def compare(one, other):
        if isinstance(one, dict):
            assert one.keys() == other.keys()
            for key in one:
                compare(one[key], other[key])
        elif tolerance and isinstance(one, (np.ndarray, np.floating, float)):
            np.testing.assert_allclose(one, other, atol=tolerance)
        else:
            np.testing.assert_equal(one, other)

    ends = []
    ours.action_space.seed(seed)
    assert ours.seed(seed) == theirs.seed(seed)
    compare(ours.reset(), theirs.reset())
    for step in range(steps):
        if step == steps // 2:  # seeds are for one reset; then the random numbers go on
            compare(ours.reset(), theirs.reset())
        actions = np.stack([ours.action_space.sample() for _ in range(ours.num_envs)])
        (seen, rewards, ended, infos), expected = ours.step(actions), theirs.step(actions)
        compare(seen, expected[0])
        compare(rewards, expected[1])
        compare(ended, expected[2])
        assert (rewards.dtype, ended.dtype) == (np.float32, np.bool_)
        assert len(infos) == len(expected[3]) == ours.num_envs
        for mine, other, end in zip(infos, expected[3], ended, strict=True):
            assert mine.keys() <= other.keys()
            compare(mine, other if whole_infos or end else {key: other[key] for key in mine})
        for mine, other in zip(ours.reset_infos, theirs.reset_infos, strict=True):
            compare(mine, other)
        ends += [infos[row] for row in np.flatnonzero(ended)]
    return ends


@EVERY_MODE
def test_cartpole_as_in_dummy_vec_env(mode):
    def env():
        return gym.make("CartPole-v1", max_episode_steps=18)

    ours = SB3VecEnv(vector(*(env() for _ in range(4)), mode=mode))
    ends = assert_alike(ours, DummyVecEnv([env] * 4), 300)
    kinds = {end["TimeLimit.truncated"] for end in ends}
    assert kinds == {True, False}


@EVERY_MODE
def test_infos_as_in_dummy_vec_env(mode):
    def envs():
        cases = [(3, "terminated"), (1, "terminated"), (4, "truncated")]
        return [Telling(length, ends, tag) for tag, (length, ends) in enumerate(cases)]

    ours = SB3VecEnv(vector(*envs(), mode=mode))
    ends = assert_alike(ours, DummyVecEnv([lambda env=env: env for env in envs()]), 40)
    assert {"odd" in end for end in ends} == {True, False}
    assert all(end["terminal_observation"][2] == end["nested"]["count"] for end in ends)


@EVERY_MODE
@pytest.mark.parametrize("env_id", ["LatentEdit-v0", "LatentEditGoal-v0"])
def test_edits_as_in_dummy_vec_env(env_id, mode, tiny_file):
    ours = SB3VecEnv(make_vec(env_id, tiny_file, autoreset_mode=mode))
    theirs = DummyVecEnv([lambda: make(env_id, tiny_file)] * 3)
    # Singles let the judge look at each step, batches at the last one.
    ends = assert_alike(ours, theirs, 30, tolerance=1e-3, whole_infos=False)
    assert len(ends) >= 9
    assert all(end["TimeLimit.truncated"] and "is_success" in end for end in ends)


class Unmasked(VectorEnv):
    """Its infos have no masks, and one is named like a mask."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012
    render_mode = None

    def __init__(self):
        self.num_envs = 2
        self.single_observation_space = spaces.Box(0, 1, (1,))
        self.single_action_space = spaces.Discrete(2)

    def step(self, actions):
        infos = {"a": np.array([1, 2]), "_b": np.array([3, 4]), "c": {"d": np.array([5, 6])}}
        return np.zeros((2, 1)), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), infos


def test_infos_without_masks():
    *_, infos = SB3VecEnv(Unmasked()).step(np.zeros(2))
    cut = {"TimeLimit.truncated": False}
    assert infos == [{"a": 1, "_b": 3, "c": {"d": 5}} | cut, {"a": 2, "_b": 4, "c": {"d": 6}} | cut]


# Resets -------------------------------------------------------------------------------------------


def test_seed_and_options_are_for_one_reset(tiny_file):
    env, plain = (make_vec("LatentEdit-v0", tiny_file, autoreset_mode=m) for m in MODES)
    ours = SB3VecEnv(env)
    options = {"target": {"hair": "bun"}}
    ours.seed(7)
    ours.set_options(options)
    for arguments_ in ({"seed": 7, "options": options}, {}, {}):
        np.testing.assert_array_equal(ours.reset(), plain.reset(**arguments_)[0])
    assert "list" in said(ours.set_options, [{}, {}, {}])


@pytest.mark.parametrize("env", [gym.make_vec("CartPole-v1"), vector(Counting())], ids=str)
def test_resets_at_the_next_step_are_refused(env):
    assert said(SB3VecEnv, env) == (
        f"{env} resets a row at the next step, which Stable-Baselines3 cannot use; "
        'make it with autoreset_mode="SameStep"'
    )


def test_single_environments_are_refused():
    line = said(SB3VecEnv, Counting())
    assert line.endswith("is no vector environment; make one by gymnasium.make_vec")


# Attributes and methods ---------------------------------------------------------------------------


class Tagged(Counting):
    render_mode = None

    def plus(self, number, times=1):
        self.called = True
        return self.tag + number * times


def tagged(kind):
    envs = [Tagged(tag=tag) for tag in range(3)]
    if kind == "async":
        makers = [lambda env=env: env for env in envs]
        return SB3VecEnv(AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    env = vector(*envs, mode=AutoresetMode.SAME_STEP)
    return SB3VecEnv(RecordEpisodeStatistics(env) if kind == "wrapped" else env)


@pytest.mark.parametrize("kind", ["sync", "wrapped", "async"])
def test_rows_with_environments_of_their_own(kind):
    env = tagged(kind)
    assert env.get_attr("tag") == [0, 1, 2]
    assert env.get_attr("tag", 1) == [1]
    assert env.env_method("plus", 10, times=2) == [20, 21, 22]
    assert env.env_method("plus", 10, indices=[2, 0]) == [12, 10]
    env.set_attr("tag", [5])
    assert env.get_attr("tag") == [[5]] * 3
    assert env.env_is_wrapped(Monitor) == [False] * 3
    env.close()


def test_only_the_rows_asked_for():
    env = tagged("sync")
    env.set_attr("tag", 9, indices=[1])
    env.env_method("plus", 1, indices=2)
    assert env.get_attr("tag") == [0, 9, 2]
    assert [hasattr(each, "called") for each in env.vector_env.envs] == [False, False, True]
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    wrapped = SB3VecEnv(vector(Counting(), Monitor(Counting(tag=1)), mode=MODES[0]))
    assert wrapped.env_is_wrapped(Monitor) == [False, True]


def test_a_batched_environment_answers_for_all_rows(tiny_file):
    env = make_vec("LatentEditGoal-v0", tiny_file, autoreset_mode="SameStep")
    ours = SB3VecEnv(RecordEpisodeStatistics(env))
    assert ours.get_attr("tensors") == [False] * 3
    assert ours.get_attr("episode_count", [0]) == [0]  # the wrapper's
    achieved, desired = np.random.default_rng(0).random((2, 50, 8), np.float32)
    (rewards,) = ours.env_method("compute_reward", achieved, desired, [{}] * 50, indices=[0])
    np.testing.assert_array_equal(rewards, env.compute_reward(achieved, desired))
    ours.set_attr("extra", 4)
    assert env.extra == 4
    line = said(ours.set_attr, "extra", 5, indices=[1])
    assert line == "extra cannot be set for rows [1] alone, only for all"
    assert env.extra == 4
    assert not ours.has_attr("nothing")
    assert ours.env_is_wrapped(Monitor, [0, 1]) == [False, False]


@pytest.mark.parametrize("env_id", ["LatentEdit-v0", "CartPole-v1"])
def test_pictures(env_id, tiny_file):
    if env_id == "CartPole-v1":
        envs = [gym.make(env_id, render_mode="rgb_array") for _ in range(3)]
        plain = vector(*envs, mode=AutoresetMode.SAME_STEP)
    else:
        plain = make_vec(env_id, tiny_file, render_mode="rgb_array", autoreset_mode="SameStep")
    env = SB3VecEnv(plain)
    env.reset()
    picture = env.render()
    assert env.render_mode == "rgb_array"
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    first = plain.render()[0]
    np.testing.assert_array_equal(picture[: first.shape[0], : first.shape[1]], first)


def test_close():
    env = tagged("sync")
    env.close()
    assert env.vector_env.closed


# Stable-Baselines3's wrappers and helpers ---------------------------------------------------------


def counting():
    envs = [Counting(3), Counting(5, "truncated", tag=1)]
    return SB3VecEnv(vector(*envs, mode=AutoresetMode.SAME_STEP))


def episodes(env, steps=20):
    """The (return, length) of each episode that ends."""
    env.reset()
    found = [env.step(np.zeros(2, np.int64))[3] for _ in range(steps)]
    infos = [info["episode"] for row in found for info in row if "episode" in info]
    return {(float(info["r"]), int(info["l"])) for info in infos}


def test_monitors():
    assert episodes(VecMonitor(counting())) == {(6, 3), (15, 5)}
    base = vector(Counting(3), Counting(5), mode=AutoresetMode.SAME_STEP)
    assert episodes(SB3VecEnv(RecordEpisodeStatistics(base))) == {(6, 3), (15, 5)}


def test_normalised_terminal_observations():
    env = VecNormalize(counting())
    env.reset()
    infos = [env.step(np.zeros(2, np.int64))[3] for _ in range(3)][-1]
    last = env.unnormalize_obs(infos[0]["terminal_observation"])
    np.testing.assert_allclose(last, [0, 0, 3], atol=1e-4)
    assert abs(infos[0]["terminal_observation"][2]) < 3 - 0.1


def test_stacked_terminal_observations():
    env = VecFrameStack(counting(), 2)
    env.reset()
    infos = [env.step(np.zeros(2, np.int64))[3] for _ in range(3)][-1]
    np.testing.assert_array_equal(infos[0]["terminal_observation"], [0, 0, 2, 0, 0, 3])


class Fixed:
    def predict(self, observation, **_):
        return np.zeros(len(observation), np.int64), None


def test_evaluate_policy():
    returns, lengths = evaluate_policy(
        Fixed(), VecMonitor(counting()), 4, return_episode_rewards=True
    )
    assert sorted(zip(returns, lengths, strict=True)) == [(6, 3), (6, 3), (15, 5), (15, 5)]


class Successful(Counting):
    """Every other episode is a success, which only its last info tells."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated:
            info["is_success"] = self.episode % 2 == 0
        return observation, reward, terminated, truncated, info


@EVERY_MODE
def test_successes_reach_the_logger(mode):
    def env():
        return VecMonitor(SB3VecEnv(vector(Successful(2), Successful(2, tag=1), mode=mode)))

    agent = PPO("MlpPolicy", env(), n_steps=8, batch_size=16, n_epochs=1, device="cpu")
    evaluation = EvalCallback(env(), n_eval_episodes=4, eval_freq=8, verbose=0)
    agent.learn(16, callback=evaluation)
    assert sorted(evaluation._is_success_buffer) == [False, False, True, True]
    assert evaluation.last_mean_reward == 3
    assert np.mean(agent.ep_success_buffer) == 0.5
    assert {info["r"] for info in agent.ep_info_buffer} == {3.0}


# Learning -----------------------------------------------------------------------------------------


def moved(agent, steps):
    """Whether learning changes the policy and all of it stays finite."""
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(steps)
    after = list(agent.policy.parameters())
    assert all(p.isfinite().all() for p in after)
    return any((b != a).any() for b, a in zip(before, after, strict=True))


OFF_POLICY = dict(learning_starts=48, batch_size=16, buffer_size=500)


@EVERY_MODE
def test_algorithms_learn_edits(mode, tiny_file):
    def env(env_id):
        return SB3VecEnv(make_vec(env_id, tiny_file, 4, autoreset_mode=mode))

    options = dict(seed=0, device="cpu")
    on_policy = dict(n_steps=12, batch_size=24)
    assert moved(PPO("MlpPolicy", env("LatentEdit-v0"), **on_policy, **options), 48)
    assert moved(DQN("MlpPolicy", env("LatentEdit-v0"), **OFF_POLICY, **options), 80)
    assert moved(SAC("MlpPolicy", env("LatentEditContinuous-v0"), **OFF_POLICY, **options), 80)
    goals = DQN(
        "MultiInputPolicy",
        env("LatentEditGoal-v0"),
        replay_buffer_class=HerReplayBuffer,
        **OFF_POLICY,
        **options,
    )
    assert moved(goals, 80)


def test_truncations_are_stored_as_such(tiny_file):
    env = SB3VecEnv(make_vec("LatentEdit-v0", tiny_file, 2, autoreset_mode="SameStep"))
    agent = DQN("MlpPolicy", env, **OFF_POLICY, seed=0, device="cpu").learn(40)
    buffer = agent.replay_buffer
    ended = np.flatnonzero(buffer.dones[:20, 0])
    assert ended.tolist() == [6, 13]
    assert buffer.timeouts[ended].all()
    latents = buffer.next_observations[ended, 0, :8]
    starts = buffer.observations[ended + 1, 0, :8]
    assert (np.abs(latents - starts).max(axis=1) > 0.01).all()  # not the new start


def test_ppo_learns_a_chain():
    env = SB3VecEnv(vector(*(Chain() for _ in range(8)), mode=AutoresetMode.SAME_STEP))
    agent = PPO(
        "MlpPolicy",
        env,
        n_steps=32,
        batch_size=64,
        learning_rate=3e-3,
        gamma=0.7,
        policy_kwargs={"net_arch": [32]},
        seed=0,
        device="cpu",
    ).learn(5000)
    assert agent.predict(np.eye(5, dtype=np.float32), deterministic=True)[0].tolist() == [1] * 5
