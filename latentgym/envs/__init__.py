"""The environments, one file each."""

from latentgym.envs.latent_edit import LatentEditEnv, LatentEditVectorEnv

__all__ = ["LatentEditEnv", "LatentEditVectorEnv"]
