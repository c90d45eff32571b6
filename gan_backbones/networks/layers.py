"""What the networks share: their widths, their initial weights and the residual block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def widths(features: int, image_size: int) -> list[int]:
    """Channels at half the image's side, a quarter, ... down to 4 pixels.

    Raises:
        ValueError: ``image_size`` is not a power of two, or below 16.
    """
    steps = image_size.bit_length() - 3
    if image_size < 16 or image_size != 4 << steps:
        raise ValueError(f"image_size is {image_size}; it must be a power of two, 16 or more")
    return [features * min(2**step, 8) for step in range(steps)]


def dcgan_init(module: nn.Module) -> None:
    """Normal weights as in the DCGAN paper."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def he_init(module: nn.Module) -> None:
    """Keeps the scale of activations through LeakyReLU layers that no norm rescales."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        nn.init.kaiming_normal_(module.weight, 0.2)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions through half the width, each after a LeakyReLU, added to the input.

    The second one starts at zero, so that the block starts as the identity: without normalisation
    layers, that keeps the scale of activations whatever the depth (Zhang et al. 2019, Fixup).
    """

    def __init__(self, width: int):
        super().__init__()
        hidden = max(width // 2, 1)
        self.branch = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, hidden, 3, 1, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, width, 3, 1, 1),
        )

    def start_as_identity(self) -> None:
        """Set the weights of the last convolution to zero."""
        last: Any = self.branch[-1]
        nn.init.zeros_(last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)
