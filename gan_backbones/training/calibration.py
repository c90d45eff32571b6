"""Making a discriminator's logit a probability: Platt scaling on images it was not trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gan_backbones.networks import bake


def fit_platt(
    real: torch.Tensor, generated: torch.Tensor, smoothing: float = 0.0
) -> tuple[float, float]:
    """Scale and shift that make ``sigmoid(scale * logit + shift)`` the probability of being real.

    Logistic regression with Platt's (1999) softened targets, which keep the scale finite even
    where the two sets do not overlap. If all logits are equal they say nothing: the scale is 1, and
    the shift makes the probability the share of real images.

    Args:
        real: the discriminator's logits ``[N]`` of held-out real images.
        generated: its logits ``[M]`` of generated images.
        smoothing: how far the targets stay from 0 and 1. A discriminator that tells most images
            apart would otherwise be pinned to the ends, and say little about how real one looks.
    """
    logits = torch.cat([real, generated]).double()
    targets = torch.cat(
        [
            torch.full((len(real),), (len(real) + 1) / (len(real) + 2), dtype=torch.double),
            torch.full((len(generated),), 1 / (len(generated) + 2), dtype=torch.double),
        ]
    ).clamp(smoothing, 1 - smoothing)
    # Fit on standardised logits: LBFGS then starts near the answer whatever the logits' range.
    centre, spread = logits.mean(), logits.std()
    if spread == 0:
        spread = torch.ones_like(spread)
    parameters = torch.tensor([1.0, 0.0], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = parameters[0] * (logits - centre) / spread + parameters[1]
        value = F.binary_cross_entropy_with_logits(scaled, targets)
        value.backward()
        return value

    optimizer.step(loss)
    slope, intercept = parameters.tolist()
    scale = slope / spread.item()
    return scale, intercept - scale * centre.item()


@torch.no_grad()
def rescale(discriminator: nn.Module, scale: float, shift: float) -> None:
    """Fold ``scale * logit + shift`` into the discriminator's last layer.

    Raises:
        ValueError: a spectrally normalized discriminator, whose weights are recomputed at each
            pass.
    """
    if bake(discriminator) is not discriminator:
        raise ValueError("the discriminator's norm is 'spectral'; bake it before it is rescaled")
    layers: Any = discriminator.layers
    last = layers[-1]
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(shift)
