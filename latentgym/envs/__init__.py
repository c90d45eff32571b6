"""The environments, one file each."""

from latentgym.envs.cartpole import CartPoleEnv, CartPoleVectorEnv
from latentgym.envs.cartpole_pixels import CartPolePixelsEnv, CartPolePixelsVectorEnv
from latentgym.envs.latent_edit import LatentEditEnv, LatentEditVectorEnv

__all__ = [
    "CartPoleEnv",
    "CartPolePixelsEnv",
    "CartPolePixelsVectorEnv",
    "CartPoleVectorEnv",
    "LatentEditEnv",
    "LatentEditVectorEnv",
]
