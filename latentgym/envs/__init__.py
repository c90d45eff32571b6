"""The environments, one file each. The editing ones share `edit_env` and `edit_vector_env`."""

from latentgym.envs.cartpole import CartPoleEnv, CartPoleVectorEnv
from latentgym.envs.cartpole_pixels import CartPolePixelsEnv, CartPolePixelsVectorEnv
from latentgym.envs.latent_edit import LatentEditEnv, LatentEditVectorEnv
from latentgym.envs.latent_edit_continuous import (
    LatentEditContinuousEnv,
    LatentEditContinuousVectorEnv,
)
from latentgym.envs.latent_edit_goal import LatentEditGoalEnv, LatentEditGoalVectorEnv
from latentgym.envs.latent_edit_pixels import LatentEditPixelsEnv, LatentEditPixelsVectorEnv

__all__ = [
    "CartPoleEnv",
    "CartPolePixelsEnv",
    "CartPolePixelsVectorEnv",
    "CartPoleVectorEnv",
    "LatentEditContinuousEnv",
    "LatentEditContinuousVectorEnv",
    "LatentEditEnv",
    "LatentEditGoalEnv",
    "LatentEditGoalVectorEnv",
    "LatentEditPixelsEnv",
    "LatentEditPixelsVectorEnv",
    "LatentEditVectorEnv",
]
