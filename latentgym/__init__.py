"""Steering a frozen image generator as a reinforcement-learning task.

Importing this package registers its environments with Gymnasium.
"""

from __future__ import annotations

import gymnasium as gym

from latentgym.checks import check_vector_env

__all__ = ["check_vector_env", "register_all"]


def register_all() -> None:
    """Register every environment that is not registered yet."""
    if "LatentEdit-v0" not in gym.registry:
        gym.register(
            id="LatentEdit-v0",
            entry_point="latentgym.envs.latent_edit:LatentEditEnv",
            vector_entry_point="latentgym.envs.latent_edit:LatentEditVectorEnv",
            max_episode_steps=40,
        )


register_all()
