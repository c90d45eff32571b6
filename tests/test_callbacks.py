from types import SimpleNamespace

import numpy as np
import pytest
import torch

import agents.callbacks
from agents import EvaluationResult, KeepBest

# KeepBest -----------------------------------------------------------------------------------------


class Agent:
    """As much of a DQN as KeepBest touches; its weights tell when it was."""

    def __init__(self):
        self.q_network, self.target_network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.at(0)

    def at(self, timesteps):
        self.num_timesteps = timesteps
        with torch.no_grad():
            self.q_network.weight.fill_(timesteps)
        return self


@pytest.fixture
def script(monkeypatch):
    """What evaluations will give, one after the other; and the calls that were made."""
    plan = SimpleNamespace(means=[], calls=[])

    def scripted(policy, env, episodes, seed):
        plan.calls.append((policy.num_timesteps, env, episodes, seed))
        value = plan.means.pop(0)
        return EvaluationResult({"return": np.array([value]), "cost": np.array([-value])})

    monkeypatch.setattr(agents.callbacks, "evaluate", scripted)
    return plan


def run(keep, agent, timesteps):
    for now in timesteps:
        keep(agent.at(now))


@pytest.mark.parametrize(("metric", "best"), [("return", 30), ("cost", 20)])
def test_keep_best_restores_the_best(script, metric, best):
    script.means = [3.0, 1.0, 5.0, 5.0, 4.0]
    keep, agent = KeepBest("env", every=10, episodes=3, seed=8, metric=metric), Agent()
    run(keep, agent, range(1, 56))
    assert script.calls == [(now, "env", 3, 8) for now in (10, 20, 30, 40, 50)]
    assert [row["timesteps"] for row in keep.history] == [10, 20, 30, 40, 50]
    assert [row["return"] for row in keep.history] == [3.0, 1.0, 5.0, 5.0, 4.0]
    keep.restore(agent.at(99))
    assert agent.q_network.weight.item() == agent.target_network.weight.item() == best


def test_keep_best_restores_a_copy(script):
    script.means = [1.0]
    keep, agent = KeepBest("env", every=10), Agent()
    run(keep, agent, [10])
    for _ in range(2):
        keep.restore(agent.at(99))
        assert agent.q_network.weight.item() == 10


def test_keep_best_before_the_first_evaluation(script):
    keep, agent = KeepBest("env", every=10), Agent()
    run(keep, agent, [1, 9])
    keep.restore(agent.at(9))
    assert agent.q_network.weight.item() == 9
    assert not script.calls


def test_keep_best_where_a_round_is_longer_than_the_interval(script):
    script.means = [1.0, 2.0, 3.0]
    run(KeepBest("env", every=10), Agent(), [64, 128, 192])
    assert [call[0] for call in script.calls] == [64, 128, 192]


def test_keep_best_of_an_agent_that_has_learned_before(script):
    script.means = [1.0, 2.0]
    run(KeepBest("env", every=100), Agent(), [1000, 1010, 1020, 1100, 1110])
    assert [call[0] for call in script.calls] == [1000, 1100]
