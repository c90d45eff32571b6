"""Networks of the agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from agents.observations import Observation, encode, encoded_size, is_image, subspaces

SMALLEST_IMAGE = 8
"""Pixels on a side; of a smaller image the convolutions would leave nothing."""


@contextmanager
def building(seed: int) -> Iterator[None]:
    """Build networks from ``seed`` on the CPU, whatever state torch is in.

    The default device and inference mode are ignored, and the global random state is restored.
    """
    with torch.inference_mode(False), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed all GPUs
        yield


class NoisyLinear(nn.Linear):
    """A linear layer with learned noise on its weights, so that a policy explores by itself.

    Fortunato et al. 2018, "Noisy networks for exploration", factorised Gaussian noise: the noise of
    a weight is the product of one number per input and one per output. Without noise, as at first,
    it is an ordinary linear layer.

    Args:
        inputs: number of input features.
        outputs: number of output features.
        sigma: initial scale of the noise, in units of ``inputs ** -0.5``.
    """

    noise_in: torch.Tensor
    noise_out: torch.Tensor

    def __init__(self, inputs: int, outputs: int, sigma: float = 0.5):
        super().__init__(inputs, outputs, dtype=torch.float32)
        scale = sigma * inputs**-0.5
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), scale, dtype=torch.float32))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), scale, dtype=torch.float32))
        self.register_buffer("noise_in", torch.zeros(inputs, dtype=torch.float32), persistent=False)
        self.register_buffer(
            "noise_out", torch.zeros(outputs, dtype=torch.float32), persistent=False
        )

    def draw_noise(self, rng: torch.Generator | None) -> None:
        """Draw new noise from ``rng``, a generator on the CPU; ``None`` removes the noise."""
        for noise in (self.noise_in, self.noise_out):
            if rng is None:
                noise.zero_()
            else:
                drawn = torch.randn(noise.shape, generator=rng, device="cpu", dtype=torch.float32)
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

    Pixels are scaled to [-0.5, 0.5]. The layers are those of Mnih et al. 2015, padded so that
    images of at least 8 pixels have features. Channels come first if that axis is the shortest.

    Args:
        shape: shape of one image.

    Raises:
        ValueError: an image that is too small.
    """

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.channels_first = int(np.argmin(shape)) == 0
        channels, height, width = shape if self.channels_first else (shape[2], *shape[:2])
        if min(height, width) < SMALLEST_IMAGE:
            raise ValueError(
                f"images are {height} x {width} pixels; they must be at least "
                f"{SMALLEST_IMAGE} x {SMALLEST_IMAGE}"
            )
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, kernel_size=8, stride=4, padding=2, dtype=torch.float32),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=4, stride=2, padding=1, dtype=torch.float32),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, padding=1, dtype=torch.float32),
            nn.ReLU(),
        )
        self.size = 64 * (height // 8) * (width // 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.channels_first:
            images = images.permute(0, 3, 1, 2)
        # Centered: a plain gray background becomes zero.
        return self.layers(images.float() / 255 - 0.5).flatten(1)


class Features(nn.ModuleList):
    """From observations to float32 rows ``[N, size]``: the features of all keys side by side.

    Images go through convolutions, which are the list's modules; numbers are flattened; choices
    become one-hot.

    Args:
        space: space of one observation; see `agents.observations.subspaces`.

    Raises:
        ValueError: a space it cannot handle.
    """

    def __init__(self, space: spaces.Space):
        super().__init__()
        self.encoders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
        self.size = 0
        for key, part in subspaces(space).items():
            if is_image(part):
                features = ImageFeatures(part.shape)
                self.append(features)
                self.encoders[key] = features
                self.size += features.size
            else:
                self.encoders[key] = partial(encode, part)
                self.size += encoded_size(part)

    def forward(self, observations: Observation) -> torch.Tensor:
        parts = {"": observations} if isinstance(observations, torch.Tensor) else observations
        rows = [encoder(parts[key]) for key, encoder in self.encoders.items()]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)


class QNetwork(nn.Module):
    """From observations to action values: features of each key, a perceptron, and a head.

    Args:
        space: space of one observation; see `agents.observations.subspaces`.
        actions: number of actions.
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
        linear = NoisyLinear if noisy else partial(nn.Linear, dtype=torch.float32)
        self.features = Features(space)
        widths = [self.features.size, *net_arch]
        self.body = nn.ModuleList(linear(*sizes) for sizes in pairwise(widths))
        self.advantage = linear(widths[-1], actions)
        self.value = linear(widths[-1], 1) if dueling else None

    def draw_noise(self, rng: torch.Generator | None) -> None:
        """Draw all noisy layers' noise from ``rng``, on the CPU; ``None`` removes it."""
        for module in self.modules():
            if isinstance(module, NoisyLinear):
                module.draw_noise(rng)

    def forward(self, observations: Observation) -> torch.Tensor:
        hidden = self.features(observations)
        for layer in self.body:
            hidden = torch.relu(layer(hidden))
        advantage = self.advantage(hidden)
        if self.value is None:
            return advantage
        return self.value(hidden) + advantage - advantage.mean(dim=1, keepdim=True)


def multilayer_perceptron(inputs: int, outputs: int, net_arch: Sequence[int]) -> nn.Sequential:
    """Linear layers with ``tanh`` between them: float32 ``[N, inputs]`` to ``[N, outputs]``."""
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width, dtype=torch.float32), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs, dtype=torch.float32))


def clip_gradients(network: nn.Module, max_norm: float) -> float:
    """Scale a network's gradient down to ``max_norm``, and return the norm that it had.

    As `torch.nn.utils.clip_grad_norm_`, which takes five times as long for small networks.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
    if norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def check_computes(networks: Mapping[str, nn.Module], device: torch.device) -> None:
    """Raise a ValueError for a network that was moved to another device or dtype."""
    for name, network in networks.items():
        for parameter in network.parameters():
            if (parameter.dtype, parameter.device) != (torch.float32, _indexed(device)):
                raise ValueError(
                    f"{name} has {str(parameter.dtype).removeprefix('torch.')} parameters on "
                    f"{parameter.device}; it must have float32 ones on {device}"
                )


def check_learns(name: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise a ValueError for a network that its optimizer cannot change."""
    parameters = list(network.parameters())
    if not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(f"no parameter of {name} requires a gradient; nothing can be learned")
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not all(id(parameter) in known for parameter in parameters):
        raise ValueError(
            f"{name} has parameters that its optimizer does not have; "
            "load_state_dict() without assign=True keeps them"
        )


def _indexed(device: torch.device) -> torch.device:
    """``"cuda"`` as ``"cuda:0"``, which is what tensors on it say."""
    return torch.empty(0, device=device).device
