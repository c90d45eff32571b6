"""A residual pair after R3GAN's principles (Huang et al. 2024), small enough for a CPU.

No normalisation layer, leaky ReLU throughout, bilinear resampling, residual blocks that start as
the identity. Unlike the paper's, the convolutions are not grouped: on CPUs that saves no time.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from gan_backbones.networks.layers import ResidualBlock, he_init, widths


class ResidualGenerator(nn.Module):
    """A residual block at each size from 4 pixels to the image's, bilinear upsampling between.

    Without a tanh, whose flat ends would slow training, the image may leave [-1, 1] in training
    mode; in evaluation mode it is clamped.

    Args:
        latent_dim: length of the latent.
        features: channels at half the image's side; twice as many at each smaller size, up to
            eight times, and half as many at full size.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.

    Maps latents float32 ``[N, latent_dim]`` to images float32 ``[N, channels, H, W]``.

    Raises:
        ValueError: an ``image_size`` that is not allowed.
    """

    def __init__(
        self, latent_dim: int = 100, features: int = 64, channels: int = 3, image_size: int = 64
    ):
        super().__init__()
        self.config = dict(
            latent_dim=latent_dim, features=features, channels=channels, image_size=image_size
        )
        all_widths = _all_widths(features, image_size)[::-1]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, all_widths[0], 4),
            ResidualBlock(all_widths[0]),
        ]
        for width_in, width_out in itertools.pairwise(all_widths):
            layers += [
                nn.Conv2d(width_in, width_out, 1),  # before the upsampling: a quarter of the work
                nn.Upsample(scale_factor=2, mode="bilinear"),
                ResidualBlock(width_out),
            ]
        layers += [nn.LeakyReLU(0.2), nn.Conv2d(all_widths[-1], channels, 3, 1, 1)]
        self.layers = nn.Sequential(*layers)
        _initialise(self.layers)
        # Unit variance out for N(0, I) in.
        first: Any = self.layers[0]
        nn.init.normal_(first.weight, std=latent_dim**-0.5)
        nn.init.zeros_(first.bias)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        images = self.layers(latents[:, :, None, None])
        return images if self.training else images.clamp(-1, 1)


class ResidualDiscriminator(nn.Module):
    """The mirror image of :class:`ResidualGenerator`: halving by 2x2 means, which are bilinear.

    Args:
        features: channels at half the image's side; twice as many at each smaller size, up to
            eight times, and half as many at full size.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.

    Maps images ``[N, channels, H, W]`` to realism logits ``[N]``.

    Raises:
        ValueError: an ``image_size`` that is not allowed.
    """

    def __init__(self, features: int = 64, channels: int = 3, image_size: int = 64):
        super().__init__()
        self.config = dict(features=features, channels=channels, image_size=image_size)
        all_widths = _all_widths(features, image_size)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, all_widths[0], 3, 1, 1),
            ResidualBlock(all_widths[0]),
        ]
        for width_in, width_out in itertools.pairwise(all_widths):
            layers += [
                nn.AvgPool2d(2),
                nn.Conv2d(width_in, width_out, 1),
                ResidualBlock(width_out),
            ]
        layers += [nn.LeakyReLU(0.2), nn.Conv2d(all_widths[-1], 1, 4)]
        self.layers = nn.Sequential(*layers)
        _initialise(self.layers)

    def feature_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What each block passes on, ``[N, width, H, W]`` and further down to 4x4."""
        maps, x = [], images
        for layer in self.layers[:-1]:
            x = layer(x)
            if isinstance(layer, ResidualBlock):
                maps.append(x)
        return [*maps[:-1], x]  # the last one's after the activation before the head

    def logits(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """The realism logits of images whose :meth:`feature_maps` are known: no second pass."""
        return self.layers[-1](maps[-1]).reshape(len(maps[-1]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).reshape(len(images))  # fails at images of another size


def _all_widths(features: int, image_size: int) -> list[int]:
    """Channels at the image's side, half of it, ... down to 4 pixels."""
    return [max(features // 2, 1), *widths(features, image_size)]


def _initialise(layers: nn.Sequential) -> None:
    layers.apply(he_init)
    for layer in layers:
        if isinstance(layer, ResidualBlock):
            layer.start_as_identity()
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")  # no LeakyReLU before it
