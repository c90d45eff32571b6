"""Score forms: how a discriminator's and a classifier's outputs become one number to improve.

All functions are differentiable and act on batches. A reward is the difference of a score
between two steps, so a constant offset is of no account but a flat region is.

``same_attribute`` is ``[K, K]``: 1 where two columns belong to the same attribute, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

LOG_FLOOR = -15.0
"""Log-probabilities are cut off here, so that no single attribute outweighs all else."""


def attribute_log_probabilities(logits: torch.Tensor, columns: list[slice]) -> torch.Tensor:
    """Softmax within each attribute: logits ``[N, K]`` to log-probabilities ``[N, K]``."""
    parts = [F.log_softmax(logits[:, part], dim=1) for part in columns]
    return torch.cat(parts, dim=1).clamp(min=LOG_FLOOR)


# Realism: discriminator logits [N] to scores [N].
REALISM_SCORES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "log_probability": lambda logits: F.logsigmoid(logits).clamp(min=LOG_FLOOR),
    "probability": lambda logits: 100.0 * torch.sigmoid(logits),
    "logit": lambda logits: logits,
}


def mean_wanted(values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean of the wanted variants' values; 0 where none is wanted.

    Args:
        values: of each variant, ``[N, K]``.
        wanted: one-hot per attribute, ``[N, K]``; attributes that are all zero are free.
    """
    return (values * wanted).sum(dim=1) / wanted.sum(dim=1).clamp(min=1)


def cosine(
    log_probabilities: torch.Tensor, wanted: torch.Tensor, same_attribute: torch.Tensor
) -> torch.Tensor:
    """Cosine of the probabilities and the one-hot target, over the targeted attributes' columns.

    Times 100, as realism's probability. The form of the work this package grew from. It is flat
    where the wanted variant is improbable, which makes it hard to climb.
    """
    targeted = wanted @ same_attribute
    return 100.0 * F.cosine_similarity(log_probabilities.exp() * targeted, wanted, dim=1)


def margin(
    log_probabilities: torch.Tensor, wanted: torch.Tensor, same_attribute: torch.Tensor
) -> torch.Tensor:
    """Mean over the wanted variants of their log-odds, ``log(p / (1 - p))``, within ±LOG_FLOOR."""
    # The rivals' sum, as 1 - p would lose all digits where the target is certain.
    rivals = (log_probabilities.exp() * (1 - wanted)) @ same_attribute
    log_odds = log_probabilities - rivals.clamp(min=math.exp(LOG_FLOOR)).log()
    return mean_wanted(log_odds.clamp(max=-LOG_FLOOR), wanted)


# Attributes: log-probabilities [N, K], wanted [N, K] and same_attribute [K, K] to scores [N].
ATTRIBUTE_SCORES: dict[str, Callable[..., torch.Tensor]] = {
    "log_probability": lambda log_probabilities, wanted, _: mean_wanted(log_probabilities, wanted),
    "cosine": cosine,
    "margin": margin,
}
