"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from typing import Any

from agents.dqn import DQN
from agents.evaluation import EvaluationResult, KeepBest, evaluate
from agents.reinforce import Reinforce

__all__ = ["DQN", "EvaluationResult", "KeepBest", "Reinforce", "SB3VecEnv", "evaluate"]


def __getattr__(name: str) -> Any:
    if name != "SB3VecEnv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agents.sb3 import SB3VecEnv  # Stable-Baselines3 takes long to import

    return SB3VecEnv
