import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scripted import Counting

import agents.callbacks
from agents import DQN, CheckpointCallback, EvalCallback, EvaluationResult, TensorBoardCallback

# EvalCallback ------------------------------------------------------------------------------------


class Agent:
    """As much of an agent as EvalCallback touches; its weights tell when it was."""

    def __init__(self):
        self.network = torch.nn.Linear(1, 1)
        self.at(0)

    def at(self, timesteps):
        self.num_timesteps = timesteps
        with torch.no_grad():
            self.network.weight.fill_(timesteps)
        return self

    def get_parameters(self):
        return {"network": self.network.state_dict()}

    def set_parameters(self, parameters):
        self.network.load_state_dict(parameters["network"])


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
    keep, agent = (
        EvalCallback("env", eval_freq=10, n_eval_episodes=3, seed=8, metric=metric),
        Agent(),
    )
    run(keep, agent, range(1, 56))
    assert script.calls == [(now, "env", 3, 8) for now in (10, 20, 30, 40, 50)]
    assert [row["timesteps"] for row in keep.history] == [10, 20, 30, 40, 50]
    assert [row["return"] for row in keep.history] == [3.0, 1.0, 5.0, 5.0, 4.0]
    keep.restore(agent.at(99))
    assert agent.network.weight.item() == best


def test_keep_best_restores_a_copy(script):
    script.means = [1.0]
    keep, agent = EvalCallback("env", eval_freq=10), Agent()
    run(keep, agent, [10])
    for _ in range(2):
        keep.restore(agent.at(99))
        assert agent.network.weight.item() == 10


def test_keep_best_before_the_first_evaluation(script):
    keep, agent = EvalCallback("env", eval_freq=10), Agent()
    run(keep, agent, [1, 9])
    keep.restore(agent.at(9))
    assert agent.network.weight.item() == 9
    assert not script.calls


def test_keep_best_where_a_round_is_longer_than_the_interval(script):
    script.means = [1.0, 2.0, 3.0]
    run(EvalCallback("env", eval_freq=10), Agent(), [64, 128, 192])
    assert [call[0] for call in script.calls] == [64, 128, 192]


def test_keep_best_of_an_agent_that_has_learned_before(script):
    script.means = [1.0, 2.0]
    run(EvalCallback("env", eval_freq=100), Agent(), [1000, 1010, 1020, 1100, 1110])
    assert [call[0] for call in script.calls] == [1000, 1100]


def test_keep_best_saves_the_best(script, tmp_path):
    script.means = [1.0, 5.0, 3.0]
    path = tmp_path / "best"
    agent = DQN(Counting(), net_arch=(4,), learning_starts=5, train_freq=1, seed=0)
    keep = EvalCallback("env", eval_freq=10, path=path)
    agent.learn(39, keep)
    saved = DQN.load(path)
    assert saved.num_timesteps == 20
    keep.restore(agent)
    observations = torch.rand(50, 3)
    assert torch.equal(saved.q_network(observations), agent.q_network(observations))


# Checkpoint and TensorBoard -----------------------------------------------------------------------


def test_checkpoints_are_written_when_it_is_time(tmp_path):
    path, written = tmp_path / "checkpoint", []

    def look(agent):
        if path.exists():
            written.append(DQN.resume(path, Counting()).num_timesteps)
            path.unlink()

    agent = DQN(Counting(), net_arch=(4,), seed=0)
    # A checkpoint comes after the other callbacks of its round: seen one step later.
    agent.learn(35, [CheckpointCallback(path, save_freq=10), look])
    assert written == [10, 20, 30]


def test_tensorboard_writes_figures(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    agent = DQN(Counting(), net_arch=(4,), learning_starts=10, learning_rate=0.5, seed=0)
    agent.learn(45, TensorBoardCallback(tmp_path, log_freq=20))
    events = accumulators.EventAccumulator(str(tmp_path)).Reload()
    rewards = events.Scalars("rollout/ep_rew_mean")
    assert [(entry.step, entry.value) for entry in rewards] == [(20, 6.0), (40, 6.0)]
    assert [entry.value for entry in events.Scalars("train/learning_rate")] == [0.5, 0.5]
    rates = [entry.value for entry in events.Scalars("rollout/exploration_rate")]
    assert 0 < rates[1] <= rates[0] < 1
    assert all(entry.value > 0 for entry in events.Scalars("time/fps"))
    assert all(entry.value > 0 for entry in events.Scalars("train/loss"))


def test_tensorboard_knows_no_speed_without_steps_or_time(tmp_path, monkeypatch):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    agent = DQN(Counting(), net_arch=(4,), seed=0).learn(40)  # as if resumed
    board = TensorBoardCallback(tmp_path, log_freq=20)
    board(agent)
    monkeypatch.setattr(agents.callbacks.time, "monotonic", lambda: board._start[0])
    agent.learn(20, board)  # the clock stands still
    events = accumulators.EventAccumulator(str(tmp_path)).Reload()
    assert "time/fps" not in events.Tags()["scalars"]
    assert [entry.step for entry in events.Scalars("rollout/ep_rew_mean")] == [40, 60]


def test_tensorboard_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError) as caught:
        TensorBoardCallback(tmp_path)
    line = "TensorBoard needs the package tensorboard: pip install tensorboard"
    assert str(caught.value) == line
