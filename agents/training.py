"""Training an agent of any kind with evaluations in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.callbacks import EvalCallback
from agents.registry import Agent


@dataclass(frozen=True)
class Training:
    """What `train` did.

    Attributes:
        best: the evaluations and the best network; ``best.restore(agent)`` brings it back.
        seconds: time spent learning, without the evaluations.
        steps: number of steps.
    """

    best: EvalCallback
    seconds: float
    steps: int


def train(
    agent: Agent,
    timesteps: int | None,
    best: EvalCallback,
    callbacks: Sequence[Callable[[Any], object]] = (),
    progress_bar: bool = False,
) -> Training:
    """Let an agent of any kind learn, evaluating it now and then.

    Args:
        agent: an agent of any kind.
        timesteps: number of steps; ``None`` finishes an interrupted run of `agents.DQN`.
        best: evaluates, on an environment of its own.
        callbacks: called besides.
        progress_bar: show one.
    """
    began, first = time.perf_counter(), agent.num_timesteps
    waited = best.seconds
    agent.learn(timesteps, [best, *callbacks], progress_bar=progress_bar)
    seconds = time.perf_counter() - began - (best.seconds - waited)
    return Training(best, seconds, agent.num_timesteps - first)
