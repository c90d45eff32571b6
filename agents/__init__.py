"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from agents.callbacks import Checkpoint, KeepBest, TensorBoard
from agents.dqn import DQN
from agents.evaluation import EvaluationResult, evaluate

__all__ = ["DQN", "Checkpoint", "EvaluationResult", "KeepBest", "TensorBoard", "evaluate"]
