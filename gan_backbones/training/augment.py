"""Differentiable augmentation of what the discriminator sees (Zhao et al. 2020, DiffAugment).

A discriminator that has few images memorizes them. Augmenting the real images alone would
teach the generator to make augmented ones; augmenting real *and* generated ones, in the steps of
both networks, does not, as long as the generator's gradient can pass through. So::

    real, fake = augment(real, policies, rng), augment(fake, policies, rng)

before every call of the discriminator: other draws, the same distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

TRANSLATION = 1 / 8
"""Shifts are up to this share of the side."""

CUTOUT = 1 / 2
"""The side of the square that is cut out, as a share of the image's."""


def augment(images: torch.Tensor, policies: Sequence[str], rng: torch.Generator) -> torch.Tensor:
    """Apply ``policies`` in turn, each with its own draw for each image.

    Args:
        images: float ``[N, C, H, W]`` in [-1, 1]; grey or RGB.
        policies: some of :data:`POLICIES`; none leaves the images as they are.
        rng: of all draws, on the CPU, so that they are the same on every device.

    Returns:
        Like ``images``, and differentiable in them any number of times. Colours may leave [-1, 1].

    Raises:
        ValueError: an unknown policy.
    """
    check_policies(policies)
    for policy in policies:
        images = POLICIES[policy](images, rng)
    return images


def check_policies(policies: Sequence[str]) -> None:
    """Check that all are known and none comes twice.

    Raises:
        ValueError: one line that names the policy and what is allowed.
    """
    for i, policy in enumerate(policies):
        if policy not in POLICIES:
            raise ValueError(f"policy {policy!r} is unknown; allowed: {', '.join(POLICIES)}")
        if policy in policies[:i]:
            raise ValueError(f"policy {policy!r} is named twice; each may be used once")


def color(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Random brightness, saturation and contrast; see :func:`augment`.

    Brightness shifts by up to 0.5 either way. Saturation scales the distance from the pixel's grey
    by 0 to 2 (grey images have none), contrast that from the image's mean by 0.5 to 1.5.
    """
    draws = torch.rand(3, len(images), 1, 1, 1, generator=rng, dtype=torch.float32)
    brightness, saturation, contrast = draws.to(images)
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def translation(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Random shift by whole pixels, up to an eighth of the side; see :func:`augment`.

    What comes in from outside is mid-grey, 0.
    """
    sides = images.shape[2:]
    for dim, side in zip((2, 3), sides, strict=True):
        most = round(TRANSLATION * side)
        start = torch.randint(0, 2 * most + 1, (len(images), 1), generator=rng)
        index = (start + torch.arange(side)).to(images.device)
        index = index[:, None, :, None] if dim == 2 else index[:, None, None, :]
        margin = (0, 0, most, most) if dim == 2 else (most, most, 0, 0)
        images = F.pad(images, margin).gather(dim, index.expand_as(images))
    return images


def cutout(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """A square of half the side, set to mid-grey (0), centred at a random pixel.

    Part of it may lie outside; see :func:`augment`.
    """
    count, _, height, width = images.shape
    inside = []
    for side in (height, width):
        centre = torch.randint(0, side, (count, 1), generator=rng)
        start = centre - round(CUTOUT * side) // 2
        pixels = torch.arange(side)
        inside.append((pixels >= start) & (pixels < start + round(CUTOUT * side)))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hole.to(images.device), 0)


POLICIES = {"color": color, "translation": translation, "cutout": cutout}
"""The policies of :func:`augment` by name, in the paper's order."""
