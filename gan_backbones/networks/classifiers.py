"""Two attribute classifiers of different architecture: classifier and judge."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn import functional as F

from gan_backbones.networks.layers import widths as layer_widths


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
        widths = [min(w, 4 * features) for w in layer_widths(features, image_size)]
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
        widths = [min(w, 4 * features) for w in layer_widths(features, image_size)]
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
    """Two 3x3 convolutions plus a 1x1 shortcut, then 2x2 average pooling."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, 2, 1)
        self.norm = nn.GroupNorm(1, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1)
        self.shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.silu(self.norm(self.conv1(x))))
        return F.silu(y + self.shortcut(F.avg_pool2d(x, 2)))
