"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from __future__ import annotations

from typing import Any

from agents.callbacks import CheckpointCallback, EvalCallback, TensorBoardCallback
from agents.dqn import DQN
from agents.evaluation import EvaluationResult, evaluate
from agents.reinforce import Reinforce

__all__ = [
    "DQN",
    "CheckpointCallback",
    "EvalCallback",
    "EvaluationResult",
    "Reinforce",
    "SB3VecEnv",
    "TensorBoardCallback",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    """`SB3VecEnv` on first use: Stable-Baselines3 takes seconds to import."""
    if name == "SB3VecEnv":
        from agents.sb3.vec_env import SB3VecEnv

        return SB3VecEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
