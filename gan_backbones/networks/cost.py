"""What a network costs: its parameters, and its multiply-adds for one image."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gan_backbones.networks.cvae import ConditionalVAE
from gan_backbones.networks.dcgan import bake


class Cost(NamedTuple):
    """Parameters of a network, and the multiply-adds of its convolutions and matrix products.

    Attributes:
        parameters: how many numbers are trained.
        multiply_adds: for one image, forward. Biases, activations, norms and resampling, which
            are few, are not counted.
    """

    parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.multiply_adds / 1e6:,.1f}M multiply-adds"


def cost(network: nn.Module) -> Cost:
    """Count the cost of one of :mod:`gan_backbones.networks`, on a copy without memory."""
    copied = copy.deepcopy(bake(network)).to("meta").eval()
    shapes = _input_shapes(network)
    inputs = [torch.zeros(1, *shape, device="meta", dtype=torch.float32) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copied(*inputs)
    return Cost(
        parameters=sum(parameter.numel() for parameter in copied.parameters()),
        multiply_adds=counter.get_total_flops() // 2,  # a multiply-add is two operations
    )


def _input_shapes(network: Any) -> list[tuple[int, ...]]:
    config = network.config
    image = (config["channels"], config["image_size"], config["image_size"])
    if isinstance(network, ConditionalVAE):
        return [image, (config["outputs"],)]
    return [(config["latent_dim"],)] if "latent_dim" in config else [image]
