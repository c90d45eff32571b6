"""A conditional variational autoencoder (Sohn, Lee and Yan 2015) on DCGAN's layers.

The label says *what* is in the image, the latent *how* it looks: the latent's prior is N(0, I) for
every label, and any latent may be decoded under any label.

As in that paper, the image is decoded from a code whose prior depends on the label: N(mean, I), the
mean learned. The latent is the code less that mean. With one prior for all labels, the code also
learns to say what is in the image, and the decoder ignores the label.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from gan_backbones.networks.dcgan import generator_layers
from gan_backbones.networks.layers import he_init, widths


class ConditionalGenerator(nn.Module):
    """The generation network p(image | latent, label): DCGAN's layers on both side by side.

    Args:
        latent_dim: length of the latent.
        outputs: length of the label, the schema's ``size``.
        features: channels before the last layer; each layer further in has twice as many, up to
            eight times.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.

    Attributes:
        layers: DCGAN's layers, from code and label to image.
        prior_mean: from labels to means of the code's prior, ``[N, latent_dim]``.
        label: buffer ``[outputs]``, the one-hot label of all images when a call brings none.
            Environments edit latents under it; ``Backbone.condition`` sets it. Zeros at first,
            which is no label seen in training.

    Raises:
        ValueError: an ``image_size`` that is not allowed.
    """

    def __init__(
        self,
        latent_dim: int,
        outputs: int,
        features: int = 64,
        channels: int = 3,
        image_size: int = 64,
    ):
        super().__init__()
        self.config = dict(
            latent_dim=latent_dim,
            outputs=outputs,
            features=features,
            channels=channels,
            image_size=image_size,
        )
        self.layers = generator_layers(
            latent_dim + outputs, features, channels, image_size, "transposed"
        )
        # A label's single 1 would drown among the latent's numbers. While it does, the recognition
        # network learns to put what is in the image into the latent, and it stays there.
        with torch.no_grad():
            first: Any = self.layers[0]
            first.weight[latent_dim:].mul_(latent_dim**0.5)
        self.prior_mean = nn.Sequential(
            nn.Linear(outputs, 4 * features), nn.LeakyReLU(0.2), nn.Linear(4 * features, latent_dim)
        )
        self.label: torch.Tensor
        self.register_buffer("label", torch.zeros(outputs, dtype=torch.float32))

    def forward(self, latents: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Make images.

        Args:
            latents: float32 ``[N, latent_dim]``.
            labels: one-hot float32 ``[N, outputs]``; left out, all have the label held fixed.

        Returns:
            Images float32 ``[N, channels, H, W]`` in [-1, 1].
        """
        if labels is None:
            labels = self.label.expand(len(latents), -1)
        codes = latents + self.prior_mean(labels)
        return self.layers(torch.cat([codes, labels], dim=1)[:, :, None, None])


class ConditionalVAE(nn.Module):
    """Recognition network q(latent | image, label) and the :class:`ConditionalGenerator`.

    Args:
        outputs: length of the label, the schema's ``size``.
        latent_dim: length of the latent.
        features: width of both networks.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.

    Attributes:
        decoder: the :class:`ConditionalGenerator`, which is what a backbone keeps.

    Raises:
        ValueError: an ``image_size`` that is not allowed.
    """

    def __init__(
        self,
        outputs: int,
        latent_dim: int = 20,
        features: int = 32,
        channels: int = 3,
        image_size: int = 64,
    ):
        super().__init__()
        self.config = dict(
            outputs=outputs,
            latent_dim=latent_dim,
            features=features,
            channels=channels,
            image_size=image_size,
        )
        all_widths = widths(features, image_size)
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise([channels, *all_widths]):
            layers += [
                nn.Conv2d(width_in, width_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.LeakyReLU(0.2),
            ]
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(16 * all_widths[-1] + outputs, 4 * features),
            nn.LeakyReLU(0.2),
            nn.Linear(4 * features, 2 * latent_dim),
        )
        self.apply(he_init)
        self.decoder = ConditionalGenerator(latent_dim, outputs, features, channels, image_size)

    def encode(
        self, images: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The Gaussian over latents that an image and its label suggest.

        Args:
            images: float32 ``[N, channels, H, W]`` in [-1, 1].
            labels: one-hot float32 ``[N, outputs]``.

        Returns:
            Its mean and the logarithm of its variances, ``[N, latent_dim]`` each.
        """
        mean, log_variance = self.head(torch.cat([self.layers(images), labels], dim=1)).chunk(2, 1)
        return mean - self.decoder.prior_mean(labels), log_variance

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, rng: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode, draw a latent each, and decode.

        Args:
            images: float32 ``[N, channels, H, W]`` in [-1, 1].
            labels: one-hot float32 ``[N, outputs]``.
            rng: of the draw, on the CPU; left out, the mean is decoded.

        Returns:
            Reconstructions like ``images``, and what :meth:`encode` returns.
        """
        mean, log_variance = self.encode(images, labels)
        latents = mean if rng is None else reparametrise(mean, log_variance, rng)
        return self.decoder(latents, labels), mean, log_variance


def reparametrise(
    mean: torch.Tensor, log_variance: torch.Tensor, rng: torch.Generator
) -> torch.Tensor:
    """A draw from a diagonal Gaussian, differentiable in its parameters (Kingma & Welling 2014).

    Args:
        mean: ``[N, latent_dim]``.
        log_variance: like ``mean``.
        rng: on the CPU, so that the noise is the same on every device.
    """
    noise = torch.randn(mean.shape, generator=rng, dtype=torch.float32).to(mean)
    return mean + (log_variance / 2).exp() * noise
