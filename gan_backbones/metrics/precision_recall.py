"""Precision and recall of a set of features, by nearest neighbours."""

from __future__ import annotations

import torch

from gan_backbones.metrics.features import checked_features

ROWS = 1000
"""Rows of a distance matrix in memory at once."""


def precision_recall(
    real: torch.Tensor, generated: torch.Tensor, k: int = 5
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    A set's manifold is the union of balls around its points that reach to the k-th nearest
    neighbour. Precision: share of generated points on the real manifold. Recall: the reverse.

    Args:
        real: features ``[N, F]``; float64 inside.
        generated: features ``[M, F]``.
        k: which neighbour; the point itself does not count.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        ValueError: a set of ``k`` points or fewer, or of the wrong shape.
    """
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"k is {k}; each set needs more points than that")
    real, generated = checked_features(real, generated)
    # Rounding must not push a point off a ball it lies on the edge of, nor a copy off a ball of
    # radius 0.
    edge = 1e-12 * max(part.square().sum(dim=1).max() for part in (real, generated))
    real_reach, generated_reach = (_reach(part, k) + edge for part in (real, generated))
    precise = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    recalled = []
    for rows, reach in zip(real.split(ROWS), real_reach.split(ROWS), strict=True):
        distances = squared_distances(rows, generated)
        precise |= (distances <= reach[:, None]).any(dim=0)
        recalled.append((distances <= generated_reach).any(dim=1))
    return precise.double().mean().item(), torch.cat(recalled).double().mean().item()


def _reach(points: torch.Tensor, k: int) -> torch.Tensor:
    """Squared distance of each point to its ``k``-th neighbour."""
    # k + 1: the nearest neighbour of a point in its own set is the point itself.
    return torch.cat(
        [
            squared_distances(rows, points).topk(k + 1, largest=False).values[:, -1]
            for rows in points.split(ROWS)
        ]
    )


def squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances ``[N, M]`` by one matrix product.

    Fast, and precise where ``a`` and ``b`` are float64 and their mean is about 0.
    """
    distances = torch.addmm(b.square().sum(dim=1)[None], a, b.T, alpha=-2)
    return distances.add_(a.square().sum(dim=1)[:, None])
