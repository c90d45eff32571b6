"""Control of a frozen image generator as a reinforcement-learning task.

Importing this package registers its environments with Gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from latentgym import envs, wrappers
    from latentgym.vector_env_checker import check_vector_env

__all__ = ["check_vector_env", "envs", "register_all", "wrappers"]

_ENVIRONMENTS = {
    "LatentEdit-v0": ("latent_edit:LatentEdit", 40, None),
    "LatentEditContinuous-v0": ("latent_edit_continuous:LatentEditContinuous", 20, None),
    "LatentEditGoal-v0": ("latent_edit_goal:LatentEditGoal", 40, None),
    "LatentEditPixels-v0": ("latent_edit_pixels:LatentEditPixels", 40, None),
    "latentgym/CartPole-v1": ("cartpole:CartPole", 500, 475),
    "latentgym/CartPolePixels-v1": ("cartpole_pixels:CartPolePixels", 500, 475),
}
"""Module and class, without ``Env`` or ``VectorEnv``; step limit; reward threshold."""


def register_all() -> None:
    """Register every environment that is not registered yet."""
    for env_id, (class_path, max_episode_steps, reward_threshold) in _ENVIRONMENTS.items():
        if env_id not in gym.registry:
            gym.register(
                id=env_id,
                entry_point=f"latentgym.envs.{class_path}Env",
                vector_entry_point=f"latentgym.envs.{class_path}VectorEnv",
                max_episode_steps=max_episode_steps,
                reward_threshold=reward_threshold,
            )


def __getattr__(name: str) -> Any:
    """Import what needs torch, which takes seconds, on first use."""
    if name in ("envs", "wrappers"):
        return importlib.import_module(f"latentgym.{name}")
    if name == "check_vector_env":
        return importlib.import_module("latentgym.vector_env_checker").check_vector_env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_all()
