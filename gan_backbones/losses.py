"""GAN objectives and gradient penalties as flat functions of logits ``[N]`` and images."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def relativistic_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing (Jolicoeur-Martineau 2018): each real should outscore its fake.

    The pairing keeps a score for every mode of the data, so dropping one costs the generator.
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating counterpart of :func:`relativistic_discriminator`."""
    return F.softplus(real - fake).mean()


def zero_centred_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared norm of the logits' gradient at ``images`` (Mescheder et al. 2018).

    R1 at real images, R2 at generated ones; together they make relativistic training converge
    (Huang et al. 2024, R3GAN).

    Args:
        logits: ``[N]``, computed from ``images``, which must require grad.
        images: ``[N, C, H, W]``.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum(dim=(1, 2, 3)).mean()
