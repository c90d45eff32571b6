"""A semi-cooperative game: the discriminator is punished and rewarded, and helps the generator.

In a plain GAN a discriminator that is always right leaves the generator nothing to learn from. In
this game it pays for being right in most epochs. Every few epochs it may recover: it studies real
images alone, then is rewarded for being right on the others mixed with generated ones. The
generator gets feedback beyond the logit: how far the discriminator's feature maps of its images
are from those of real ones (feature matching, Salimans et al. 2016).

Accuracy counts right answers and so has no gradient. The reward uses :func:`soft_accuracy`
instead: how often one would be right who calls an image real with the probability that the
discriminator gives it. For an image whose right answer has probability p, cross-entropy pulls the
logit with force 1 - p; punishment makes that (1 - p)(1 - weight * p / 2), reward
(1 - p)(1 + weight * p / 2). So a weight below 2 slows or speeds the discriminator, most where it is
sure, and never turns it round.

A training step of the game, which differs from the usual one in three places::

    phase = game.phase(epoch, batches_done / batches_per_epoch)
    # Discriminator. Under "study" there are no generated images: fake_logits is None.
    loss = game.discriminator_loss(phase, real_logits, fake_logits, real_targets, fake_targets)
    # Generator, which rests under "study".
    with torch.no_grad():
        real_maps = discriminator.feature_maps(real)
    fake_maps = discriminator.feature_maps(fake)
    loss = objective.generator(None, discriminator.logits(fake_maps))
    loss = loss + game.feedback_term(real_maps, fake_maps)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch.nn import functional as F

from gan_backbones.training.losses import Targets, bce_discriminator, cross_entropy
from gan_backbones.utils.validation import NonNegativeFloat, PositiveInt, Range, check_fields


@dataclass(frozen=True)
class RewardPunishment:
    """The settings of the game, and what they add to the losses.

    Attributes:
        punishment: weight of soft accuracy beyond chance, in punishment epochs (lambda_P).
        reward: weight of soft accuracy on the mix, in reward epochs (lambda_R).
        feedback: weight of the generator's :func:`feature_distance` (lambda_FB).
        punishment_epochs: how many there are before each reward epoch (N).
        study: share of a reward epoch's images that are studied without generated ones.

    Raises:
        ValueError: a setting of the wrong type or out of range.
    """

    punishment: NonNegativeFloat
    reward: NonNegativeFloat
    feedback: NonNegativeFloat
    punishment_epochs: PositiveInt = 4
    study: Annotated[float, Range(above=0, below=1)] = 0.5

    def __post_init__(self):
        check_fields(self)

    def phase(self, epoch: int, progress: float) -> str:
        """What is played now: ``"punishment"``, ``"study"`` or ``"reward"``.

        Args:
            epoch: passes over the data completed so far.
            progress: share of the present one that is done, from 0 to below 1.
        """
        if epoch % (self.punishment_epochs + 1) < self.punishment_epochs:
            return "punishment"
        return "study" if progress < self.study else "reward"

    def discriminator_loss(
        self,
        phase: str,
        real: torch.Tensor,
        fake: torch.Tensor | None,
        real_targets: Targets = 1.0,
        fake_targets: Targets = 0.0,
    ) -> torch.Tensor:
        """Cross-entropy with what :meth:`phase` adds to it.

        Args:
            phase: what is played.
            real: logits ``[N]`` of real images.
            fake: logits ``[M]`` of generated ones; not looked at under ``"study"``.
            real_targets: see :func:`gan_backbones.training.losses.bce_discriminator`.
            fake_targets: the same for generated images.
        """
        if phase == "study":
            return cross_entropy(real, real_targets)
        assert fake is not None
        loss = bce_discriminator(real, fake, real_targets, fake_targets)
        accuracy = soft_accuracy(real, fake)
        if phase == "reward":
            return loss - self.reward * accuracy
        # Right more often than a coin is more than a fair game's equilibrium has.
        return loss + self.punishment * F.relu(accuracy - 0.5)

    def feedback_term(
        self, real_maps: Sequence[torch.Tensor], fake_maps: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """What the generator's loss gains in every phase it is trained in.

        Args:
            real_maps: the discriminator's ``feature_maps`` of real images.
            fake_maps: those of generated ones, which the gradient goes through.
        """
        return self.feedback * feature_distance(real_maps, fake_maps)


PRESETS = {
    "S1": RewardPunishment(0.6, 0.25, 0.1),
    "S2": RewardPunishment(0.4, 0.1, 0.02),
    "S3": RewardPunishment(0.3, 0.05, 0.01),
}
"""Settings from strong to gentle."""


def soft_accuracy(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The mean probability of the right answer, a differentiable stand-in for accuracy.

    Real and generated images count alike, however many there are of each.

    Args:
        real: logits ``[N]`` of real images.
        fake: logits ``[M]`` of generated ones.

    Returns:
        A scalar in [0, 1]; 0.5 if the two cannot be told apart.
    """
    return (torch.sigmoid(real).mean() + torch.sigmoid(-fake).mean()) / 2


def feature_distance(
    real_maps: Sequence[torch.Tensor], fake_maps: Sequence[torch.Tensor]
) -> torch.Tensor:
    """L1 distance of the batches' mean feature maps, averaged over the maps' elements and layers.

    Of the means, as real and generated images are no pairs: the distance of each generated image
    from a random real one would be least where all of them are the median.

    Args:
        real_maps: one ``[N, C, H, W]`` per layer; constants, no gradient flows into them.
        fake_maps: those of generated images, ``[M, C, H, W]``.
    """
    distances = [
        F.l1_loss(fake.mean(dim=0), real.detach().mean(dim=0))
        for real, fake in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(distances).mean()
