"""Images as tensors: uint8, and float32 in [-1, 1] as networks use them."""

from __future__ import annotations

import torch


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert images in [-1, 1] to uint8, rounded to the nearest value."""
    return images.float().add(1).mul_(127.5).round_().clamp_(0, 255).byte()
