"""Stable-Baselines3: its agents, and vector environments that it can train in."""

from agents.sb3.vec_env import SB3VecEnv

__all__ = ["SB3VecEnv"]
