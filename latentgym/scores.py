"""Scores: one number to improve, made from a discriminator's or a classifier's outputs.

All functions are differentiable and batched. A reward is the change of a score in one step:
constant offsets cancel, but a flat region gives no reward.

A target is passed as ``weights`` float ``[N, K]``: each row's wanted variants share a weight of
one, all other columns are zero (see :func:`target_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

LOG_FLOOR = -15.0
"""Log-probabilities are clipped here, so that no single attribute outweighs all others."""


class AttributeColumns:
    """Assignment of K columns to A attributes, as index tensors.

    Attributes of different sizes are padded to the widest, so that one operation handles all.

    Args:
        slices: each attribute's columns, in order, without gaps.
        device: device of the indices.

    Attributes:
        same_attribute: ``[K, K]``: 1 if two columns belong to the same attribute, else 0.
        starts: each attribute's first column, int64 ``[A]``.
    """

    def __init__(self, slices: Sequence[slice], device: str | torch.device = "cpu"):
        sizes = [part.stop - part.start for part in slices]
        padding, width = sum(sizes), max(sizes)
        padded = torch.full((len(sizes), width), padding)
        for row, part in enumerate(slices):
            padded[row, : sizes[row]] = torch.arange(part.start, part.stop)
        self._padded = padded.to(device)
        self._attributes = (
            torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(device)
        )
        self.starts = torch.tensor([part.start for part in slices], device=device)
        self.same_attribute = torch.block_diag(
            *[torch.ones(size, size, dtype=torch.float32) for size in sizes]
        ).to(device)

    def log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Convert logits ``[N, K]`` to log-probabilities: a softmax within each attribute."""
        # Not log_softmax, which starts all threads even for one row.
        totals = torch.logsumexp(self._pad(logits), dim=2)
        return (logits - totals[:, self._attributes]).clamp(min=LOG_FLOOR)

    def labels(self, values: torch.Tensor) -> torch.Tensor:
        """Return the index of each attribute's greatest value: ``[N, K]`` to int64 ``[N, A]``."""
        return self._pad(values).argmax(dim=2)

    def one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        """Convert variant indices int64 ``[N, A]`` to one-hot float32 ``[N, K]``."""
        columns = torch.zeros(
            len(labels), len(self.same_attribute), dtype=torch.float32, device=labels.device
        )
        return columns.scatter_(1, labels + self.starts, 1.0)

    def _pad(self, values: torch.Tensor) -> torch.Tensor:
        """Pad ``[N, K]`` to ``[N, A, widest]``, with minus infinity where there is no variant."""
        return F.pad(values, (0, 1), value=-math.inf)[:, self._padded]


# Realism: discriminator logits [N] to scores [N].
REALISM_SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log_probability": lambda logits: F.logsigmoid(logits).clamp(min=LOG_FLOOR),
    "probability": lambda logits: 100.0 * torch.sigmoid(logits),
    "logit": lambda logits: logits,
}


def target_weights(wanted: torch.Tensor) -> torch.Tensor:
    """Scale one-hot targets ``[N, K]``: each row sums to 1, or to 0 if nothing is wanted."""
    return wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1)


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the mean value ``[N]`` of the wanted variants; 0 if nothing is wanted."""
    return (values * weights).sum(dim=1)


def cosine(
    log_probabilities: torch.Tensor, weights: torch.Tensor, same_attribute: torch.Tensor
) -> torch.Tensor:
    """Return the cosine of probabilities and one-hot target in the targeted attributes, times 100.

    It is flat where the wanted variant is improbable, which makes it hard to improve.
    """
    is_targeted = (weights @ same_attribute) > 0
    return 100.0 * F.cosine_similarity(log_probabilities.exp() * is_targeted, weights, dim=1)


def margin(
    log_probabilities: torch.Tensor, weights: torch.Tensor, same_attribute: torch.Tensor
) -> torch.Tensor:
    """Return the wanted variants' mean log-odds ``log(p / (1 - p))``, within ±LOG_FLOOR."""
    # The sum of the other variants: 1 - p would lose all digits if the target is certain.
    rivals = (log_probabilities.exp() * (weights == 0)) @ same_attribute
    log_odds = log_probabilities - rivals.clamp(min=math.exp(LOG_FLOOR)).log()
    return weighted_mean(log_odds.clamp(max=-LOG_FLOOR), weights)


# Attributes: log-probabilities [N, K], weights [N, K] and same_attribute [K, K] to scores [N].
ATTRIBUTE_SCORES: dict[str, Callable[..., torch.Tensor]] = {
    "log_probability": lambda log_probabilities, weights, _: weighted_mean(
        log_probabilities, weights
    ),
    "cosine": cosine,
    "margin": margin,
}
