"""Stable-Baselines3's algorithms as our agents: spaces, arguments, interrupts, torch's state."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from edits import arguments, make_vec
from gymnasium import spaces
from torch_states import float64

from agents import SB3VecEnv, evaluate
from agents.registry import load_agent, make_agent

QUICK = {
    "sb3-ppo": dict(n_steps=16, batch_size=16, net_arch=[8], n_epochs=1),
    "sb3-a2c": dict(net_arch=[8]),
    "sb3-dqn": dict(learning_starts=4, buffer_size=100, net_arch=[8]),
    "sb3-sac": dict(learning_starts=4, buffer_size=100, net_arch=[8]),
}


class Toy(gym.Env):
    """Episodes of five steps; observations are drawn, and actions are checked."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.interrupt_at = -1
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        if self.steps == self.interrupt_at:
            raise KeyboardInterrupt
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


BOX = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.parametrize("num_envs", [None, 2])
@pytest.mark.parametrize(
    ("kind", "observations", "actions"),
    [
        ("sb3-ppo", BOX, spaces.MultiDiscrete([3, 2])),
        ("sb3-ppo", spaces.MultiBinary(4), spaces.MultiBinary(3)),
        ("sb3-a2c", spaces.MultiDiscrete([3, 2]), spaces.Discrete(2)),
        ("sb3-ppo", BOX, spaces.Discrete(3, start=5)),
        ("sb3-dqn", spaces.Discrete(4, start=-2), spaces.Discrete(3, start=5)),
        ("sb3-ppo", BOX, spaces.MultiDiscrete([3, 2], start=[4, 7])),
        ("sb3-ppo", spaces.Dict(a=spaces.Discrete(3, start=1), b=BOX), spaces.Discrete(2)),
        ("sb3-sac", BOX, spaces.Box(-2, 2, (2,), np.float32)),
    ],
    ids=str,
)
def test_spaces_are_acted_in_saved_and_loaded(kind, observations, actions, num_envs, tmp_path):
    def one():
        return Toy(observations, actions)

    env = one()
    if num_envs:
        env = gym.vector.SyncVectorEnv([one] * num_envs, autoreset_mode="SameStep")
    agent = make_agent(kind, env, 0, **QUICK[kind]).learn(40)
    agent.save(tmp_path / "agent.safetensors")
    observations.seed(3)
    observation = observations.sample()
    expected, _ = agent.predict(observation)
    assert actions.contains(np.asarray(expected).astype(actions.dtype))
    for again in (None, one()):
        loaded = load_agent(tmp_path / "agent.safetensors", again)
        np.testing.assert_array_equal(loaded.predict(observation)[0], expected)
    assert evaluate(agent, one(), 3, seed=0).mean("length") == 5


@pytest.mark.parametrize(
    ("kind", "observations", "actions", "message"),
    [
        ("sb3-ppo", spaces.Tuple([BOX, BOX]), spaces.Discrete(2), "observation space is Tuple"),
        ("sb3-ppo", spaces.Dict(a=spaces.Dict(b=BOX)), spaces.Discrete(2), "observation space is"),
        ("sb3-sac", BOX, spaces.Discrete(2), "sb3-sac: The algorithm only supports"),
        ("sb3-dqn", BOX, spaces.MultiBinary(2), "sb3-dqn: The algorithm only supports"),
        (
            "sb3-ppo",
            spaces.Dict(image=spaces.Box(0, 255, (28, 30, 1), np.uint8)),
            spaces.Discrete(2),
            "images are 28 x 30 pixels; Stable-Baselines3's convolutions need at least 36 x 36",
        ),
    ],
    ids=str,
)
def test_spaces_it_cannot_handle_are_one_line(kind, observations, actions, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        make_agent(kind, Toy(observations, actions))


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"batch_size": 32.5}, "batch_size is 32.5; it must be a whole number"),
        ({"n_steps": 0}, "n_steps is 0; it must be at least 1"),
        ({"use_sde": "False"}, "use_sde is 'False'; it must be True or False"),
        ({"learning_rate": np.nan}, "learning_rate is nan; it must be finite"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"device": "cuda:99"}, "device is 'cuda:99'; torch cannot use it: "),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be from 0 to 4294967295"),
    ],
    ids=str,
)
def test_wrong_hyperparameters_are_one_line(hyperparameters, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        make_agent("sb3-ppo", gym.make("CartPole-v1"), **hyperparameters)


def test_whole_floats_are_ints():
    agent = make_agent("sb3-ppo", gym.make("CartPole-v1"), n_steps=64.0, batch_size=3.2e1)
    assert (agent.algorithm.n_steps, agent.algorithm.batch_size) == (64, 32)
    assert isinstance(agent.algorithm.batch_size, int)


@pytest.mark.parametrize("steps", [-5, 1.5, True, "many"])
def test_wrong_numbers_of_steps(steps):
    agent = make_agent("sb3-ppo", gym.make("CartPole-v1"), 0, **QUICK["sb3-ppo"])
    with pytest.raises(ValueError, match="total_timesteps is"):
        agent.learn(steps)
    assert agent.learn(0).num_timesteps == 0


@pytest.mark.parametrize("kind", ["sb3-ppo", "sb3-dqn"])
@pytest.mark.parametrize("step", [1, 3, 5, 6, 17, 18])
@pytest.mark.parametrize("vector", [False, True])
def test_an_interrupted_agent_learns_on(kind, step, vector):
    env = Toy(BOX, spaces.Discrete(2))
    env.interrupt_at = step
    trained_in = env
    if vector:
        trained_in = gym.vector.SyncVectorEnv([lambda: env], autoreset_mode="SameStep")
    agent = make_agent(kind, trained_in, 0, **QUICK[kind])
    with pytest.raises(KeyboardInterrupt):
        agent.learn(30)
    done = agent.num_timesteps
    agent.learn(30)
    assert agent.num_timesteps >= done + 30
    assert set(agent.episode_returns) == {5.0}  # no episode is a mixture of two


class Numbered(gym.Env):
    """Each observation is the number of the episode; they have no end."""

    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)
    episode = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        return np.full(1, self.episode, np.float32), {}

    def step(self, action):
        return np.full(1, self.episode, np.float32), 0.0, False, False, {}


def test_no_transition_joins_two_episodes():
    env = Numbered()
    agent = make_agent("sb3-dqn", env, 0, learning_starts=1000, buffer_size=100, net_arch=[4])
    agent.learn(10)
    env.reset()
    agent.learn(10)
    buffer = agent.algorithm.replay_buffer
    assert np.array_equal(buffer.observations[:20], buffer.next_observations[:20])


@pytest.mark.parametrize("kind", ["sb3-ppo", "sb3-dqn"])
@pytest.mark.parametrize("state", [float64, torch.inference_mode, torch.no_grad], ids="012")
def test_torchs_state_changes_nothing(kind, state):
    def learned():
        agent = make_agent(kind, gym.make("CartPole-v1"), 0, **QUICK[kind]).learn(64)
        agent.predict(np.zeros(4, np.float32))
        return agent.get_parameters()["policy"]

    with state():
        found, dtype = learned(), torch.get_default_dtype()
    assert dtype == (torch.float64 if state is float64 else torch.float32)
    for name, values in learned().items():
        assert torch.equal(values, found[name])


# Environments of tensors --------------------------------------------------------------------------


def steps_of(vec_env):
    vec_env.seed(0)
    results = [vec_env.reset()]
    for step in range(8):
        results.append(vec_env.step(np.array([step % 3, 1, 2])))
    return results


@pytest.mark.parametrize("env_id", ["LatentEdit-v0", "LatentEditGoal-v0", "LatentEditPixels-v0"])
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_adapter_sees_tensors_as_arrays(env_id, mode, tiny_file):
    found, expected = (
        steps_of(SB3VecEnv(make_vec(env_id, tiny_file, tensors=tensors, autoreset_mode=mode)))
        for tensors in (True, False)
    )
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_environments_of_tensors_are_evaluated_alike(mode, tiny_file):
    options = arguments("LatentEdit-v0", tiny_file, autoreset_mode=mode, max_episode_steps=4)
    envs = [gym.make_vec("LatentEdit-v0", 3, tensors=tensors, **options) for tensors in (1, 0)]
    agent = make_agent("dqn", envs[1], 0, net_arch=[8])
    found, expected = (evaluate(agent, env, 7, seed=0).values for env in envs)
    np.testing.assert_equal(found, expected)
