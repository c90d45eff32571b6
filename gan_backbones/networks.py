"""The networks of a backbone: generator, discriminator, attribute classifier and judge.

Every network works on square images whose side is a power of two from 16 pixels up.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F


class Generator(nn.Module):
    """DCGAN generator: transposed convolutions, batch norm, ReLU, tanh (Radford et al. 2016).

    Args:
        latent_dim: length of the latent.
        features: channels before the last layer; each layer further in has twice as many, up to
            eight times.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.

    Maps latents float32 ``[N, latent_dim]`` to images float32 ``[N, channels, H, W]`` in [-1, 1].
    """

    def __init__(
        self, latent_dim: int = 100, features: int = 64, channels: int = 3, image_size: int = 64
    ):
        super().__init__()
        self.config = dict(
            latent_dim=latent_dim, features=features, channels=channels, image_size=image_size
        )
        widths = _widths(features, image_size)[::-1]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for width_in, width_out in itertools.pairwise(widths):
            layers += [
                nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_dcgan_init)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents[:, :, None, None])


class Discriminator(nn.Module):
    """Strided convolutions and LeakyReLU(0.2) without normalisation.

    No batch norm: a frozen discriminator's score of an image must not depend on its neighbours,
    and gradient penalties want a function of one image.

    Maps images ``[N, channels, H, W]`` to realism logits ``[N]``.
    """

    def __init__(self, features: int = 64, channels: int = 3, image_size: int = 64):
        super().__init__()
        self.config = dict(features=features, channels=channels, image_size=image_size)
        widths = _widths(features, image_size)
        layers: list[nn.Module] = []
        for width_in, width_out in zip([channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(width_in, width_out, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4))
        self.apply(_he_init)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).reshape(len(images))  # fails at images of another size


class Classifier(nn.Module):
    """Strided convolutions with batch norm, and one softmax head per attribute side by side.

    Maps images ``[N, channels, H, W]`` to attribute logits ``[N, outputs]``; ``outputs`` is the
    schema's ``size``.
    """

    def __init__(self, outputs: int, features: int = 24, channels: int = 3, image_size: int = 64):
        super().__init__()
        self.config = dict(
            outputs=outputs, features=features, channels=channels, image_size=image_size
        )
        widths = [min(w, 4 * features) for w in _widths(features, image_size)]
        layers: list[nn.Module] = []
        for width_in, width_out in zip([channels, *widths], widths, strict=False):
            layers += [
                nn.Conv2d(width_in, width_out, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(16 * widths[-1], outputs)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The last layer's inputs ``[N, F]``."""
        return self.layers(images).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class Judge(nn.Module):
    """A residual network with average pooling: kept unlike :class:`Classifier` on purpose.

    What fools one should not fool the other, so the judge can expose an agent that games the
    classifier. Same inputs and outputs as :class:`Classifier`.
    """

    def __init__(self, outputs: int, features: int = 24, channels: int = 3, image_size: int = 64):
        super().__init__()
        self.config = dict(
            outputs=outputs, features=features, channels=channels, image_size=image_size
        )
        widths = [min(w, 4 * features) for w in _widths(features, image_size)]
        self.stem = nn.Conv2d(channels, features, 5, 2, 2)
        self.blocks = nn.ModuleList(
            _ResidualBlock(width_in, width_out)
            for width_in, width_out in itertools.pairwise(widths)
        )
        self.neck = nn.Linear(16 * widths[-1], 128)
        self.head = nn.Linear(128, outputs)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The last layer's inputs ``[N, 128]``, the space in which image sets are compared."""
        x = F.silu(self.stem(images))
        for block in self.blocks:
            x = block(x)
        return F.silu(self.neck(x.flatten(1)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 shortcut, then 2x2 average pooling."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, 2, 1)
        self.norm = nn.GroupNorm(1, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1)
        self.shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.silu(self.norm(self.conv1(x))))
        return F.silu(y + self.shortcut(F.avg_pool2d(x, 2)))


def _widths(features: int, image_size: int) -> list[int]:
    """Channels at half the image's side, a quarter, ... down to 4 pixels."""
    steps = image_size.bit_length() - 3
    if image_size < 16 or image_size != 4 << steps:
        raise ValueError(f"image_size is {image_size}; it must be a power of two, 16 or more")
    return [features * min(2**step, 8) for step in range(steps)]


def _dcgan_init(module: nn.Module) -> None:
    """Normal weights as in the DCGAN paper."""
    if isinstance(module, nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _he_init(module: nn.Module) -> None:
    """Keeps the scale of activations through LeakyReLU layers that no norm rescales."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, 0.2)
        nn.init.zeros_(module.bias)
