"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from agents.callbacks import Checkpoint, KeepBest, TensorBoard
from agents.dqn import DQN
from agents.evaluation import EvaluationResult, evaluate
from agents.reinforce import Reinforce
from agents.sb3 import SB3VecEnv

__all__ = [
    "DQN",
    "Checkpoint",
    "EvaluationResult",
    "KeepBest",
    "Reinforce",
    "SB3VecEnv",
    "TensorBoard",
    "evaluate",
]
