"""Features of images, which every metric here compares: ``[N, F]``, of any network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from gan_backbones.datasets.cartoon_set import to_float
from gan_backbones.utils.images import to_uint8
from gan_backbones.utils.progress import ProgressBar

DELAY = 1.0
"""Seconds after which a progress bar shows."""


def batched(
    function: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    batch_size: int = 256,
    desc: str | None = None,
) -> torch.Tensor:
    """Apply ``function`` to ``inputs`` in batches without autograd, so memory stays bounded.

    With a description a progress bar shows after a second.
    """
    outputs = []
    with (
        torch.no_grad(),
        ProgressBar(total=len(inputs), desc=desc, delay=DELAY, disable=desc is None) as bar,
    ):
        for batch in inputs.split(batch_size):
            outputs.append(function(batch))
            bar.update(len(batch))
    return torch.cat(outputs)


def device_of(network: nn.Module) -> torch.device:
    """Where the network's weights are."""
    return next(network.parameters()).device


def as_float(images: torch.Tensor) -> torch.Tensor:
    """Return images as float32 in [-1, 1], from these or from uint8."""
    return to_float(images) if images.dtype == torch.uint8 else images


def as_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return images as uint8, from uint8 or from [-1, 1]."""
    if images.dtype == torch.uint8:
        return images
    return to_uint8(images)


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey images ``[N, 1, H, W]`` with their channel three times over; RGB ones as they are.

    Raises:
        ValueError: another shape.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images has shape {tuple(images.shape)}; it must be [N, 1, H, W] or [N, 3, H, W]"
        )
    return images.expand(-1, 3, -1, -1)


def checked_features(
    real: torch.Tensor, generated: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets in float64, moved alike so that their common mean is 0, which costs no precision.

    Raises:
        ValueError: not two matrices of equally many columns, fewer than two rows, or a value
            that is not finite.
    """
    for name, features in (("real", real), ("generated", generated)):
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}; it must be [N, F], N at least 2"
            )
        if not features.isfinite().all():
            raise ValueError(f"{name} holds features that are not finite")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features and generated {generated.shape[1]}; "
            "both must come from the same network"
        )
    real, generated = real.double(), generated.double()
    centre = (real.mean(dim=0) + generated.mean(dim=0)) / 2
    return real - centre, generated - centre
