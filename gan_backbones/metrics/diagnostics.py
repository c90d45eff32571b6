"""Figures that show problems while a GAN trains: saturation, overfitting, mode collapse."""

from __future__ import annotations

from typing import Any

import torch

from gan_backbones.metrics.confusion import discriminator_confusion, output_quantiles
from gan_backbones.metrics.precision_recall import ROWS, squared_distances


def mean_pairwise_distance(features: torch.Tensor) -> float:
    """Mean Euclidean distance over all pairs of a batch: it falls towards 0 as modes collapse.

    Args:
        features: of generated images, ``[N, F]``, or the images themselves ``[N, ...]``; N at
            least 2.

    Raises:
        ValueError: fewer than two.
    """
    if len(features) < 2:
        raise ValueError(f"features holds {len(features)} points; it must hold at least 2")
    points = features.flatten(1).double()
    points = points - points.mean(dim=0)
    total = sum(
        squared_distances(rows, points).clamp_(min=0).sqrt_().sum().item()
        for rows in points.split(ROWS)
    )
    return total / (len(points) * (len(points) - 1))


def overfitting_score(
    train: torch.Tensor, validation: torch.Tensor, generated: torch.Tensor
) -> float:
    """``r_v = (D(train) - D(validation)) / (D(train) - D(generated))`` (Karras et al. 2020, ADA).

    Of mean discriminator logits. Near 0 the discriminator takes held-out real images for what it
    was trained on; at 1 it takes them for generated ones: it has memorized its images.

    Args:
        train: logits ``[N]`` of real images it was trained on.
        validation: logits ``[M]`` of real images it was not.
        generated: logits ``[K]`` of generated images.

    Returns:
        The score; NaN where the discriminator does not tell ``train`` from ``generated`` at all,
        because nothing has been memorized then.
    """
    on_train, on_validation, on_generated = (
        logits.double().mean().item() for logits in (train, validation, generated)
    )
    if on_train == on_generated:
        return float("nan")
    return (on_train - on_validation) / (on_train - on_generated)


def saturation(real: torch.Tensor, generated: torch.Tensor) -> dict[str, Any]:
    """How far a discriminator has run ahead: from a saturated one the generator learns little.

    Args:
        real: logits ``[N]`` of real images.
        generated: logits ``[M]`` of generated images.

    Returns:
        Plain JSON data: ``accuracy`` over both sets, and the probabilities' quantiles ``real`` and
        ``generated`` (at :data:`gan_backbones.metrics.QUANTILES`). Saturated is an accuracy near 1
        with all of ``real`` near 1 and all of ``generated`` near 0.

    Raises:
        ValueError: no logits, or logits that are not finite.
    """
    return {
        "accuracy": discriminator_confusion(real, generated)["accuracy"],
        "real": output_quantiles(real),
        "generated": output_quantiles(generated),
    }
