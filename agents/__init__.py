"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from agents.dqn import DQN
from agents.evaluation import EvaluationResult, KeepBest, evaluate

__all__ = ["DQN", "EvaluationResult", "KeepBest", "evaluate"]
