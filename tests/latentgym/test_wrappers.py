import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from latentgym.wrappers import FlattenInfos


def nested(flat):
    """Flat infos in dicts again, without their masks and with lists for arrays of objects."""
    infos = {}
    for key, value in flat.items():
        if key.startswith("_"):
            continue
        *path, last = key.split("/")
        inner = infos
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = nested(value) if isinstance(value, dict) else plain(value)
    return infos


def plain(value):
    return list(value) if value.dtype == object else value


def without_masks(infos):
    return {
        key: without_masks(value) if isinstance(value, dict) else plain(value)
        for key, value in infos.items()
        if not key.startswith("_")
    }


@pytest.mark.parametrize("mode", AutoresetMode)
def test_flat_infos_are_the_nested_ones(tiny_file, mode):
    options = {"backbone": tiny_file, "max_episode_steps": 3, "autoreset_mode": mode}
    env, plain = (gym.make_vec("LatentEdit-v0", num_envs=2, **options) for _ in range(2))
    env = FlattenInfos(env)
    assert env.autoreset_mode is mode and env.unwrapped.spec.id == "LatentEdit-v0"
    calls = [(env.reset(seed=0)[1], plain.reset(seed=0)[1])]
    for _ in range(3):
        actions = np.array([1, 2])
        returned, expected = env.step(actions), plain.step(actions)
        np.testing.assert_equal(returned[:4], expected[:4])
        calls.append((returned[4], expected[4]))
    for flat, infos in calls:
        np.testing.assert_equal(nested(flat), without_masks(infos))
        for part in (flat, flat.get("final_info", {})):
            for key, value in part.items():
                assert not isinstance(value, dict) or key == "final_info"
                assert key.startswith("_") or part[f"_{key}"].dtype == np.bool_
    np.testing.assert_array_equal(flat["_scores/kept"], infos["scores"]["_kept"])


@pytest.mark.parametrize("env_id", ["LatentEdit-v0", "latentgym/CartPole-v1"])
def test_torchrl_takes_it(tiny_file, env_id):
    envs = pytest.importorskip("torchrl.envs")
    options = {"backbone": tiny_file} if env_id == "LatentEdit-v0" else {}
    options |= {"max_episode_steps": 4, "autoreset_mode": "SameStep"}
    env = envs.GymWrapper(FlattenInfos(gym.make_vec(env_id, num_envs=2, **options)))
    rollout = env.rollout(8, break_when_any_done=False)
    assert rollout["next", "done"].squeeze(-1).sum(1).tolist() == [2, 2]
    assert any(key.startswith("rewards/") for key in rollout["next"].keys())  # noqa: SIM118
