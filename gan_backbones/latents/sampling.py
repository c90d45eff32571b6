"""Sampling of latents."""

from __future__ import annotations

import torch


def draw_latents(count: int, latent_dim: int, seed: torch.Generator | int = 0) -> torch.Tensor:
    """Draw latents from N(0, I), float32 ``[count, latent_dim]`` on the CPU.

    Args:
        count: number of latents.
        latent_dim: length of a latent.
        seed: random seed, or a random generator on the CPU.
    """
    rng = seed if isinstance(seed, torch.Generator) else torch.Generator("cpu").manual_seed(seed)
    return torch.randn(count, latent_dim, generator=rng, dtype=torch.float32, device="cpu")
