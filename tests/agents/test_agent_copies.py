"""Agents as Python objects: what may be done to them between two calls of learn."""

import copy
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv
from scripted import Counting, vector

from agents import DQN, EvalCallback, Reinforce

DQN_OPTIONS = dict(net_arch=(8,), learning_starts=10, batch_size=8, seed=0)
RAINBOW = dict(
    prioritized_replay=True, n_steps=3, noisy=True, dueling=True, final_learning_rate=1e-4
)
AGENTS = {
    "dqn": lambda env: DQN(env, **DQN_OPTIONS),
    "rainbow": lambda env: DQN(env, buffer_size=60, **DQN_OPTIONS, **RAINBOW),
    "reinforce": lambda env: Reinforce(env, n_episodes=4, net_arch=(8,), seed=0),
}
COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda agent: pickle.loads(pickle.dumps(agent)),
    "cloudpickle": lambda agent: pickle.loads(cloudpickle.dumps(agent)),
}
KINDS = pytest.mark.parametrize("kind", AGENTS)


def cartpole():
    return gym.make("CartPole-v1")


def weights(agent):
    networks = agent._networks().values()
    return torch.cat([p.detach().flatten() for n in networks for p in n.parameters()])


def same(one, other):
    return torch.equal(weights(one), weights(other)) and (
        list(one.episode_returns) == list(other.episode_returns)
    )


@KINDS
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("learned", [0, 90])
def test_copies_learn_on_as_the_original_would(kind, way, learned):
    agent = AGENTS[kind](cartpole())
    agent.learn(learned)
    copied = COPIES[way](agent)
    assert same(copied, agent)
    before = weights(agent)
    copied.learn(90)
    assert not torch.equal(weights(copied), before)
    assert torch.equal(weights(agent), before)  # the original does not learn with it
    agent.learn(90)
    assert same(copied, agent)
    assert copied.env is not agent.env


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_from_the_middle_of_learning_finishes_the_run(way):
    copies = []

    def copy_once(agent):
        if agent.num_timesteps == 70:
            copies.append(COPIES[way](agent))

    agent = AGENTS["rainbow"](cartpole())
    agent.learn(150, callback=copy_once)
    (copied,) = copies
    copied.learn()
    assert copied.num_timesteps == 150
    assert same(copied, agent)


@KINDS
def test_an_environment_that_cannot_be_pickled_is_left_out(kind, caplog):
    env = vector(Counting(), Counting())  # made by lambdas
    agent = AGENTS[kind](env).learn(40)
    copied = pickle.loads(pickle.dumps(agent))
    assert "the copy has no environment" in caplog.text
    with pytest.raises(ValueError, match="the agent has no environment"):
        copied.learn(40)
    copied.set_env(vector(Counting(), Counting()))
    agent.set_env(vector(Counting(), Counting()))
    assert same(copied.learn(40), agent.learn(40))


def test_an_environment_that_cannot_be_copied_is_left_out(caplog):
    class Unique(Counting):
        def __deepcopy__(self, memo):
            raise TypeError("there is\nonly one")

    copied = copy.deepcopy(AGENTS["dqn"](Unique()).learn(20))
    assert copied.env is None
    assert caplog.messages == [
        "the copy has no environment, as it cannot be copied (there is only one); call set_env"
    ]


@pytest.mark.parametrize("way", COPIES)
def test_processes_are_left_alone(way, caplog):
    env = AsyncVectorEnv([Counting, Counting])
    agent = AGENTS["dqn"](env).learn(10)
    assert COPIES[way](agent).env is None
    assert "(it has processes of its own)" in caplog.text
    agent.learn(10)  # its pipes are still open
    env.close()


def test_copies_take_no_more_memory_than_is_stored():
    agent = DQN(Counting(), buffer_size=10**6, **DQN_OPTIONS).learn(50)
    assert len(pickle.dumps(agent)) < 10**5


def test_the_seed_decides_in_the_next_environment_too():
    seeds = []
    for _ in range(2):
        agent = AGENTS["dqn"](Counting()).learn(20)
        env = Counting()
        agent.set_env(env)
        agent.learn(20)
        seeds.append(env.seeds[0])
    assert seeds[0] is not None
    assert seeds[0] == seeds[1]


# Modules ------------------------------------------------------------------------------------------


def network_of(agent):
    return agent.q_network if isinstance(agent, DQN) else agent.policy


HARMLESS = {
    "zero_grad": lambda network: network.zero_grad(),
    "zero_grad to zeros": lambda network: network.zero_grad(set_to_none=False),
    "double and back": lambda network: network.double().float(),
    "to": lambda network: network.to("cpu", torch.float32),
    "eval": lambda network: network.eval(),
    "load": lambda network: network.load_state_dict(network.state_dict()),
    "frozen and back": lambda network: network.requires_grad_(False).requires_grad_(True),
}


@KINDS
@pytest.mark.parametrize("change", HARMLESS)
def test_what_may_be_done_to_a_network(kind, change):
    usual, changed = (AGENTS[kind](cartpole()).learn(60) for _ in range(2))
    HARMLESS[change](network_of(changed))
    assert same(usual.learn(60), changed.learn(60))


@KINDS
def test_a_frozen_layer_stays_as_it_is(kind):
    agent = AGENTS[kind](cartpole()).learn(60)
    layer = next(iter(network_of(agent).parameters())).requires_grad_(False)
    frozen, before = layer.clone(), weights(agent)
    agent.learn(60)
    assert torch.equal(layer, frozen)
    assert not torch.equal(weights(agent), before)


REFUSED = {
    "double": (
        lambda network: network.double(),
        "has float64 parameters on cpu; it must have float32 ones on cpu",
    ),
    "meta": (
        lambda network: network.to("meta"),
        "has float32 parameters on meta; it must have float32 ones on cpu",
    ),
    "frozen": (
        lambda network: network.requires_grad_(False),
        "no parameter of",
    ),
    "assign": (
        lambda network: network.load_state_dict(copy.deepcopy(network.state_dict()), assign=True),
        "has parameters that its optimizer does not have",
    ),
}


@KINDS
@pytest.mark.parametrize("change", REFUSED)
def test_what_may_not_be_done_to_a_network(kind, change):
    agent = AGENTS[kind](cartpole()).learn(60)
    do, expected = REFUSED[change]
    do(network_of(agent))
    calls = [lambda: agent.learn(60)]
    if change in ("double", "meta"):
        calls.append(lambda: agent.predict(np.zeros(4, np.float32)))
    for call in calls:
        with pytest.raises(ValueError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_callbacks_are_not_copied():
    keep = EvalCallback(cartpole(), eval_freq=20, n_eval_episodes=1)
    agent = AGENTS["dqn"](cartpole()).learn(40, callback=[keep, lambda agent: None])
    assert pickle.loads(pickle.dumps(agent))._callbacks == []
