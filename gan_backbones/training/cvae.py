"""Training of a conditional VAE, whose decoder is a generator, by the loop that trains GANs too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gan_backbones.latents.sampling import draw_latents
from gan_backbones.networks import ConditionalVAE, Discriminator
from gan_backbones.schema import AttributeSchema
from gan_backbones.training.losses import (
    gaussian_kl,
    gaussian_reconstruction,
    relativistic_discriminator,
    zero_centred_penalty,
)
from gan_backbones.training.trainer import Trainer, TrainingConfig, build, seeded
from gan_backbones.utils.validation import NonNegativeFloat, PositiveFloat, PositiveInt

ROWS, COLUMNS = 3, 10
"""The sample grid: latents, one a row, under labels, one a column."""


@dataclass(frozen=True)
class CVAEConfig(TrainingConfig):
    """Settings of a conditional VAE's training, besides those of every training.

    Attributes:
        latent_dim: length of the latent.
        features: width of encoder and decoder.
        discriminator_features: width of the discriminator.
        learning_rate: step size of both Adam optimizers; decays to a tenth along a cosine.
        scale: standard deviation of a pixel given latent and label. The smaller it is, the sharper
            and more varied the images, and the fewer of them match their label.
        penalty: gamma of the discriminator's R1 and R2.
        penalty_interval: number of iterations between penalties, which are stronger by as much.

    Raises:
        ValueError: a setting of the wrong type or out of range.
    """

    latent_dim: PositiveInt = 100
    features: PositiveInt = 32
    discriminator_features: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-4
    scale: PositiveFloat = 1.0
    penalty: NonNegativeFloat = 2.0
    penalty_interval: PositiveInt = 2

    def networks(
        self, outputs: int, channels: int, image_size: int
    ) -> tuple[ConditionalVAE, Discriminator]:
        """Return a VAE for labels of length ``outputs``, and a discriminator."""
        vae = partial(ConditionalVAE, outputs, self.latent_dim, self.features, channels, image_size)
        discriminator = partial(Discriminator, self.discriminator_features, channels, image_size)
        networks: list[Any] = build(self.seed, vae, discriminator)
        return networks[0], networks[1]


class CVAETrainer(Trainer):
    """Trains a conditional VAE on labelled images (Sohn et al. 2015).

    A discriminator learns alongside to tell real images from decoded ones: it only watches, and
    later scores realism.

    Args:
        config: all settings.
        images: uint8 ``[N, C, H, W]``.
        labels: variant indices int64 ``[N, A]``.
        schema: the attributes.

    Attributes:
        vae: the :class:`~gan_backbones.networks.ConditionalVAE`.
        generator: its decoder.
        discriminator: the onlooker.
    """

    config: CVAEConfig

    title = "training VAE"

    def __init__(
        self,
        config: CVAEConfig,
        images: torch.Tensor,
        labels: torch.Tensor,
        schema: AttributeSchema,
    ):
        self.vae, self.discriminator = config.networks(schema.size, *images.shape[1:3])
        self.generator = self.vae.decoder
        networks = {"vae": self.vae, "discriminator": self.discriminator}
        super().__init__(config, images, networks, trained=tuple(networks))
        self._add_optimizer("vae", config.learning_rate, (0.9, 0.999))
        self._add_optimizer("discriminator", config.learning_rate, (0.0, 0.99))
        self._one_hot = torch.from_numpy(schema.encode_indices(labels.numpy()))
        self._shown = self._one_hot.unique(dim=0).flip(0)[:COLUMNS]
        self._columns = len(self._shown)
        self.vae.train()

    def train_step(self) -> dict[str, torch.Tensor]:
        """One update of the VAE, then one of the discriminator."""
        config = self.config
        rng = seeded(config.seed, self.iteration)
        for name in self._trained:
            self._set_learning_rate(name, config.learning_rate)
        rows = self._rows(self.iteration)
        images, labels = self._batch(rows), self._one_hot[rows].to(self.device)
        with self._autocast():
            mean, log_variance = self.vae.encode(images, labels)
        mean, log_variance = mean.float(), log_variance.float()
        latents = mean + (log_variance / 2).exp() * self._noise(config.latent_dim, rng)
        with self._autocast():
            decoded = self.vae.decoder(latents, labels)
        reconstruction = gaussian_reconstruction(images, decoded.float(), config.scale).mean()
        divergence = gaussian_kl(mean, log_variance).mean()
        self._update("vae", reconstruction + divergence)
        loss = self._update_discriminator(images, labels, self._noise(config.latent_dim, rng))
        return {
            "loss_vae": (reconstruction + divergence).detach(),
            "loss_discriminator": loss,
            "reconstruction": reconstruction.detach(),
            "divergence": divergence.detach(),
        }

    def _update_discriminator(
        self, real: torch.Tensor, labels: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        config = self.config
        with torch.no_grad(), self._autocast():
            self.generator.eval()  # as the generator is used: by its running statistics
            fake = self.generator(latents, labels).float()
            self.generator.train()
        penalised = self.iteration % config.penalty_interval == 0
        images = torch.cat([real, fake]).requires_grad_(penalised)
        with self._autocast():
            logits = self.discriminator(images).float()
        loss = total = relativistic_discriminator(*logits.chunk(2))
        if penalised:
            weight = config.penalty * config.penalty_interval
            total = loss + weight * zero_centred_penalty(logits, images)
        self._update("discriminator", total)
        return loss.detach()

    @torch.no_grad()
    def _samples(self) -> torch.Tensor:
        """Rows of equal noise, columns of equal label."""
        rng = seeded(self.config.seed, -1)
        latents = draw_latents(ROWS, self.config.latent_dim, rng)
        labels = self._shown.repeat(ROWS, 1).to(self.device)
        latents = latents.repeat_interleave(self._columns, dim=0).to(self.device)
        self.generator.eval()
        images = self.generator(latents, labels)
        self.generator.train()
        return images

    def settings(self) -> dict[str, Any]:
        """The configuration less what may differ when resuming, plus the data's size."""
        return {**super().settings(), "outputs": self._one_hot.shape[1]}
