"""Networks of the agents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from agents.observations import Observation, boxes, is_image, split

SMALLEST_IMAGE = 8
"""Pixels on a side; of a smaller image the convolutions would leave nothing."""


class NoisyLinear(nn.Linear):
    """A linear layer with learned noise on its weights, so that a policy explores by itself.

    Fortunato et al. 2018, "Noisy networks for exploration", factorised Gaussian noise: the noise of
    a weight is the product of one number per input and one per output. Without noise, as at first,
    it is an ordinary linear layer.

    Args:
        inputs: length of a row.
        outputs: length of its image.
        sigma: the noise's scale at the beginning, in units of ``inputs ** -0.5``.
    """

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.5):
        super().__init__(inputs, outputs)
        scale = sigma * inputs**-0.5
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), scale))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), scale))
        self.register_buffer("noise_in", torch.zeros(inputs), persistent=False)
        self.register_buffer("noise_out", torch.zeros(outputs), persistent=False)

    def draw_noise(self, rng: torch.Generator | None) -> None:
        """Draw anew from ``rng``, a generator on the CPU; ``None`` takes the noise away."""
        for noise in (self.noise_in, self.noise_out):
            if rng is None:
                noise.zero_()
            else:
                drawn = torch.randn(noise.shape, generator=rng)
                noise.copy_(drawn.sign() * drawn.abs().sqrt())

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        noise = torch.outer(self.noise_out, self.noise_in)
        return F.linear(
            rows,
            self.weight + self.weight_sigma * noise,
            self.bias + self.bias_sigma * self.noise_out,
        )


class ImageFeatures(nn.Module):
    """Convolutions over uint8 images: ``[N, H, W, C]`` or ``[N, C, H, W]`` to ``[N, size]``.

    Pixels are scaled to -0.5 to 0.5. The layers of Mnih et al. 2015, padded so that images from 8
    pixels on have features. Channels come first if that axis is the shortest.

    Args:
        shape: of one image.

    Raises:
        ValueError: an image that is too small.
    """

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.channels_first = int(np.argmin(shape)) == 0
        channels, height, width = shape if self.channels_first else (shape[2], *shape[:2])
        if min(height, width) < SMALLEST_IMAGE:
            raise ValueError(
                f"images are {height} x {width} pixels; they must be at least "
                f"{SMALLEST_IMAGE} x {SMALLEST_IMAGE}"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=8, stride=4, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        self.size = 64 * (height // 8) * (width // 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.channels_first:
            images = images.permute(0, 3, 1, 2)
        # Centred: the grey of where nothing happens is nothing.
        return self.layers(images.float() / 255 - 0.5).flatten(1)


class QNetwork(nn.Module):
    """From observations to action values: features of each key, a perceptron, and a head.

    Args:
        space: of one observation: a flat Box, a uint8 image, or a Dict of such.
        actions: how many actions.
        net_arch: widths of the hidden layers.
        dueling: add a state value and the actions' centred advantages (Wang et al. 2016).
        noisy: noisy linear layers; see :class:`NoisyLinear`.

    Maps observations, a tensor ``[N, *shape]`` or one for each key, to float32 ``[N, actions]``.

    Raises:
        ValueError: a space it cannot handle.
    """

    def __init__(
        self,
        space: spaces.Space,
        actions: int,
        net_arch: Sequence[int],
        dueling: bool = False,
        noisy: bool = False,
    ):
        super().__init__()
        linear = NoisyLinear if noisy else nn.Linear
        parts = boxes(space)
        self.features = nn.ModuleList()  # of images; flat observations are their own
        self.parts: list[tuple[str, nn.Module | None]] = []
        size = 0
        for key, box in parts.items():
            if is_image(box):
                self.features.append(ImageFeatures(box.shape))
            self.parts.append((key, self.features[-1] if is_image(box) else None))
            size += self.features[-1].size if is_image(box) else box.shape[0]
        widths = [size, *net_arch]
        self.body = nn.ModuleList(linear(*sizes) for sizes in pairwise(widths))
        self.advantage = linear(widths[-1], actions)
        self.value = linear(widths[-1], 1) if dueling else None

    def draw_noise(self, rng: torch.Generator | None) -> None:
        """Draw all noisy layers' noise from ``rng``, on the CPU; ``None`` takes it away."""
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.draw_noise(rng)

    def forward(self, observations: Observation) -> torch.Tensor:
        parts = split(observations)
        seen = [
            features(parts[key]) if features else parts[key].float() for key, features in self.parts
        ]
        hidden = seen[0] if len(seen) == 1 else torch.cat(seen, dim=1)
        for layer in self.body:
            hidden = torch.relu(layer(hidden))
        advantage = self.advantage(hidden)
        if self.value is None:
            return advantage
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)


def as_one_vector(network: nn.Module) -> torch.Tensor:
    """All parameters side by side, ``[P]``, with a gradient; the network's own become views."""
    with torch.no_grad():
        vector = torch.cat([parameter.flatten() for parameter in network.parameters()])
    vector.grad = torch.zeros_like(vector)
    sizes = [parameter.numel() for parameter in network.parameters()]
    parts = zip(network.parameters(), vector.split(sizes), vector.grad.split(sizes), strict=True)
    for parameter, values, gradient in parts:
        parameter.data = values.view_as(parameter)
        parameter.grad = gradient.view_as(parameter)
    return vector
