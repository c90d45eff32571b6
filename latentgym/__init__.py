"""Steering a frozen image generator as a reinforcement-learning task.

Importing this package registers its environments with Gymnasium.
"""

from __future__ import annotations

import gymnasium as gym

__all__ = ["register_all"]


def register_all() -> None:
    """Register every environment that is not registered yet."""
    if "LatentEdit-v0" not in gym.registry:
        gym.register(
            id="LatentEdit-v0",
            entry_point="latentgym.envs.latent_edit:LatentEditEnv",
            vector_entry_point="latentgym.envs.latent_edit:LatentEditVectorEnv",
            max_episode_steps=40,
        )
    for module, name in (("cartpole", "CartPole"), ("cartpole_pixels", "CartPolePixels")):
        if f"latentgym/{name}-v1" not in gym.registry:
            gym.register(
                id=f"latentgym/{name}-v1",
                entry_point=f"latentgym.envs.{module}:{name}Env",
                vector_entry_point=f"latentgym.envs.{module}:{name}VectorEnv",
                max_episode_steps=500,
                reward_threshold=475,
            )


register_all()
