"""Reinforcement-learning agents written from scratch, and how to evaluate any agent."""

from agents.dqn import DQN
from agents.evaluation import EvaluationResult, KeepBest, evaluate
from agents.reinforce import Reinforce
from agents.sb3 import SB3VecEnv

__all__ = ["DQN", "EvaluationResult", "KeepBest", "Reinforce", "SB3VecEnv", "evaluate"]
