"""What a discriminator takes for real: its confusion matrix and the spread of its outputs."""

from __future__ import annotations

from typing import Any

import torch

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def discriminator_confusion(
    real: torch.Tensor, generated: torch.Tensor, threshold: float = 0.0
) -> dict[str, Any]:
    """How well logits tell held-out real images from generated ones; "real" is the positive class.

    A good generator lowers these figures and a good discriminator raises them, so compare them with
    a distance between the image sets.

    Args:
        real: logits ``[N]`` of real images, which the discriminator must not have been trained on.
        generated: logits ``[M]`` of generated images.
        threshold: a logit above it counts as "real"; 0 is a probability of one half.

    Returns:
        Plain JSON data: ``matrix``: counts ``[[real as real, real as generated], [generated as
        real, generated as generated]]``; ``accuracy`` over all images; ``true_positive_rate``:
        share of real images taken for real; ``true_negative_rate``: share of generated images
        taken for generated.

    Raises:
        ValueError: no logits, or logits that are not finite.
    """
    matrix = []
    for name, logits in (("real", real), ("generated", generated)):
        _check_logits(name, logits)
        accepted = (logits > threshold).sum().item()
        matrix.append([accepted, len(logits) - accepted])
    (true_positives, false_negatives), (false_positives, true_negatives) = matrix
    return {
        "matrix": matrix,
        "accuracy": (true_positives + true_negatives) / (len(real) + len(generated)),
        "true_positive_rate": true_positives / (true_positives + false_negatives),
        "true_negative_rate": true_negatives / (true_negatives + false_positives),
    }


def output_quantiles(logits: torch.Tensor) -> list[float]:
    """The :data:`QUANTILES` of the probabilities that ``logits [N]`` stand for."""
    _check_logits("logits", logits)
    probabilities = torch.sigmoid(logits.double())
    return torch.quantile(probabilities, probabilities.new_tensor(QUANTILES)).tolist()


def _check_logits(name: str, logits: torch.Tensor) -> None:
    if logits.ndim != 1 or not len(logits):
        raise ValueError(f"{name} has shape {tuple(logits.shape)}; it must be [N], N at least 1")
    if not logits.isfinite().all():
        raise ValueError(f"{name} holds logits that are not finite")
