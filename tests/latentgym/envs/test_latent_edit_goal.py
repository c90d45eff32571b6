import re

import numpy as np
import pytest
from backbones import SCHEMA
from edits import make, make_vec, probabilities, realism, sampled
from gymnasium.vector import AutoresetMode
from stable_baselines3 import DQN, HerReplayBuffer

from gan_backbones import load

ENV_ID = "LatentEditGoal-v0"
KINDS = ("sparse", "dense")
every_kind = pytest.mark.parametrize("kind", KINDS)
LENGTHS = {"latent": 8, "target": 7, "start": 7, "attributes": 7, "realism": 2}


# What the class docstring says, in numpy ----------------------------------------------------------


def expected_reached(achieved, desired):
    wanted = desired[..., :-1] > 0.5
    has = achieved[..., :-1] > 0.5
    return (has | ~wanted).all(axis=-1) & (achieved[..., -1] >= desired[..., -1])


def expected_reward(achieved, desired, kind):
    if kind == "sparse":
        return np.where(expected_reached(achieved, desired), 0.0, -1.0)
    wanted = desired[..., :-1] > 0.5
    improbable = np.where(wanted, 1 - achieved[..., :-1].astype(float), 0).sum(axis=-1)
    lacking = np.maximum(desired[..., -1].astype(float) - achieved[..., -1], 0)
    return -improbable / np.maximum(wanted.sum(axis=-1), 1) - lacking


def random_goals(count=400, seed=0):
    """Pairs of goals, many of them on the thresholds or equal."""
    values = np.array([0, 0.1, 0.5, 0.500001, 0.9, 1], np.float32)
    achieved, desired = np.random.default_rng(seed).choice(values, (2, count, SCHEMA.size + 1))
    desired[::2, :-1] = np.eye(SCHEMA.size, dtype=np.float32)[np.arange(count // 2) % SCHEMA.size]
    return achieved, desired


def test_observations_are_what_is_seen_achieved_and_desired(tiny_file):
    tiny = load(tiny_file)
    env, plain = make(ENV_ID, tiny_file), make("LatentEdit-v0", tiny_file)
    results = [(each.reset(seed=3)[0], each.step(4)[0]) for each in (env, plain)]
    start_realism = realism(tiny, results[1][0][None, :8])
    for seen, flat in zip(*results, strict=True):
        assert seen in env.observation_space
        assert set(seen) == {"observation", "achieved_goal", "desired_goal"}
        latent, wanted = flat[None, :8], flat[8:15]
        achieved = np.concatenate([probabilities(tiny, latent)[0], realism(tiny, latent)])
        np.testing.assert_allclose(seen["achieved_goal"], achieved, atol=1e-4)
        np.testing.assert_array_equal(seen["desired_goal"][:-1], wanted)
        np.testing.assert_allclose(seen["desired_goal"][-1:], start_realism, atol=1e-4)
        np.testing.assert_array_equal(seen["observation"], np.delete(flat, np.s_[8:15]))


@pytest.mark.parametrize("parts", [["latent"], ["realism", "target", "start"]], ids=str)
def test_observation_has_the_named_parts_but_for_the_target(tiny_file, parts):
    env = make(ENV_ID, tiny_file, observation=parts)
    everything = make(ENV_ID, tiny_file, observation=[part for part in parts if part != "target"])
    seen, expected = env.reset(seed=0)[0], everything.reset(seed=0)[0]
    assert len(seen["observation"]) == sum(LENGTHS[part] for part in parts if part != "target")
    np.testing.assert_equal(seen, expected)


@pytest.mark.parametrize("parts", [["target"], ("target",)], ids=str)
def test_an_empty_observation_is_refused(tiny_file, parts):
    message = f"observation is {parts!r}; the target is in desired_goal: name another part"
    for each in (make, make_vec):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            each(ENV_ID, tiny_file, observation=parts)


# Rewards ------------------------------------------------------------------------------------------


@every_kind
def test_compute_reward_agrees_with_numpy_in_batches_and_one_by_one(tiny_file, kind):
    env = make(ENV_ID, tiny_file, reward=kind).unwrapped
    achieved, desired = random_goals()
    rewards = env.compute_reward(achieved, desired, [{}] * len(achieved))
    assert rewards.dtype == np.float32 and rewards.shape == (len(achieved),)
    np.testing.assert_allclose(rewards, expected_reward(achieved, desired, kind), atol=1e-6)
    assert {kind, len(np.unique(rewards)) > 2} in ({"sparse", False}, {"dense", True})
    ones = [env.compute_reward(*pair, {}) for pair in zip(achieved, desired, strict=True)]
    assert {type(one) for one in ones} == {float}
    np.testing.assert_array_equal(ones, rewards)
    deep = env.compute_reward(achieved.reshape(20, 20, -1), desired.reshape(20, 20, -1))
    np.testing.assert_array_equal(deep.ravel(), rewards)
    vector = make_vec(ENV_ID, tiny_file, reward=kind)
    np.testing.assert_array_equal(vector.compute_reward(achieved, desired), rewards)


@every_kind
def test_steps_pay_exactly_what_compute_reward_says(tiny_file, kind):
    env = make(ENV_ID, tiny_file, 100, reward=kind)
    observation, _ = env.reset(seed=0)
    paid = []
    for action in sampled(env, 60):
        observation, reward, *_, info = env.step(action)
        goals = observation["achieved_goal"], observation["desired_goal"]
        assert reward == env.unwrapped.compute_reward(*goals, info)
        assert reward == pytest.approx(expected_reward(*goals, kind), abs=1e-6)
        assert info["rewards"] == {"goal": reward}
        paid.append(reward)
    assert len(set(paid)) > 1


@every_kind
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_steps_pay_exactly_what_compute_reward_says(tiny_file, kind, mode):
    env = make_vec(ENV_ID, tiny_file, 3, 5, reward=kind, autoreset_mode=mode)
    env.reset(seed=0)
    ended = np.zeros(3, dtype=bool)
    for actions in sampled(env, 30):
        observation, rewards, terminated, truncated, infos = env.step(actions)
        fresh, ended = ended, terminated | truncated
        for row in range(3):
            seen = {key: value[row] for key, value in observation.items()}
            paid = infos
            if mode == AutoresetMode.SAME_STEP and ended[row]:
                seen, paid = infos["final_obs"][row], infos["final_info"]
            if mode == AutoresetMode.NEXT_STEP and fresh[row]:
                assert rewards[row] == 0
                continue
            goals = seen["achieved_goal"], seen["desired_goal"]
            assert rewards[row] == env.compute_reward(*goals, {}) == paid["rewards"]["goal"][row]
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})


@every_kind
def test_what_was_achieved_is_reached_once_it_is_desired(tiny_file, kind):
    env = make_vec(ENV_ID, tiny_file, 64, None, reward=kind, terminate_on_success=True)
    achieved = [env.reset(seed=0)[0]["achieved_goal"]]
    achieved += [env.step(actions)[0]["achieved_goal"] for actions in sampled(env, 20)]
    achieved = np.concatenate(achieved)
    assert env.compute_terminated(achieved, achieved, {}).all()
    rewards = env.compute_reward(achieved, achieved)
    wanted = achieved[:, :-1] > 0.5
    if kind == "sparse":
        assert (rewards == 0).all()
    else:  # minus what the wanted variants lack of certainty
        assert (rewards <= 0).all() and (rewards > -0.5).all()
    assert (wanted.sum(axis=1) == len(SCHEMA.names)).mean() > 0.5


# Ends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [True, False])
def test_compute_terminated_and_truncated(tiny_file, ends):
    env = make(ENV_ID, tiny_file, terminate_on_success=ends).unwrapped
    achieved, desired = random_goals()
    reached = expected_reached(achieved, desired)
    assert 10 < reached.sum() < 390
    terminated = env.compute_terminated(achieved, desired, {})
    np.testing.assert_array_equal(terminated, reached & ends)
    truncated = env.compute_truncated(achieved, desired, {})
    assert terminated.dtype == truncated.dtype == bool and not truncated.any()
    for pair, expected in zip(zip(achieved, desired, strict=True), reached & ends, strict=True):
        assert env.compute_terminated(*pair, {}) is bool(expected)
        assert env.compute_truncated(*pair, {}) is False


@pytest.mark.parametrize("ends", [True, False])
def test_terminates_where_the_goal_is_reached(tiny_file, ends):
    env = make(ENV_ID, tiny_file, 15, delta=1.0, terminate_on_success=ends, start="lacks_target")
    env.reset(seed=0)
    found = set()
    for action in sampled(env, 300):
        observation, reward, terminated, truncated, _ = env.step(action)
        reached = expected_reached(observation["achieved_goal"], observation["desired_goal"])
        assert terminated == (ends and reached) and reward == reached - 1
        found.add(bool(reached))
        if terminated or truncated:
            env.reset()
    assert found == {True, False}


# Arguments ----------------------------------------------------------------------------------------

SHAPING = {
    "realism_score": "logit",
    "realism_weight": 1.0,
    "attribute_score": "cosine",
    "attribute_weight": 1.0,
    "attribute_reward": "relative",
    "keep_weight": 0.0,
    "identity_weight": 1,
    "success_bonus": 5.0,
}


@pytest.mark.parametrize("name", SHAPING)
def test_reward_arguments_are_refused(tiny_file, name):
    message = (
        f"{name} is {SHAPING[name]!r}; it is no argument of goal environments, "
        "whose reward is one of: sparse, dense"
    )
    for each in (make, make_vec):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            each(ENV_ID, tiny_file, **{name: SHAPING[name]})


@pytest.mark.parametrize("kind", ["shaped", None, ["sparse"]], ids=str)
def test_unknown_rewards_are_refused(tiny_file, kind):
    for each in (make, make_vec):
        message = f"reward is {kind!r}; allowed: sparse, dense"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            each(ENV_ID, tiny_file, reward=kind)


# Hindsight ----------------------------------------------------------------------------------------


@every_kind
def test_stable_baselines_relabels_with_the_same_reward(tiny_file, kind):
    env = make(ENV_ID, tiny_file, 10, reward=kind)
    model = DQN(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs=dict(n_sampled_goal=4, goal_selection_strategy="future"),
        learning_starts=20,
        batch_size=16,
        policy_kwargs={"net_arch": [8]},
        seed=0,
    )
    model.learn(60)
    batch = model.replay_buffer.sample(256)
    achieved = batch.next_observations["achieved_goal"].numpy()
    desired = batch.observations["desired_goal"].numpy()
    relabelled = ~np.isin(desired[:, :-1], (0, 1)).all(axis=1)
    assert 100 < relabelled.sum() < 256
    rewards = batch.rewards.numpy()[:, 0]
    np.testing.assert_allclose(rewards, expected_reward(achieved, desired, kind), atol=1e-6)
    assert len(np.unique(rewards[relabelled])) > 1
