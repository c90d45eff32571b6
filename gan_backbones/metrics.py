"""How good generated images are, in the feature space of any network."""

from __future__ import annotations

from collections.abc import Callable

import torch


def batched(
    function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch_size: int = 256
) -> torch.Tensor:
    """``function`` over ``inputs`` in batches without autograd, so memory stays bounded."""
    with torch.no_grad():
        return torch.cat([function(batch) for batch in inputs.split(batch_size)])


def precision_recall(
    real: torch.Tensor, generated: torch.Tensor, k: int = 5
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019).

    A set's manifold is the union of balls around its points that reach to the k-th nearest
    neighbour. Precision: share of generated points on the real manifold. Recall: the reverse.

    Args:
        real: features ``[N, F]``.
        generated: features ``[M, F]``.
        k: which neighbour; the point itself does not count.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        ValueError: a set of ``k`` points or fewer.
    """
    if min(len(real), len(generated)) <= k:
        raise ValueError(f"k is {k}; each set needs more points than that")
    return _share_on_manifold(generated, real, k), _share_on_manifold(real, generated, k)


def _share_on_manifold(points: torch.Tensor, manifold: torch.Tensor, k: int) -> float:
    # k + 1: the nearest neighbour of a point in its own set is the point itself.
    radii = torch.cat(
        [_distances(part, manifold).kthvalue(k + 1, dim=1).values for part in manifold.split(1000)]
    )
    inside = [(_distances(part, manifold) <= radii).any(dim=1) for part in points.split(1000)]
    return torch.cat(inside).double().mean().item()


def _distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
