import copy
import functools
import inspect
import itertools
import json
import pickle
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import cartpole as classic
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics as RecordOne
from gymnasium.wrappers import RescaleObservation
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, PPO

import latentgym
from latentgym.envs import CartPoleEnv, CartPoleVectorEnv

IDS = ["latentgym/CartPole-v1", "latentgym/CartPolePixels-v1"]
MODES = list(AutoresetMode)
STEPS = 30
SHAPED = dict(reward="shaped", shaping_weight=3.0, gamma=0.9)


def make(id=IDS[0], max_episode_steps=STEPS, **options):
    return gym.make(id, max_episode_steps=max_episode_steps, **{**SHAPED, **options})


def make_vec(id=IDS[0], num_envs=4, max_episode_steps=STEPS, **options):
    options = {"max_episode_steps": max_episode_steps, **SHAPED, **options}
    return gym.make_vec(id, num_envs=num_envs, **options)


def singles(id=IDS[0], num_envs=4, mode=AutoresetMode.NEXT_STEP, **options):
    """Gymnasium's vector environment of single ones from gym.make."""
    one = functools.partial(make, id, disable_env_checker=True, **options)
    return SyncVectorEnv([one] * num_envs, autoreset_mode=mode)


def sampled(steps, num_envs=None, seed=0):
    return np.random.default_rng(seed).integers(2, size=(steps, num_envs) if num_envs else steps)


def balancing(observations):
    """Actions that keep the pole up."""
    return (observations @ [0.1, 0.5, 1.0, 1.0] > 0).astype(int)


def check_infos(infos, expected):
    assert infos.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            check_infos(infos[key], value)
        else:
            assert infos[key].dtype == value.dtype, key
            np.testing.assert_equal(list(infos[key]), list(value), err_msg=key)


def check_equal(returned, expected):
    """A reset's or step's return values are those of single environments, bit for bit."""
    for one, other in zip(returned[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    check_infos(returned[-1], expected[-1])


# The contract of Gymnasium ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reward": "shaped"}], ids=str)
def test_check_env_without_a_warning(monkeypatch, options):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The velocities are unbounded, as in Gymnasium's own.
        warnings.filterwarnings("ignore", ".*observation space m..imum value is -?infinity")
        check_env(gym.make(IDS[0], **options).unwrapped)


@pytest.mark.filterwarnings("ignore:.*already returned terminated")
@pytest.mark.parametrize("options", [{}, {"sutton_barto_reward": True}], ids=str)
def test_classic_reward_is_gymnasiums_cartpole(options):
    env, other = gym.make(IDS[0], **options), gym.make("CartPole-v1", **options)
    assert env.observation_space == other.observation_space
    assert env.action_space == other.action_space
    assert env.spec.max_episode_steps == other.spec.max_episode_steps
    assert env.spec.reward_threshold == other.spec.reward_threshold
    for seed in range(20):
        options = {"low": -0.2, "high": 0.1} if seed % 2 else None
        one, two = (e.reset(seed=seed, options=options) for e in (env, other))
        np.testing.assert_equal(one, two)
        for action in sampled(500, seed=seed):
            one, two = env.step(action), other.step(action)
            np.testing.assert_equal(one[:4], two[:4])
            assert [type(x) for x in one[:4]] == [np.ndarray, float, bool, bool]
            if one[2]:
                break
        np.testing.assert_equal(env.step(1)[1], other.step(1)[1])
        np.testing.assert_equal(env.reset(), other.reset())


@pytest.mark.parametrize("vector", [False, True])
def test_arguments_are_gymnasiums(vector):
    """Its parameters are ours, in the same order, with the same defaults."""
    ours, theirs = (
        (CartPoleVectorEnv, classic.CartPoleVectorEnv)
        if vector
        else (CartPoleEnv, classic.CartPoleEnv)
    )
    expected = list(inspect.signature(theirs).parameters.items())
    found = list(inspect.signature(ours).parameters.items())[: len(expected)]
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (name, one), (_, other) in zip(found, expected, strict=True):
        if name != "max_episode_steps":  # no limit, as in all vector environments of this package
            assert one.default == other.default


def test_rescaling_treats_it_as_gymnasiums_cartpole():
    low, high = np.float32([-1, -np.inf, -1, -np.inf]), np.float32([1, np.inf, 1, np.inf])
    env, other = (RescaleObservation(gym.make(i), low, high) for i in (IDS[0], "CartPole-v1"))
    np.testing.assert_array_equal(env.reset(seed=0)[0], other.reset(seed=0)[0])
    np.testing.assert_array_equal(env.step(1)[0], other.step(1)[0])


@pytest.mark.parametrize("id", IDS)
def test_sutton_and_bartos_reward(id):
    env = make_vec(id, 3, sutton_barto_reward=True, reward="classic", autoreset_mode="SameStep")
    env.reset(seed=0)
    for actions in sampled(60, 3):
        _, rewards, terminated, _, infos = env.step(actions)
        np.testing.assert_array_equal(rewards, np.where(terminated, -1.0, 0.0))
        assert not np.signbit(rewards[~terminated]).any()
        for row in np.flatnonzero(terminated):
            assert infos["final_info"]["rewards"]["alive"][row] == -1.0


def test_step_limit_is_reached_by_who_balances():
    env = gym.make(IDS[0], **SHAPED)
    observation, _ = env.reset(seed=0)
    terminated = truncated = False
    while not (terminated or truncated):
        observation, _, terminated, truncated, info = env.step(balancing(observation))
    assert truncated and not terminated and info["statistics"]["length"] == 500
    # The last state is not terminal, so its potential is not 0.
    assert abs(info["rewards"]["shaping"]) < 1.0


@pytest.mark.filterwarnings("ignore:.*already returned terminated")
def test_a_step_beyond_the_end_pays_nothing():
    env = CartPoleEnv()
    env.reset(seed=0)
    while not env.step(1)[2]:
        pass
    assert env.step(1)[1] == 0.0


@pytest.mark.parametrize("id", IDS)
def test_registration_is_idempotent_and_leaves_others_alone(id):
    spec = gym.spec(id)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latentgym.register_all()
    assert gym.spec(id) is spec


@pytest.mark.parametrize("id", IDS)
def test_spec_survives_json_and_pickle(id):
    env = make(id)
    json.loads(env.spec.to_json())
    for spec in (EnvSpec.from_json(env.spec.to_json()), pickle.loads(pickle.dumps(env.spec))):
        again = gym.make(spec)
        np.testing.assert_equal(again.reset(seed=3), env.reset(seed=3))
        np.testing.assert_equal(again.step(1), env.step(1))
        assert again.spec.max_episode_steps == STEPS


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("id", IDS)
def test_copied_environment_goes_on_where_it_was(id, vector, duplicate):
    env = (make_vec(id, 2) if vector else make(id)).unwrapped
    env.render_mode = "rgb_array"
    env.reset(seed=1)
    actions = sampled(60 if vector else 6, 2 if vector else None)
    env.step(actions[0])
    env.render()
    again = duplicate(env)
    for action in actions[1:]:
        np.testing.assert_equal(again.step(action), env.step(action))
    np.testing.assert_array_equal(again.render(), env.render())
    np.testing.assert_equal(again.reset(), env.reset())


@pytest.mark.filterwarnings("ignore")  # what gymnasium says of its own forks
def test_spawned_worker_sees_the_same():
    workers = AsyncVectorEnv([functools.partial(make, f"latentgym:{IDS[0]}")], context="spawn")
    try:
        other = singles(num_envs=1)
        check_equal(workers.reset(seed=8), other.reset(seed=8))
        check_equal(workers.step([1]), other.step([1]))
    finally:
        workers.close()


@pytest.mark.parametrize("id", IDS)
def test_global_random_state_is_left_alone(id):
    before = np.random.get_state()  # noqa: NPY002
    for env in (make(id), make_vec(id)):
        env.reset(seed=0)
        env.step(env.action_space.sample())
    np.testing.assert_equal(np.random.get_state(), before)  # noqa: NPY002


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("action", [-1, 2, 0.0, 0.5, None, "0", np.array([1])], ids=str)
def test_invalid_action(id, action):
    env = make(id).unwrapped
    env.reset(seed=0)
    message = f"action is {action!r}; allowed: Discrete(2)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        env.step(action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward": "sparse"}, "reward is 'sparse'; allowed: classic, shaped"),
        ({"reward": ["shaped"]}, "reward is ['shaped']; allowed: classic, shaped"),
        *(
            (
                {"shaping_weight": value},
                f"shaping_weight is {value!r}; it must be a finite number, 0 or more",
            )
            for value in (-1.0, float("nan"), float("inf"), "1", None)
        ),
        *(
            ({"gamma": value}, f"gamma is {value!r}; it must be a number from 0 to 1")
            for value in (1.1, -0.1, float("nan"), None)
        ),
        *(
            (
                {"sutton_barto_reward": value},
                f"sutton_barto_reward is {value!r}; allowed: True, False",
            )
            for value in ("False", None, 1)
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("id", IDS)
def test_bad_arguments(id, options, message):
    for maker in (make, make_vec):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            maker(id, **options)


def test_bad_render_modes_and_unknown_arguments():
    message = "render_mode is 'ansi'; allowed: None, 'human', 'rgb_array'"
    with pytest.raises(ValueError, match=f"^{message}$"):
        CartPoleEnv(render_mode="ansi")
    for maker in (CartPoleEnv, CartPoleVectorEnv):
        with pytest.raises(TypeError, match="unexpected keyword argument 'sutton_barto'"):
            maker(sutton_barto=True)


@pytest.mark.parametrize("id", IDS)
def test_reset_must_come_first(id):
    for env, action in ((make(id), 0), (make_vec(id, 2), [0, 0])):
        env = env.unwrapped
        with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before step$"):
            env.step(action)
        with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before get_state$"):
            env.get_state()


# Rewards and statistics ---------------------------------------------------------------------------


def expected_potential(observation, weight):
    position, angle = abs(float(observation[0])), np.degrees(abs(float(observation[2])))
    return weight * (1 - position / 2.4) * (1 - angle / 12)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    weight=st.floats(0, 20),
    gamma=st.sampled_from([1.0, 0.9]) | st.floats(0, 1),
)
def test_shaping_is_the_potentials_discounted_change(seed, weight, gamma):
    env = gym.make(IDS[0], reward="shaped", shaping_weight=weight, gamma=gamma)
    classic = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=seed)
    classic.reset(seed=seed)
    first = potential = expected_potential(observation, weight)
    discounted = 0.0
    for t, action in enumerate(sampled(500, seed=seed)):
        observation, reward, terminated, _, info = env.step(action)
        before, potential = potential, expected_potential(observation, weight) * (not terminated)
        assert info["rewards"]["shaping"] == pytest.approx(gamma * potential - before, abs=1e-4)
        assert reward == sum(info["rewards"].values())
        assert info["rewards"]["alive"] == classic.step(action)[1]
        discounted += gamma**t * info["rewards"]["shaping"]
        if terminated:
            break
    assert terminated
    # It telescopes: whatever was done, a fallen pole's shaping sums up to the same.
    assert discounted == pytest.approx(-first, abs=1e-5 + 1e-5 * weight)


def test_classic_reward_has_no_shaping():
    env = make(reward="classic")
    env.reset(seed=0)
    assert env.step(1)[4]["rewards"] == {"alive": 1.0, "shaping": 0.0}


@pytest.mark.parametrize("id", IDS)
def test_statistics_are_of_the_episode_so_far(id):
    env = make(id)
    for seed in range(3):  # the later episodes count anew
        _, info = env.reset(seed=seed)
        assert info == {}
        rewards, states = [], []
        for action in sampled(STEPS, seed=seed):
            _, reward, terminated, truncated, info = env.step(action)
            rewards.append(reward)
            states.append(np.abs(env.unwrapped.state))
            means = np.mean(states, axis=0)
            assert info["statistics"] == pytest.approx(
                {
                    "return": sum(rewards),
                    "length": len(rewards),
                    "mean_angle": np.degrees(means[2]),
                    "mean_position": means[0],
                }
            )
            if terminated or truncated:
                break
        types = {name: type(value) for name, value in info["statistics"].items()}
        assert types == {
            "return": float,
            "length": int,
            "mean_angle": float,
            "mean_position": float,
        }


@pytest.mark.parametrize("id", IDS)
def test_gymnasiums_statistics_of_one(id):
    env = RecordOne(make(id))
    env.reset(seed=0)
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(1)
        ended = terminated or truncated
    assert info["episode"]["r"] == pytest.approx(info["statistics"]["return"], abs=1e-5)
    assert info["episode"]["l"] == info["statistics"]["length"]


# Many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("mode", MODES)
def test_rows_are_single_environments(id, mode, num_envs):
    env, other = make_vec(id, num_envs, autoreset_mode=mode), singles(id, num_envs, mode)
    assert env.observation_space == other.observation_space
    assert env.single_observation_space == other.single_observation_space
    assert env.action_space == other.action_space
    bounds = {"low": -0.15, "high": 0.1}
    check_equal(env.reset(seed=11, options=bounds), other.reset(seed=11, options=bounds))
    terminations = truncations = 0
    for actions in sampled(150, num_envs):
        returned = env.step(actions)
        check_equal(returned, other.step(actions))
        terminations += returned[2].sum()
        truncations += returned[3].sum()
        if mode == AutoresetMode.DISABLED and (ended := returned[2] | returned[3]).any():
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            check_equal(env.reset(options=masks[0]), other.reset(options=masks[1]))
    assert terminations and truncations


def test_rows_are_single_environments_over_long_runs():
    env = make_vec(num_envs=67, max_episode_steps=200)
    other = singles(num_envs=67, max_episode_steps=200)
    returned = env.reset(seed=0), other.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(250):
        check_equal(*returned)
        astray = rng.random(67) < 0.2
        actions = np.where(astray, rng.integers(2, size=67), balancing(returned[0][0]))
        returned = env.step(actions), other.step(actions)


@pytest.mark.parametrize("id", IDS)
def test_an_ended_rows_next_action_is_ignored(id):
    envs = make_vec(id, 3, 4), make_vec(id, 3, 4)
    for env in envs:
        env.reset(seed=0)
        for _ in range(4):
            truncated = env.step(np.zeros(3, dtype=int))[3]
        assert truncated.all()
    one, other = envs[0].step(np.array([0, 1, 0])), envs[1].step(np.array([1, 0, 0]))
    np.testing.assert_equal(one, other)
    assert not one[1].any() and not one[2].any() and not one[3].any() and one[4] == {}


@pytest.mark.parametrize("limit", [None, -1])
def test_without_a_limit_nothing_is_truncated(limit):
    env = CartPoleVectorEnv(2, max_episode_steps=limit)
    observations, _ = env.reset(seed=0)
    for _ in range(600):
        observations, _, terminated, truncated, infos = env.step(balancing(observations))
        assert not truncated.any() and not terminated.any()
    assert infos["statistics"]["length"].tolist() == [600, 600]


@pytest.mark.parametrize("id", IDS)
def test_seeds_may_be_listed(id):
    env = make_vec(id, 3, 5)

    def start(**seed):
        env.reset(**seed)
        return env.unwrapped.state.copy()

    states = start(seed=20)
    np.testing.assert_array_equal(start(seed=[20, 21, 22]), states)
    again = start(seed=[22, None, np.int64(20)])
    np.testing.assert_array_equal(again[:, [0, 2]], states[:, [2, 0]])
    assert not np.array_equal(again[:, 1], states[:, 1])
    assert not np.array_equal(start(), start())
    with pytest.raises(ValueError, match=r"^seed has 2 values; expected num_envs=3$"):
        env.reset(seed=[1, 2])


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_is_read_and_only_its_rows_are_reset(id, mode):
    env = make_vec(id, 4, 7, autoreset_mode=mode)
    env.reset(seed=0)
    before = env.step(np.zeros(4, dtype=int))[0]
    mask = np.array([True, False, False, True])
    options = {"reset_mask": mask, "low": 0.01}
    observations, infos = env.reset(seed=[7, 8, 9, 10], options=options)
    assert options["reset_mask"] is mask and mask.tolist() == [True, False, False, True]
    assert infos == {}
    np.testing.assert_array_equal(observations[[1, 2]], before[[1, 2]])
    other = make_vec(id, 4)
    expected, _ = other.reset(seed=7, options={"low": 0.01})
    np.testing.assert_array_equal(observations[mask], expected[mask])
    np.testing.assert_array_equal(env.state[:, mask], other.state[:, mask])
    assert (env.state[:, mask] >= 0.01).all()
    for _ in range(6):
        _, _, _, truncated, infos = env.step(np.zeros(4, dtype=int))
    assert truncated.tolist() == [False, True, True, False]
    if mode == AutoresetMode.SAME_STEP:
        assert infos["final_info"]["statistics"]["length"].tolist() == [0, 7, 7, 0]
        return
    assert infos["statistics"]["length"].tolist() == [6, 7, 7, 6]
    # The rows outside the mask kept their own random numbers.
    other.reset(seed=0)
    env.reset(), other.reset()
    np.testing.assert_array_equal(env.state[:, 1:3], other.state[:, 1:3])


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (np.array([True]), ValueError),
        (np.ones((2, 1), dtype=bool), ValueError),
        (np.array([False, False]), ValueError),
    ],
    ids=str,
)
def test_bad_reset_masks(mask, error):
    env = make_vec(num_envs=2)
    env.reset(seed=0)
    with pytest.raises(error, match=r"^options\['reset_mask'\] is .*; expected "):
        env.reset(options={"reset_mask": mask})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([1], "options is [1]; expected a dict"),
        ({"low": 1, "high": 0}, "options['low'] is 1.0; it must not be above options['high'], 0.0"),
        (
            {"low": -1e308, "high": 1e308},
            "options['low'] is -1e+308 and options['high'] 1e+308: too far apart",
        ),
        ({"low": 0.1}, "options['low'] is 0.1; it must not be above options['high'], 0.05"),
        *(
            ({"high": bound}, f"options['high'] is {bound!r}; expected a finite number")
            for bound in ("a", None, float("nan"), float("inf"))
        ),
        ({"lo": 0}, "options has the key 'lo'; allowed: low, high"),
        ({"latent": 0}, "options has the key 'latent'; allowed: low, high"),
    ],
    ids=str,
)
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("id", IDS)
def test_a_refused_reset_changes_nothing(id, vector, options, message):
    env, untouched = (make_vec(id) if vector else make(id) for _ in range(2))
    for each in (env, untouched):
        each.reset(seed=0)
    message += ", reset_mask" if vector and "allowed" in message else ""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        env.reset(seed=5, options=options)
    for action in sampled(4, 4 if vector else None):
        np.testing.assert_equal(env.step(action), untouched.step(action))
    np.testing.assert_equal(env.reset(), untouched.reset())


def test_the_first_reset_is_of_all_rows():
    env = make_vec(num_envs=2)
    with pytest.raises(gym.error.ResetNeeded, match=r"^the first reset must begin all rows"):
        env.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step([0, 0])
    env.reset(seed=0, options={"reset_mask": np.array([True, True])})
    env.step([0, 0])


@pytest.mark.parametrize(
    "actions",
    [[0.0, 1.0], [0, 2], [-1, 0], [0, 1, 1], [[0, 1]], 0, None, ["0", "1"], [True, False]],
    ids=str,
)
def test_invalid_actions(actions):
    env = make_vec(num_envs=2)
    env.reset(seed=0)
    before = env.state.copy()
    with pytest.raises(ValueError, match=r"^actions are [^\n]*; allowed: MultiDiscrete[^\n]*$"):
        env.step(actions)
    np.testing.assert_array_equal(env.state, before)


def test_integer_actions_of_any_type_are_the_same():
    results = []
    for actions in ([1, 0], (1, 0), np.array([1, 0], dtype=np.uint8), np.array([1, 0], np.int32)):
        env = make_vec(num_envs=2)
        env.reset(seed=0)
        results.append(env.step(actions))
    for result in results[1:]:
        np.testing.assert_equal(result, results[0])


@pytest.mark.parametrize("id", IDS)
def test_disabled_mode_refuses_to_step_an_ended_row(id):
    env = make_vec(id, 3, 5, autoreset_mode="Disabled")
    env.reset(seed=0)
    zeros = np.zeros(3, dtype=int)
    env.step(zeros)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(4):
        truncated = env.step(zeros)[3]
    assert truncated.tolist() == [True, False, True]
    state = env.state.copy()
    with pytest.raises(gym.error.ResetNeeded, match=r"^rows \[0, 2\] have ended: reset them with"):
        env.step(zeros)
    np.testing.assert_array_equal(env.state, state)
    env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"^rows \[2\] have ended"):
        env.step(zeros)
    env.reset(options={"reset_mask": np.array([False, False, True])})
    assert env.step(zeros)[3].tolist() == [False, True, False]


def arrays(returned):
    """All arrays in what a reset or step returned."""
    if isinstance(returned, dict):
        returned = tuple(returned.values())
    if isinstance(returned, tuple):
        return [array for value in returned for array in arrays(value)]
    if isinstance(returned, np.ndarray) and returned.dtype == object:
        return [returned, *(value for value in returned if value is not None)]
    return [returned]


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_returned_is_used_again(id, mode):
    env, untouched = (make_vec(id, 3, 6, autoreset_mode=mode) for _ in range(2))

    def both(call):
        returned, expected = call(env), call(untouched)
        check_equal(returned, expected)
        now = arrays(returned)
        for one, other in [*itertools.combinations(now, 2), *itertools.product(now, before)]:
            assert one is not other and not np.shares_memory(one, other)
        for array in now:
            array[:] = 1
        before[:] = now
        return expected

    before = []
    both(lambda e: e.reset(seed=0))
    for actions in sampled(20, 3):
        given = [actions.copy(), actions.copy()]
        _, _, terminated, truncated, _ = both(lambda e: e.step(given[e is env]))  # noqa: B023
        given[1][:] = 0
        if mode == AutoresetMode.DISABLED and (mask := terminated | truncated).any():
            given = [{"reset_mask": mask.copy()}, {"reset_mask": mask.copy()}]
            both(lambda e: e.reset(options=given[e is env]))  # noqa: B023
            given[1]["reset_mask"][:] = True


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_statistics_of_many(id, mode):
    env = RecordEpisodeStatistics(make_vec(id, 3, autoreset_mode=mode))
    env.reset(seed=0)
    episodes = 0
    for actions in sampled(100, 3):
        _, _, terminated, truncated, infos = env.step(actions)
        if not (ended := terminated | truncated).any():
            continue
        episodes += ended.sum()
        own = infos["final_info"] if mode == AutoresetMode.SAME_STEP else infos
        theirs = own if "episode" in own else infos
        np.testing.assert_array_equal(theirs["_episode"], ended)
        for name, key in (("return", "r"), ("length", "l")):
            np.testing.assert_allclose(
                theirs["episode"][key][ended], own["statistics"][name][ended], rtol=1e-5
            )
        if mode == AutoresetMode.DISABLED:
            env.reset(options={"reset_mask": ended.copy()})
    assert episodes >= 10


@pytest.mark.parametrize("id", IDS)
def test_make_vec(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec(id, num_envs=3, **SHAPED)
        short = gym.make_vec(f"latentgym:{id}", num_envs=3, max_episode_steps=5, **SHAPED)
    assert type(env).__name__.endswith("VectorEnv") and env.spec.id == id and env.num_envs == 3
    assert env.max_episode_steps == 500
    sync = gym.make_vec(id, 3, "sync", **SHAPED)
    check_equal(env.reset(seed=4), sync.reset(seed=4))
    check_equal(env.step([0, 1, 1]), sync.step([0, 1, 1]))
    short.reset(seed=0)
    assert [short.step([0, 1, 0])[3].all() for _ in range(5)] == [False] * 4 + [True]
    for each in (env, sync, short):
        each.close()
        each.close()


def test_autoreset_mode_is_each_instances_own():
    envs = [CartPoleVectorEnv(1, autoreset_mode=mode) for mode in MODES]
    envs += [CartPoleVectorEnv(1, autoreset_mode=mode.value) for mode in MODES]
    for env, mode in zip(envs, MODES * 2, strict=True):
        assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode
    assert "autoreset_mode" not in CartPoleVectorEnv.metadata


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be an integer of at least 1"),
        ({"render_mode": "human"}, "render_mode is 'human'; allowed: None, 'rgb_array'"),
        ({"autoreset_mode": "never"}, "'never' is not a valid AutoresetMode"),
        (
            {"max_episode_steps": 0},
            "max_episode_steps is 0; allowed: at least 1, or None or -1",
        ),
        (
            {"max_episode_steps": 2.5},
            "max_episode_steps is 2.5; allowed: at least 1, or None or -1",
        ),
    ],
    ids=str,
)
def test_bad_arguments_of_many(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CartPoleVectorEnv(**options)


# Saved episodes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("id", IDS)
def test_a_saved_episode_goes_on_exactly(id, fresh):
    env = make(id, max_episode_steps=-1)
    env.reset(seed=3, options={"low": -0.1, "high": 0.1})
    actions = sampled(100)
    for action in actions[:5]:
        env.step(action)
    state = pickle.loads(pickle.dumps(env.unwrapped.get_state()))

    def go_on(env):
        run = []
        for action in actions[5:]:
            run.append(env.step(action))
            if run[-1][2]:
                run.append(env.reset())
        return run

    expected = go_on(env)
    other = make(id, max_episode_steps=-1).unwrapped if fresh else env
    kept = copy.deepcopy(state)
    other.unwrapped.set_state(state)
    np.testing.assert_equal(other.unwrapped.get_state(), kept)
    np.testing.assert_equal(go_on(other), expected)
    np.testing.assert_equal(state, kept)
    other.unwrapped.set_state(state)
    np.testing.assert_equal(go_on(other), expected)


@pytest.mark.filterwarnings("ignore:.*already returned terminated")
def test_an_ended_episode_stays_ended():
    env, other = CartPoleEnv(), CartPoleEnv()
    env.reset(seed=0)
    while not env.step(1)[2]:
        pass
    other.set_state(env.get_state())
    np.testing.assert_equal(other.step(1), env.step(1))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("id", IDS)
def test_many_saved_episodes_go_on_exactly(id, mode, fresh):
    env = make_vec(id, 3, autoreset_mode=mode)
    env.reset(seed=[3, 4, 90])
    actions = sampled(100, 3)

    def go_on(env, actions):
        run = []
        for action in actions:
            run.append(env.step(action))
            if mode == AutoresetMode.DISABLED and (mask := run[-1][2] | run[-1][3]).any():
                run.append(env.reset(options={"reset_mask": mask}))
        return run

    ended = False
    while not ended:  # some rows have ended, others have not
        *_, terminated, truncated, _ = env.step(actions[0])
        ended = (terminated | truncated).any() and not (terminated | truncated).all()
    state = pickle.loads(pickle.dumps(env.get_state()))
    if mode == AutoresetMode.DISABLED:
        mask = state["ended"].copy()
        expected = [env.reset(options={"reset_mask": mask}), *go_on(env, actions)]
    else:
        expected = go_on(env, actions)
    other = make_vec(id, 3, autoreset_mode=mode) if fresh else env
    kept = copy.deepcopy(state)
    for _ in range(2):
        other.set_state(state)
        np.testing.assert_equal(other.get_state(), kept)
        if mode == AutoresetMode.DISABLED:
            with pytest.raises(gym.error.ResetNeeded):
                other.step(actions[0])
            run = [other.reset(options={"reset_mask": mask}), *go_on(other, actions)]
        else:
            run = go_on(other, actions)
        for one, two in zip(run, expected, strict=True):
            check_equal(one, two)
    np.testing.assert_equal(state, kept)


@pytest.mark.parametrize("id", IDS)
def test_wrong_states_are_refused(id):
    env, vector, more = make(id).unwrapped, make_vec(id, 2), make_vec(id, 3)
    for each in (env, vector, more):
        each.reset(seed=0)
    good = env.get_state()
    wrong = [
        (env, None, "state is None; expected a dict of get_state()"),
        (env, {}, "state has the keys []; expected ['distance', 'length', "),
        (env, {**good, "more": 1}, "state has the keys ['distance', "),
        (env, vector.get_state(), "state has the keys ["),
        (
            env,
            good | {"state": np.zeros(3)},
            "state['state'] is an array of float64 [3]; expected an array of float64 [4]",
        ),
        (env, good | {"state": [0, 0, 0, 0]}, "state['state'] is a list of 4; expected an array"),
        (env, good | {"random": 3}, "state['random'] is int; expected dict"),
        (env, good | {"random": {"a": 1}}, "no state of a random generator: {'a': 1}"),
        (vector, good, "state has the keys ["),
        (
            vector,
            more.get_state(),
            "state['state'] is an array of float64 [4, 3]; expected an array of float64 [4, 2]",
        ),
        (
            vector,
            vector.get_state() | {"random": [None, None]},
            "no state of a random generator: None",
        ),
    ]
    for each, state, message in wrong:
        before = each.get_state()
        with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
            each.set_state(state)
        np.testing.assert_equal(each.get_state(), before)


# Rendering ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", IDS)
def test_pictures_are_gymnasiums(id):
    env, other = make(id, render_mode="rgb_array"), gym.make("CartPole-v1", render_mode="rgb_array")
    vector = make_vec(id, 3, render_mode="rgb_array")
    for each in (env, other):
        each.reset(seed=1)
    vector.reset(seed=0)
    for _ in range(3):
        np.testing.assert_array_equal(env.render(), other.render())
        pictures = vector.render()
        assert isinstance(pictures, tuple) and len(pictures) == 3
        np.testing.assert_array_equal(pictures[1], other.render())
        grid = vector.unwrapped.render_grid()
        assert grid.shape == (802, 1202, 3) and grid.dtype == np.uint8
        np.testing.assert_array_equal(grid[:400, 602:], other.render())
        env.step(1), other.step(1), vector.step([1, 1, 1])
    for each in (env, other, vector):
        each.unwrapped.length = 0.8  # a longer pole
    np.testing.assert_array_equal(env.render(), other.render())
    np.testing.assert_array_equal(vector.render()[1], other.render())
    assert make_vec(id).render() is None
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before render$"):
        make_vec(id, render_mode="rgb_array").render()


@pytest.mark.parametrize("id", IDS)
def test_a_cart_far_away_is_not_seen(id):
    options = {"render_mode": "rgb_array", "disable_env_checker": True}
    env, other = (make(id, **options) for _ in range(2))
    env.reset(seed=0, options={"low": 1e6, "high": 1e6})
    other.reset(seed=0, options={"low": 20, "high": 20})
    np.testing.assert_array_equal(env.render(), other.render())


@pytest.mark.parametrize("id", IDS)
def test_human_mode(id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(CartPoleEnv.metadata, "render_fps", 1000)
    env, silent = make(id, render_mode="human"), make(id)
    np.testing.assert_equal(env.reset(seed=0), silent.reset(seed=0))
    np.testing.assert_equal(env.step(1), silent.step(1))
    assert env.render() is None
    env.close()
    env.close()


# Training -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", [DQN, PPO])
def test_stable_baselines_trains(agent):
    steps = {"n_steps": 64} if agent is PPO else {"learning_starts": 50}
    model = agent("MlpPolicy", make(), seed=0, device="cpu", **steps)
    model.learn(200)
    assert model.ep_info_buffer and 1 <= model.ep_info_buffer[0]["l"] <= STEPS
