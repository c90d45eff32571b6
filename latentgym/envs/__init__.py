"""The environments, one file each; what they share is in `single` and `vector`."""

from latentgym.envs.latent_edit import LatentEditEnv, LatentEditVectorEnv
from latentgym.envs.latent_edit_continuous import (
    LatentEditContinuousEnv,
    LatentEditContinuousVectorEnv,
)
from latentgym.envs.latent_edit_goal import LatentEditGoalEnv, LatentEditGoalVectorEnv
from latentgym.envs.latent_edit_pixels import LatentEditPixelsEnv, LatentEditPixelsVectorEnv

__all__ = [
    "LatentEditContinuousEnv",
    "LatentEditContinuousVectorEnv",
    "LatentEditEnv",
    "LatentEditGoalEnv",
    "LatentEditGoalVectorEnv",
    "LatentEditPixelsEnv",
    "LatentEditPixelsVectorEnv",
    "LatentEditVectorEnv",
]
