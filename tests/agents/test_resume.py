import json
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import interrupted
import numpy as np
import pytest
import torch
from interrupted import KILLED, KINDS, OPTIONS, SAVED, TOTAL, parameters
from safetensors import safe_open
from safetensors.torch import save_file
from scripted import Counting, vector

from agents import DQN, CheckpointCallback, EvalCallback
from gan_backbones.utils.files import CHECKED


class Stop(Exception):
    pass


def stop(agent):
    if agent.num_timesteps >= KILLED:
        raise Stop


def undisturbed(kind, *callbacks):
    return interrupted.agent(kind).learn(TOTAL, callbacks)


def resumed(kind, path):
    env, _ = KINDS[kind]()
    return DQN.resume(path, env)


@pytest.mark.parametrize("kind", ["vector", "single", "edits"])
def test_killed_and_resumed(kind, tmp_path):
    path = tmp_path / "checkpoint"
    script, root = Path(interrupted.__file__), Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, str(script), kind, str(path)],
        cwd=root,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == -signal.SIGKILL
    agent = resumed(kind, path)
    assert SAVED <= agent.num_timesteps < KILLED
    agent.learn()
    whole = undisturbed(kind)
    assert agent.num_timesteps == whole.num_timesteps >= TOTAL
    assert (parameters(agent) == parameters(whole)).all()


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("vector", "single", "edits")])
def test_stopped_and_resumed(kind, tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        undisturbed(kind, stop, CheckpointCallback(path, SAVED))
    agent, whole = resumed(kind, path).learn(), undisturbed(kind)
    assert (parameters(agent) == parameters(whole)).all()
    assert list(agent.episode_returns) == list(whole.episode_returns)
    assert torch.equal(torch.stack([*agent.losses]), torch.stack([*whole.losses]))
    observations, again = whole._observations[""], agent._observations[""]
    assert np.array_equal(observations, again)


def test_resuming_is_not_trivially_the_same(tmp_path):
    """What the checkpoint restores matters: without the buffer the end is another."""
    path = tmp_path / "checkpoint"
    with pytest.raises(Stop):
        undisturbed("vector", stop, CheckpointCallback(path, SAVED))
    agent = resumed("vector", path)
    agent.buffer.begin(np.arange(3), {"": torch.zeros(3, 4)})
    assert not (parameters(agent.learn()) == parameters(undisturbed("vector"))).all()


def test_before_the_first_update(tmp_path):
    path = tmp_path / "checkpoint"
    callback = [stop, CheckpointCallback(path, 20)]
    agent = interrupted.agent("vector")
    agent.learn(21, callback)
    agent, whole = DQN.resume(path, KINDS["vector"]()[0]), interrupted.agent("vector").learn(21)
    assert (parameters(agent.learn(200)) == parameters(whole.learn(200))).all()


def test_the_best_network_survives(tmp_path):
    path = tmp_path / "checkpoint"

    def best():
        return EvalCallback(gym.make("latentgym/CartPole-v1"), eval_freq=100, n_eval_episodes=2)

    first, again, undisturbed_best = best(), best(), best()
    with pytest.raises(Stop):
        # The checkpoint is written last, wherever it stands.
        undisturbed("vector", CheckpointCallback(path, SAVED), first, stop)
    assert len(first.history) > 5
    agent = resumed("vector", path).learn(callback=[again])
    whole = undisturbed("vector", undisturbed_best)
    assert again.history == undisturbed_best.history
    for keep, learner in ((again, agent), (undisturbed_best, whole)):
        keep.restore(learner)
    assert (parameters(agent) == parameters(whole)).all()


def test_a_callback_that_is_missing_is_told(tmp_path, caplog):
    path = tmp_path / "checkpoint"
    keep = EvalCallback(gym.make("latentgym/CartPole-v1"), eval_freq=100, n_eval_episodes=1)
    interrupted.agent("vector").learn(SAVED, [keep, CheckpointCallback(path, SAVED)])
    DQN.resume(path, KINDS["vector"]()[0]).learn(10)
    assert caplog.messages == [
        "the checkpoint has the state of a EvalCallback, which was not given"
    ]


def test_an_environment_that_cannot_tell_its_state(tmp_path, caplog):
    path = tmp_path / "checkpoint"
    envs = [Counting(4, tag=1), Counting(5, tag=2)]
    agent = DQN(vector(*envs), **{**OPTIONS, "n_steps": 3}).learn(30)
    agent.save_checkpoint(path)
    envs = [Counting(4, tag=1), Counting(5, tag=2)]
    agent = DQN.resume(path, vector(*envs))
    assert caplog.messages == [
        "the environment has no get_state(); resuming begins new episodes",
        "the environment's state was not saved: new episodes begin",
    ]
    agent.learn(200)
    assert [env.seeds[0] is not None for env in envs] == [True, True]
    # No transition leads from the old episodes to the new ones.
    batch = agent.buffer.sample(5000, torch.Generator().manual_seed(0))
    assert (batch.observations[:, :2] == batch.next_observations[:, :2]).all()


@pytest.mark.parametrize(
    ("env", "line"),
    [
        (
            lambda: vector(Counting(), Counting()),
            "the environment has 2 rows and autoreset mode SAME_STEP; "
            "the checkpoint was made with 1 and SAME_STEP",
        ),
        (
            lambda: gym.make("latentgym/CartPole-v1"),
            "the environment has observations (4,) and actions Discrete(2); "
            "the agent was made for (3,) and Discrete(3)",
        ),
    ],
    ids=["rows", "spaces"],
)
def test_another_environment_is_refused(env, line, tmp_path):
    DQN(Counting(), **OPTIONS).learn(60).save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError) as caught:
        DQN.resume(tmp_path / "checkpoint", env())
    assert str(caught.value) == line.replace("mode SAME_STEP;", "mode NEXT_STEP;")


def change(path, edit):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["format"] = metadata["format"].removesuffix(CHECKED)  # or any change is damage
    edit(metadata, tensors)
    save_file(tensors, path, metadata)


def other_network(metadata, _):
    hyperparameters = {**json.loads(metadata["hyperparameters"]), "net_arch": [32]}
    metadata["hyperparameters"] = json.dumps(hyperparameters)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (other_network, "its state is damaged (RuntimeError("),
        (
            lambda _, t: t.pop("networks/q_network/body.0.weight"),
            "its description is damaged (KeyError('networks/q_network/body.0.weight'))",
        ),
        (lambda m, _: m.pop("state"), "its description is damaged (KeyError('state'))"),
        (lambda m, _: m.update(state="[]"), "its description is damaged (TypeError("),
        (
            lambda m, _: m.update(format="latentgym-dqn-3"),
            "not a DQN checkpoint; its format is 'latentgym-dqn-3'",
        ),
    ],
    ids=["network", "tensor", "state", "list", "agent"],
)
def test_damage_gives_one_line(edit, expected, tmp_path):
    path = tmp_path / "checkpoint"
    DQN(Counting(), **OPTIONS).learn(60).save_checkpoint(path)
    change(path, edit)
    with pytest.raises(ValueError) as caught:
        DQN.resume(path, Counting())
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(caught.value)


def test_there_must_be_something_to_resume(tmp_path):
    agent = DQN(Counting(), **OPTIONS)
    with pytest.raises(ValueError, match="has not begun to learn"):
        agent.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="no interrupted run to finish"):
        agent.learn()
