import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from scipy.stats import bootstrap
from scripted import Counting, vector

from agents import EvaluationResult, evaluate

MODES = list(AutoresetMode)
EVERY_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)


class Fixed:
    """Always action 1; remembers what it saw."""

    def __init__(self):
        self.seen = []

    def predict(self, observation, deterministic=False):
        assert deterministic
        self.seen.append(observation)
        return np.ones(len(observation), dtype=np.int64), None


def result(*values):
    return EvaluationResult({"return": np.array(values, dtype=np.float64)})


# evaluate -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("episodes", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("ends", ["terminated", "truncated"])
@EVERY_MODE
def test_each_row_runs_its_share(mode, ends, episodes):
    lengths = [1, 4, 3]
    envs = [Counting(length, ends, tag) for tag, length in enumerate(lengths)]
    found = evaluate(Fixed(), vector(*envs, mode=mode), episodes, seed=5)
    assert len(found) == episodes
    expected = []
    for tag, length in enumerate(lengths):
        share = sum((episode + tag) % 3 == 2 for episode in range(episodes))
        assert share in (episodes // 3, episodes // 3 + 1)
        for episode in range(share):
            expected.append((10 * tag + episode, length * (length + 1) / 2, length))
    columns = (found.values[name] for name in ("label", "return", "length"))
    assert sorted(zip(*columns, strict=True)) == expected
    assert [env.seeds[0] for env in envs] == [5, 6, 7]


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_a_single_environment(ends):
    policy = Fixed()
    found = evaluate(policy, Counting(3, ends), 4, seed=9)
    assert found.values["return"].tolist() == [6.0] * 4
    assert found.values["length"].tolist() == [3.0] * 4
    assert found.values["label"].tolist() == [0, 1, 2, 3]
    assert policy.seen[0].shape == (1, 3)
    assert len(policy.seen) == 12  # no step is spent on a reset


@EVERY_MODE
def test_numbers_of_the_final_info(mode):
    envs = [Counting(2, tag=0), Counting(4, "truncated", tag=1)]
    values = evaluate(Fixed(), vector(*envs, mode=mode), 4, seed=0).values
    assert set(values) == {
        "return",
        "length",
        "label",
        "flag",
        "numpy_flag",
        "nested/count",
        "nested/deep/half",
        "odd",
    }
    assert {array.dtype for array in values.values()} == {np.dtype(np.float64)}
    second = values["length"] == 4
    assert (values["flag"] == second).all()
    assert (values["numpy_flag"] == second).all()
    assert (values["nested/count"] == values["length"]).all()
    assert (values["nested/deep/half"] == values["length"] / 2).all()
    # A number that an episode lacks is missing there, and in no other's place.
    assert (np.isnan(values["odd"]) == (values["label"] % 2 == 0)).all()
    assert (values["odd"][values["label"] % 2 == 1] == 7).all()


class Masked(gym.vector.VectorEnv):
    """Both rows end at each step; only row 0 has the info."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self):
        self.num_envs = 2

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 1)), {}

    def step(self, actions):
        mask, ended = np.array([True, False]), np.ones(2, dtype=np.bool_)
        infos = {
            "one": np.array([1.0, 99.0]),
            "_one": mask,
            "part": {"two": np.array([2.0, 99.0]), "_two": mask},
            "_part": ended,
            "unmasked": np.array([3.0, 3.0]),
        }
        return np.zeros((2, 1)), np.ones(2), ended, ~ended, infos


def test_masks_are_respected():
    values = evaluate(Fixed(), Masked(), 2).values
    assert set(values) == {"return", "length", "one", "part/two"}
    np.testing.assert_array_equal(values["one"], [1, np.nan])
    np.testing.assert_array_equal(values["part/two"], [2, np.nan])


@pytest.mark.parametrize("episodes", [0, -1])
def test_too_few_episodes(episodes):
    with pytest.raises(ValueError) as caught:
        evaluate(Fixed(), Counting(), episodes)
    assert str(caught.value) == f"episodes is {episodes}; it must be at least 1"


# EvaluationResult ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("kind", ["normal", "skewed", "success"])
def test_intervals_agree_with_scipy(kind, level):
    rng = np.random.default_rng(3)
    draw = {
        "normal": lambda: rng.normal(5, 2, 60),
        "skewed": lambda: rng.exponential(3, 60),
        "success": lambda: (rng.random(60) < 0.3).astype(float),
    }
    values = draw[kind]()
    found = result(*values)
    low, high = found.interval("return", level)
    assert found.mean("return") == pytest.approx(values.mean())
    assert low <= values.mean() <= high
    reference = bootstrap(
        (values,), np.mean, confidence_level=level, method="percentile", random_state=0
    ).confidence_interval
    assert (low, high) == pytest.approx(
        tuple(reference), abs=0.1 * (reference.high - reference.low)
    )
    assert found.interval("return", level) == (low, high)


def test_an_interval_of_equal_values():
    assert result(2.5, 2.5, 2.5).interval("return") == (2.5, 2.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes is 0; it must be at least 1"),
        ({"episodes": 1.5}, "episodes is 1.5; it must be a whole number"),
        ({"episodes": True}, "episodes is True; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments, message):
    env = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=message):
        evaluate(None, env, **arguments)


def test_an_environment_without_an_end_is_told(monkeypatch):
    class Endless(gym.Env):
        observation_space = action_space = gym.spaces.Discrete(2)
        steps = 0

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            self.steps += 1
            return 0, 0.0, self.steps == 30, False, {}

    class Policy:
        def predict(self, observation, **_):
            return np.zeros(len(observation), np.int64), None

    monkeypatch.setattr("agents.evaluation.PATIENCE", 20)
    with pytest.warns(UserWarning, match="no episode has ended for 20 steps; give the environment"):
        assert evaluate(Policy(), Endless(), 1).mean("length") == 30
