"""What `learn` may call after each round of steps. Any function that takes the agent will do.

A callback that has ``get_state`` and ``set_state`` is saved by `DQN.save_checkpoint`, and continues
where it was when learning is resumed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.base import Agent
from agents.evaluation import evaluate
from gan_backbones.utils.validation import integer


def as_callbacks(callback: Callable | Iterable[Callable] | None) -> list[Callable]:
    """Return one callback, several, or ``None``, as a list.

    Raises:
        ValueError: something that cannot be called.
    """
    if callback is None or callable(callback):
        return [] if callback is None else [callback]
    if not isinstance(callback, Iterable) or not all(map(callable, found := list(callback))):
        raise ValueError(f"callback is {callback!r}; it must be a function or a list of functions")
    return found


class Resumable(Agent, Protocol):
    """An agent that can write a checkpoint of its learning; see `agents.DQN`."""

    def save_checkpoint(self, path: str | Path) -> None:
        """Write all that is needed to resume."""


class EvalCallback:
    """Evaluates an agent regularly and remembers the best network.

    Deep Q-learning can get worse after it was good. Choose the best network by evaluation on starts
    other than those of the final test.

    Args:
        eval_env: environment for evaluation only.
        eval_freq: number of steps between evaluations.
        n_eval_episodes: number of episodes per evaluation.
        seed: random seed of the evaluation environment, the same each time.
        metric: name of the result's value to maximize.
        path: file to save the best agent to.

    Attributes:
        history: one dict per evaluation: ``timesteps`` and the mean of every value.
        seconds: time spent on evaluations.

    Raises:
        ValueError: ``eval_freq`` or ``n_eval_episodes`` is not a whole number, at least 1.
    """

    def __init__(
        self,
        eval_env: gym.Env | VectorEnv,
        eval_freq: int,
        n_eval_episodes: int = 20,
        seed: int = 0,
        metric: str = "return",
        path: str | Path | None = None,
    ):
        self.eval_env, self.seed, self.metric, self.path = eval_env, seed, metric, path
        self.eval_freq = integer("eval_freq", eval_freq, 1)
        self.n_eval_episodes = integer("n_eval_episodes", n_eval_episodes, 1)
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._best: dict[str, Any] | None = None
        self._evaluations = 0  # number of intervals that had passed at the last evaluation

    def __call__(self, agent: Agent) -> None:
        """Evaluate if it is time to."""
        due = agent.num_timesteps // self.eval_freq
        if due <= self._evaluations:
            return
        self._evaluations, started = due, time.perf_counter()
        result = evaluate(agent, self.eval_env, self.n_eval_episodes, self.seed)
        means = {name: result.mean(name) for name in result.values}
        self.history.append({"timesteps": agent.num_timesteps, **means})
        if self._best is None or means[self.metric] > self._best["value"]:
            parameters = copy.deepcopy(agent.get_parameters())
            self._best = {"value": means[self.metric], "parameters": parameters}
            if self.path is not None:
                agent.save(self.path)
        self.seconds += time.perf_counter() - started

    def restore(self, agent: Agent) -> None:
        """Give ``agent`` the best networks; does nothing before the first evaluation."""
        if self._best is not None:
            agent.set_parameters(self._best["parameters"])

    def get_state(self) -> dict[str, Any]:
        """Return the evaluations so far, and the best networks."""
        return {"history": self.history, "best": self._best, "evaluations": self._evaluations}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.history, self._best = state["history"], state["best"]
        self._evaluations = state["evaluations"]


class CheckpointCallback:
    """Saves all that `DQN.resume` needs, regularly; each checkpoint replaces the one before.

    `DQN` calls it after the other callbacks, so that the checkpoint includes their state.

    Args:
        path: file of the checkpoint.
        save_freq: number of steps between checkpoints.

    Raises:
        ValueError: ``save_freq`` is not a whole number, at least 1.
    """

    def __init__(self, path: str | Path, save_freq: int):
        self.path, self.save_freq = path, integer("save_freq", save_freq, 1)
        self._saves = 0  # number of intervals that have passed

    def __call__(self, agent: Resumable) -> None:
        """Save if it is time to."""
        due = agent.num_timesteps // self.save_freq
        if due > self._saves:
            self._saves = due
            agent.save_checkpoint(self.path)


class TensorBoardCallback:
    """Writes figures for TensorBoard under Stable-Baselines3's names.

    For all agents speed and recent returns; for `DQN` also loss, learning rate and exploration.

    Args:
        folder: folder to write to.
        log_freq: number of steps between entries.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
        ValueError: ``log_freq`` is not a whole number, at least 1.
    """

    def __init__(self, folder: str | Path, log_freq: int = 1000):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ModuleNotFoundError(
                "TensorBoard needs the package tensorboard: pip install tensorboard"
            ) from None
        self.log_freq = integer("log_freq", log_freq, 1)
        self._open = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer: Any = None
        self._entries = 0  # number of intervals that had passed at the last entry

    def __call__(self, agent: Any) -> None:
        """Write if it is time to."""
        if self._writer is None:
            # Hide what an interrupted run wrote after the checkpoint that this one resumed from.
            self._writer = self._open(agent.num_timesteps)
            self._start = time.monotonic(), agent.num_timesteps
        due = agent.num_timesteps // self.log_freq
        if due <= self._entries:
            return
        self._entries = due
        seconds, steps = time.monotonic() - self._start[0], agent.num_timesteps - self._start[1]
        figures = {}
        if steps and seconds:  # neither right after a resume, nor before the clock ticks
            figures["time/fps"] = steps / seconds
        if agent.episode_returns:
            figures["rollout/ep_rew_mean"] = np.mean(agent.episode_returns)
        if hasattr(agent, "exploration_rate"):
            figures["rollout/exploration_rate"] = agent.exploration_rate
            figures["train/learning_rate"] = agent.optimizer.param_groups[0]["lr"]
        if getattr(agent, "losses", ()):
            figures["train/loss"] = torch.stack(list(agent.losses)).mean().item()
        for name, value in figures.items():
            self._writer.add_scalar(name, value, agent.num_timesteps)
        self._writer.flush()
