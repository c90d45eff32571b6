"""DCGAN's generator and discriminator (Radford et al. 2016), with variants."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from gan_backbones.networks.layers import dcgan_init, he_init, widths
from gan_backbones.utils.validation import check_choice

UPSAMPLINGS = ("transposed", "upconv")
NORMS = ("none", "batch", "spectral")


class Generator(nn.Module):
    """DCGAN generator: upsampling convolutions, batch norm, ReLU, tanh (Radford et al. 2016).

    Args:
        latent_dim: length of the latent.
        features: channels before the last layer; each layer further in has twice as many, up to
            eight times.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.
        upsampling: ``"transposed"``: transposed 4x4 convolutions with stride 2, as in the paper.
            ``"upconv"``: each pixel doubled, then a 3x3 convolution. All pixels are then made
            alike, which avoids checkerboard patterns (Odena et al. 2016).

    Maps latents float32 ``[N, latent_dim]`` to images float32 ``[N, channels, H, W]`` in [-1, 1].

    Raises:
        ValueError: an ``image_size`` or ``upsampling`` that is not allowed.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        features: int = 64,
        channels: int = 3,
        image_size: int = 64,
        upsampling: str = "transposed",
    ):
        super().__init__()
        self.config = dict(
            latent_dim=latent_dim,
            features=features,
            channels=channels,
            image_size=image_size,
            upsampling=upsampling,
        )
        self.layers = generator_layers(latent_dim, features, channels, image_size, upsampling)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(latents[:, :, None, None])


class Discriminator(nn.Module):
    """DCGAN discriminator: strided convolutions and LeakyReLU(0.2).

    Args:
        features: channels of the first layer; each layer further in has twice as many, up to
            eight times.
        channels: 3 for RGB, 1 for grey.
        image_size: side of the image in pixels.
        norm: ``"none"``. ``"batch"``: batch norm between the first and the last layer, as in the
            paper; in training an image's score then depends on its neighbours, so gradient
            penalties make no sense. ``"spectral"``: each layer's largest singular value is kept
            at 1 (Miyato et al. 2018); see :func:`bake`.

    Maps images ``[N, channels, H, W]`` to realism logits ``[N]``.

    Raises:
        ValueError: an ``image_size`` or ``norm`` that is not allowed.
    """

    def __init__(
        self, features: int = 64, channels: int = 3, image_size: int = 64, norm: str = "none"
    ):
        super().__init__()
        self.config = dict(features=features, channels=channels, image_size=image_size, norm=norm)
        normalised = check_choice("norm", norm, NORMS) == "batch"
        layers: list[nn.Module] = []
        all_widths = widths(features, image_size)
        for i, (width_in, width_out) in enumerate(itertools.pairwise([channels, *all_widths])):
            with_norm = normalised and i > 0
            layers.append(nn.Conv2d(width_in, width_out, 4, 2, 1, bias=not with_norm))
            if with_norm:
                layers.append(nn.BatchNorm2d(width_out))
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, nn.Conv2d(all_widths[-1], 1, 4))
        self.apply(he_init)
        if norm == "spectral":
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    parametrizations.spectral_norm(layer)

    def feature_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The activations of each hidden layer, ``[N, width, H / 2, W / 2]`` and further down."""
        maps, x = [], images
        for layer in self.layers[:-1]:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                maps.append(x)
        return maps

    def logits(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """The realism logits of images whose :meth:`feature_maps` are known: no second pass."""
        return self.layers[-1](maps[-1]).reshape(len(maps[-1]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images).reshape(len(images))  # fails at images of another size


def bake(network: nn.Module) -> nn.Module:
    """A network with plain weights that does what ``network`` does in evaluation mode.

    A spectrally normalised :class:`Discriminator` becomes a copy with ``norm="none"`` whose
    weights are the normalised ones: to be frozen, saved, or rescaled. Others are returned as they
    are.
    """
    if not isinstance(network, Discriminator) or network.config["norm"] != "spectral":
        return network
    # A copy, as reading a weight in training mode takes another step of the power iteration. And a
    # new network: removing the parametrisations would remove those of the original's class too.
    layers = copy.deepcopy(network.layers).eval()
    weights = {
        f"layers.{i}.{name}": getattr(layer, name).detach()
        for i, layer in enumerate(layers)
        if isinstance(layer, nn.Conv2d)
        for name in ("weight", "bias")
    }
    with torch.device("meta"):  # draws no initial weights, which are overwritten at once
        config: dict[str, Any] = network.config
        baked = Discriminator(**{**config, "norm": "none"})
    baked.load_state_dict(weights, assign=True)
    return baked.train(network.training)


def generator_layers(
    inputs: int, features: int, channels: int, image_size: int, upsampling: str
) -> nn.Sequential:
    """From ``[N, inputs, 1, 1]`` to images; see :class:`Generator` for the arguments."""
    check_choice("upsampling", upsampling, UPSAMPLINGS)
    all_widths = widths(features, image_size)[::-1]
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(inputs, all_widths[0], 4, bias=False),
        nn.BatchNorm2d(all_widths[0]),
        nn.ReLU(),
    ]
    for width_in, width_out in itertools.pairwise(all_widths):
        layers += _double(width_in, width_out, upsampling, bias=False)
        layers += [nn.BatchNorm2d(width_out), nn.ReLU()]
    layers += [*_double(all_widths[-1], channels, upsampling, bias=True), nn.Tanh()]
    return nn.Sequential(*layers).apply(dcgan_init)


def _double(width_in: int, width_out: int, upsampling: str, bias: bool) -> list[nn.Module]:
    """Layers that double the side."""
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=bias)]
    return [nn.Upsample(scale_factor=2), nn.Conv2d(width_in, width_out, 3, 1, 1, bias=bias)]
