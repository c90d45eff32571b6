"""LPIPS, the learned perceptual distance of two images (Zhang et al. 2018), and diversity by it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gan_backbones.metrics.features import as_float, as_rgb, device_of
from gan_backbones.metrics.imagenet import imagenet_weights

SMALLEST = {"alex": 31, "vgg": 16}
"""Sides of the smallest images that the networks can look at, in pixels."""


def load_lpips(net: str = "alex", weights: str | Path | None = None) -> nn.Module:
    """The network of the package ``lpips``, version 0.1, without its download.

    Args:
        net: ``"alex"``, the one to report, or ``"vgg"``.
        weights: as in :func:`gan_backbones.metrics.imagenet_weights`.

    Raises:
        WeightsError: the ImageNet weights are missing, damaged or others.
        ModuleNotFoundError: ``lpips`` is not installed; the message says how to get it.
    """
    tensors = imagenet_weights(net, weights)
    try:
        import lpips
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'LPIPS needs the package lpips: pip install "latentgym[metrics]"', name="lpips"
        ) from None
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision in the old way
        # pnet_rand: an untrained backbone, as a trained one would be downloaded.
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # "slice2.3.weight" there is "3.weight" in torchvision's features.
    network.net.load_state_dict(
        {key: tensors[key.partition(".")[2]] for key in network.net.state_dict()}
    )
    return network.requires_grad_(False).eval()


def lpips_distances(
    network: nn.Module, first: torch.Tensor, second: torch.Tensor, batch_size: int = 64
) -> torch.Tensor:
    """LPIPS of each image of ``first`` and its partner in ``second``.

    Args:
        network: of :func:`load_lpips`.
        first: images ``[N, C, H, W]``, float32 in [-1, 1] or uint8; grey or RGB. The distance
            depends on their size: compare only images of equal size.
        second: images of the same shape.
        batch_size: pairs at once.

    Returns:
        float32 ``[N]``, 0 for equal images.

    Raises:
        ValueError: images of different shapes, or too small for the network.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"first has shape {tuple(first.shape)} and second {tuple(second.shape)}; "
            "they must be equal"
        )
    pairs = zip(first.split(batch_size), second.split(batch_size), strict=True)
    return torch.cat([_distances(network, *pair) for pair in pairs])


def lpips_diversity(
    images: torch.Tensor, network: nn.Module, pairs: int = 1000, seed: int = 0
) -> float:
    """Mean LPIPS of random pairs of a set: how different its images look from one another.

    Compare it with the same figure of real images: noise looks diverse too.

    Args:
        images: ``[N, C, H, W]``, float32 in [-1, 1] or uint8; grey or RGB; N at least 2.
        network: of :func:`load_lpips`.
        pairs: how many different pairs; all of them if there are no more.
        seed: of the choice.

    Raises:
        ValueError: fewer than two images, fewer than one pair, or too small images.
    """
    if len(images) < 2:
        raise ValueError(f"images holds {len(images)}; it must hold at least 2")
    if pairs < 1:
        raise ValueError(f"pairs is {pairs}; it must be at least 1")
    first, second = _random_pairs(len(images), pairs, seed)
    # By parts, so that not all pairs are copied at once.
    parts = zip(first.split(64), second.split(64), strict=True)
    distances = [_distances(network, images[one], images[other]) for one, other in parts]
    return torch.cat(distances).double().mean().item()


@torch.no_grad()
def _distances(network: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    smallest = SMALLEST[network.pnet_type]
    if min(first.shape[2:]) < smallest:
        height, width = first.shape[2:]
        raise ValueError(
            f"images are {height}x{width}; LPIPS with {network.pnet_type} needs a side of "
            f"{smallest} pixels or more"
        )
    device = device_of(network)
    pair = (as_rgb(as_float(images.to(device))) for images in (first, second))
    return network(*pair).flatten().cpu()


def _random_pairs(count: int, pairs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Different unordered pairs out of ``count``, as two columns of indices."""
    total = count * (count - 1) // 2
    chosen = np.random.default_rng(seed).choice(total, min(pairs, total), replace=False)
    # Pair number j (j - 1) / 2 + i is (i, j), i < j.
    j = ((1 + np.sqrt(1 + 8 * chosen.astype(np.float64))) / 2).astype(np.int64)
    i = chosen - j * (j - 1) // 2
    return torch.from_numpy(i), torch.from_numpy(j)
