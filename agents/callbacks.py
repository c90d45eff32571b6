"""What `learn` can call after each round of steps. Any function that takes the agent will do.

A callback that has ``get_state`` and ``set_state`` is saved with `DQN.save_checkpoint` and goes on
where it was when learning is resumed.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv

from agents.evaluation import evaluate
from agents.validation import integer

if TYPE_CHECKING:
    from agents.dqn import DQN
    from agents.registry import Agent


class KeepBest:
    """Evaluates now and then and remembers the best network.

    Deep Q-learning can get worse after it was good; keep the best by evaluation on other starts
    than those it is judged on later.

    Args:
        env: for evaluation only.
        every: steps between evaluations.
        episodes: per evaluation.
        seed: of the evaluation environment, the same each time.
        metric: which of the result's values to maximise.
        path: the best agent so far is saved here.

    Attributes:
        history: one dict per evaluation: ``timesteps`` and the mean of every value.
        seconds: spent on evaluations.

    Raises:
        ValueError: ``every`` or ``episodes`` is not a whole number, at least 1.
    """

    def __init__(
        self,
        env: gym.Env | VectorEnv,
        every: int,
        episodes: int = 20,
        seed: int = 0,
        metric: str = "return",
        path: str | Path | None = None,
    ):
        self.env, self.seed, self.metric, self.path = env, seed, metric, path
        self.every = integer("every", every, 1)
        self.episodes = integer("episodes", episodes, 1)
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._best: dict[str, Any] | None = None
        self._evaluated = 0  # how many intervals had passed at the last evaluation

    def __call__(self, agent: Agent) -> None:
        """Evaluate if it is time to."""
        due = agent.num_timesteps // self.every
        if due <= self._evaluated:
            return
        self._evaluated, began = due, time.perf_counter()
        result = evaluate(agent, self.env, self.episodes, self.seed)
        means = {name: result.mean(name) for name in result.values}
        self.history.append({"timesteps": agent.num_timesteps, **means})
        if self._best is None or means[self.metric] > self._best["value"]:
            parameters = copy.deepcopy(agent.get_parameters())
            self._best = {"value": means[self.metric], "parameters": parameters}
            if self.path is not None:
                agent.save(self.path)
        self.seconds += time.perf_counter() - began

    def restore(self, agent: Agent) -> None:
        """Give ``agent`` the best networks; does nothing before the first evaluation."""
        if self._best is not None:
            agent.set_parameters(self._best["parameters"])

    def get_state(self) -> dict[str, Any]:
        """What was evaluated, and the best networks."""
        return {"history": self.history, "best": self._best, "evaluated": self._evaluated}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`get_state` gave."""
        self.history, self._best = state["history"], state["best"]
        self._evaluated = state["evaluated"]


class Checkpoint:
    """Saves now and then all that `DQN.resume` needs; each checkpoint replaces the one before.

    Called after the other callbacks, so that it holds what they did.

    Args:
        path: the file.
        every: steps between checkpoints.

    Raises:
        ValueError: ``every`` is not a whole number, at least 1.
    """

    def __init__(self, path: str | Path, every: int):
        self.path, self.every = path, integer("every", every, 1)
        self._saved = 0  # how many intervals had passed

    def __call__(self, agent: DQN) -> None:
        """Save if it is time to."""
        due = agent.num_timesteps // self.every
        if due > self._saved:
            self._saved = due
            agent.save_checkpoint(self.path)


class TensorBoard:
    """Writes figures for TensorBoard under Stable-Baselines3's names.

    Of all agents speed and recent returns; of `DQN` also its loss, learning rate and exploration.

    Args:
        folder: where to.
        every: steps between entries.

    Raises:
        ModuleNotFoundError: there is no tensorboard.
        ValueError: ``every`` is not a whole number, at least 1.
    """

    def __init__(self, folder: str | Path, every: int = 1000):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ModuleNotFoundError(
                "TensorBoard needs the package tensorboard: pip install tensorboard"
            ) from None
        self.every = integer("every", every, 1)
        self._open = lambda step: SummaryWriter(str(folder), purge_step=step)
        self._writer = None
        self._written = 0  # how many intervals had passed

    def __call__(self, agent: Agent) -> None:
        """Write if it is time to."""
        if self._writer is None:
            # What an interrupted run wrote after the checkpoint that this one began with is void.
            self._writer = self._open(agent.num_timesteps)
            self._began = time.monotonic(), agent.num_timesteps
        due = agent.num_timesteps // self.every
        if due <= self._written:
            return
        self._written = due
        seconds, steps = time.monotonic() - self._began[0], agent.num_timesteps - self._began[1]
        figures = {}
        if steps and seconds:  # neither at once after a resume, nor before the clock ticks
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
