"""Kernel Inception distance (KID) of two sets of features."""

from __future__ import annotations

import numpy as np
import torch

from gan_backbones.metrics.features import checked_features

ROWS = 1000
"""Rows of a kernel matrix in memory at once."""


def kid(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased, of all points (KID, Bińkowski et al. 2018).

    With their kernel ``(x y / F + 1)^3``. Unbiased at any number of images, so it may fall a
    little below 0 where both sets follow one distribution.

    Args:
        real: features ``[N, F]``, N at least 2; float64 inside.
        generated: features ``[M, F]``.

    Raises:
        ValueError: as :func:`frechet_distance`.
    """
    checked_features(real, generated)
    # As they are: this kernel, unlike a distance, depends on where the origin is.
    return _mmd(real.double(), generated.double())


def kid_subsets(
    real: torch.Tensor,
    generated: torch.Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation of :func:`kid` over random subsets, the form papers report.

    Args:
        real: features ``[N, F]``; float64 inside.
        generated: features ``[M, F]``.
        subsets: how many pairs of subsets, each drawn without replacement.
        subset_size: points of each, from 2 to the smaller set's size.
        seed: of the draws.

    Raises:
        ValueError: as :func:`frechet_distance`, or ``subsets`` or ``subset_size`` out of range.
    """
    checked_features(real, generated)
    smaller = min(len(real), len(generated))
    if subsets < 1:
        raise ValueError(f"subsets is {subsets}; it must be at least 1")
    if not 2 <= subset_size <= smaller:
        raise ValueError(
            f"subset_size is {subset_size}; it must lie between 2 and the smaller set's {smaller}"
        )
    rng = np.random.default_rng(seed)

    def draw(features: torch.Tensor) -> torch.Tensor:
        rows = rng.choice(len(features), subset_size, replace=False)
        return features[torch.from_numpy(rows)].double()

    values = np.array([_mmd(draw(real), draw(generated)) for _ in range(subsets)])
    return values.mean().item(), values.std().item()


def _mmd(a: torch.Tensor, b: torch.Tensor) -> float:
    n, m = len(a), len(b)
    between = sum(_kernel_sum(rows, b) for rows in a.split(ROWS))
    return (_within(a) / (n * n - n) + _within(b) / (m * m - m) - 2 * between / (n * m)).item()


def _within(points: torch.Tensor) -> torch.Tensor:
    """The kernel summed over all ordered pairs of two different points."""
    total = points.new_zeros(())
    for start in range(0, len(points), ROWS):
        rows, later = points[start : start + ROWS], points[start + ROWS :]
        own = (rows.square().sum(dim=1) / points.shape[1] + 1).pow(3).sum()
        total += _kernel_sum(rows, rows) - own + 2 * _kernel_sum(rows, later)
    return total


def _kernel_sum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    base = (a @ b.T).div_(a.shape[1]).add_(1).flatten()
    return base.square().dot(base)
