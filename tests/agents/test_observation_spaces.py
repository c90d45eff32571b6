"""Our agents in environments whose observations are choices, bits, and several things at once."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from scripted import Counting, vector

from agents import DQN, Reinforce, evaluate
from agents.observations import encode, encoded_size
from agents.space_json import space_from_json, space_to_json

SPACES = {
    "Discrete": spaces.Discrete(6),
    "Discrete from -3": spaces.Discrete(6, start=-3),
    "MultiDiscrete": spaces.MultiDiscrete([6, 3]),
    "MultiDiscrete from 5": spaces.MultiDiscrete([6, 2], start=[5, -1]),
    "MultiDiscrete of two axes": spaces.MultiDiscrete([[6, 2], [3, 1]]),
    "MultiBinary": spaces.MultiBinary(6),
    "MultiBinary of two axes": spaces.MultiBinary([2, 3]),
    "Box of no axes": spaces.Box(0, 5, ()),
    "Box of three axes": spaces.Box(0, 5, (2, 3, 1)),
    "Tuple": spaces.Tuple([spaces.Discrete(6), spaces.Box(0, 1, (2,)), spaces.MultiBinary(2)]),
    "Dict": spaces.Dict({"x": spaces.Discrete(6, start=2), "y": spaces.MultiDiscrete([2, 2])}),
}
EVERY_SPACE = pytest.mark.parametrize("name", SPACES)
AGENTS = {
    "dqn": lambda env: DQN(
        env,
        learning_rate=1e-2,
        learning_starts=50,
        batch_size=32,
        buffer_size=300,
        gamma=0.0,
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
        net_arch=(16,),
        seed=0,
    ),
    "reinforce": lambda env: Reinforce(
        env, learning_rate=0.03, gamma=0.0, n_episodes=8, net_arch=(16,), seed=0
    ),
}
KINDS = pytest.mark.parametrize("kind", AGENTS)


def encoded(space, number):
    """An observation of ``space`` that tells a number from 0 to 5."""
    if isinstance(space, spaces.Discrete):
        return space.start + number
    if isinstance(space, spaces.MultiDiscrete):
        first = np.zeros(space.shape, space.dtype)
        first.flat[0] = number
        return first + space.start
    if isinstance(space, spaces.MultiBinary):
        bits = np.zeros(space.shape, space.dtype)
        bits.flat[number % bits.size] = 1
        return bits
    if isinstance(space, spaces.Box):
        return np.full(space.shape, min(number, space.high.max()), space.dtype)
    if isinstance(space, spaces.Dict):
        return {key: encoded(part, number) for key, part in space.spaces.items()} | {
            "y": np.zeros(2, np.int64)
        }
    return tuple(encoded(part, number) for part in space.spaces)


class Guess(gym.Env):
    """Three steps: is the observed number above 2? The actions are 7 (no) and 8 (yes)."""

    def __init__(self, space):
        self.observation_space, self.action_space = space, spaces.Discrete(2, start=7)

    def observe(self):
        self.number = int(self.np_random.integers(6))
        observation = encoded(self.observation_space, self.number)
        assert observation in self.observation_space
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        assert action in self.action_space
        reward = float((action == 8) == (self.number > 2))
        self.steps += 1
        return self.observe(), reward, self.steps == 3, self.steps == 3, {}


@KINDS
@EVERY_SPACE
def test_learning_from_every_space(name, kind, tmp_path):
    space = SPACES[name]
    mode = list(AutoresetMode)[list(SPACES).index(name) % 3]  # each mode has its turn
    env = vector(*(Guess(space) for _ in range(4)), mode=mode)
    agent = AGENTS[kind](env).learn(900)
    agent.save(tmp_path / "agent")
    loaded = type(agent).load(tmp_path / "agent")
    assert loaded.observation_space == space
    for learner in (agent, loaded):
        for number in range(6):
            action, _ = learner.predict(encoded(space, number))
            assert (action.shape, action.dtype) == ((), np.int64)
            assert action == 7 + (number > 2)
    assert evaluate(loaded, Guess(space), 3, seed=1).mean("return") == 3


@EVERY_SPACE
@pytest.mark.parametrize("mode", [None, *AutoresetMode])
@KINDS
def test_every_mode_and_space(name, mode, kind):
    envs = [Guess(SPACES[name]) for _ in range(2)]
    agent = AGENTS[kind](vector(*envs, mode=mode) if mode else envs[0])
    agent.learn(70)
    assert agent.num_timesteps >= 70


def test_transitions_of_a_tuple_as_they_happened():
    space = spaces.Tuple([spaces.Discrete(9, start=3), spaces.Box(0, 9, (1,))])

    class Pairs(Counting):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.observation_space = space

        def observe(self):
            return 3 + self.count, np.array([self.count], np.float32)

    for mode in AutoresetMode:
        agent = DQN(vector(Pairs(3), Pairs(4), mode=mode), seed=0).learn(40)
        batch = agent.buffer.sample(500, torch.Generator().manual_seed(0))
        first, second = batch.observations["0"], batch.observations["1"]
        assert first.dtype == torch.int64  # not one-hot
        assert first.shape == (500,)
        assert torch.equal(first - 3, second[:, 0].long())
        assert torch.equal(batch.next_observations["0"], first + 1)


@EVERY_SPACE
def test_spaces_survive_json(name):
    found = space_from_json(space_to_json(SPACES[name]))
    assert found == SPACES[name]
    assert found.dtype == SPACES[name].dtype


def test_encoding_by_hand():
    space = spaces.MultiDiscrete([3, 2], start=[5, -1])
    rows = encode(space, torch.tensor([[5, -1], [7, 0]]))
    assert rows.tolist() == [[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]]
    assert rows.dtype == torch.float32
    assert encoded_size(space) == 5
    assert encode(spaces.Discrete(3, start=1), torch.tensor([2])).tolist() == [[0, 1, 0]]


@KINDS
@pytest.mark.parametrize(
    ("name", "observation", "line"),
    [
        ("Discrete", 6, "observation is outside its space, Discrete(6)"),
        ("Discrete from -3", [-4], "observation is outside its space, Discrete(6, start=-3)"),
        ("Discrete", [[1]], "observation has shape (1, 1); expected () or (N,)"),
        ("Discrete", "x", "observation has dtype <U1; expected numbers"),
        ("MultiDiscrete", [1, 3], "observation is outside its space, MultiDiscrete([6 3])"),
        ("Tuple", (1, 2), "observation is tuple; expected a tuple of 3"),
        ("Tuple", 1, "observation is int; expected a tuple of 3"),
        ("Dict", {"x": 2}, "observation has the keys ['x']; expected ['x', 'y']"),
        ("Dict", 1, "observation is int; expected a dict with the keys ['x', 'y']"),
        ("Box of no axes", np.nan, "observation contains nan; it must be finite"),
        ("Box of no axes", None, "observation has dtype object; expected numbers"),
    ],
)
def test_observations_that_predict_refuses(kind, name, observation, line):
    agent = AGENTS[kind](Guess(SPACES[name]))
    with pytest.raises(ValueError) as caught:
        agent.predict(observation)
    assert str(caught.value) == line


@KINDS
def test_predict_takes_tensors(kind):
    agent = AGENTS[kind](Guess(SPACES["Dict"]))
    tensors = {"x": torch.tensor([2, 7]), "y": torch.zeros(2, 2, dtype=torch.int64)}
    arrays = {key: value.numpy() for key, value in tensors.items()}
    found = agent.predict(tensors)[0]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, agent.predict(arrays)[0])
    one = {key: value[0] for key, value in tensors.items()}
    assert agent.predict(one)[0] == found[0]


@pytest.mark.parametrize("env_id", ["Taxi", "FrozenLake", "CliffWalking", "Blackjack"])
@KINDS
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_toy_texts(env_id, kind, num_envs):
    if kind == "reinforce" and env_id == "CliffWalking":
        return  # without a limit on steps an episode is far too long for a policy that is random
    env = gym.make_vec(env_id, num_envs) if num_envs > 1 else gym.make(env_id)
    agent = AGENTS[kind](env).learn(60)
    assert agent.num_timesteps >= 60


@pytest.mark.slow
def test_cliff_walking_is_solved():
    agent = DQN(
        gym.make("CliffWalking", max_episode_steps=200),
        learning_rate=1e-3,
        learning_starts=500,
        target_update_interval=250,
        exploration_fraction=0.5,
        net_arch=(64,),
        seed=0,
    ).learn(20_000)
    result = evaluate(agent, gym.make("CliffWalking", max_episode_steps=200), 1, seed=0)
    assert result.mean("return") == -13  # the shortest way


@pytest.mark.slow
def test_frozen_lake_is_solved():
    def env():
        return gym.make("FrozenLake-v1", is_slippery=False)

    agent = DQN(
        env(),
        learning_rate=1e-3,
        learning_starts=500,
        target_update_interval=250,
        exploration_fraction=0.8,
        net_arch=(64,),
        seed=0,
    ).learn(10_000)
    assert evaluate(agent, env(), 1, seed=0).mean("return") == 1
