"""Preparing frozen networks for fast forward passes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gan_backbones import networks


def fold(network: nn.Module) -> nn.Module:
    """A frozen copy that runs faster, with the same outputs up to rounding.

    Batch norm is folded into the convolution before it, inside ``nn.Sequential``, whose layers keep
    their places; other modules are copied as they are. Networks of :mod:`gan_backbones.networks`
    are also laid out channels_last, and their activations work in place, which spares a fresh page
    of memory per value.
    """
    network = copy_network(networks.bake(network)).requires_grad_(False).eval()
    for module in network.modules():
        if type(module) is nn.Sequential:
            _fold_layers(module)
    # Others may call `.view` on activations, which this layout forbids, or keep them for later.
    if any(type(network) in kinds for kinds in networks.KINDS.values()):
        network = network.to(memory_format=torch.channels_last)
        _work_in_place(network)
    return network


@torch.no_grad()  # or a TorchScript module's parameters become computed ones
def copy_network(network: nn.Module) -> nn.Module:
    """A deep copy, also of networks whose spectral or weight norm has just run.

    Those leave computed weights behind that belong to an autograd graph, which ``deepcopy``
    refuses.
    """
    computed = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(network, computed)


def _fold_layers(layers: nn.Sequential) -> None:
    modules: list[Any] = list(layers)
    for i, (layer, norm) in enumerate(itertools.pairwise(modules)):
        if isinstance(norm, nn.BatchNorm2d) and _is_plain_convolution(layer):
            layers[i] = fuse_conv_bn_eval(layer, norm, transpose=layer.transposed)
            layers[i + 1] = nn.Identity()


def _work_in_place(network: nn.Module) -> None:
    """Activations that follow a layer of a Sequential overwrite that layer's output."""
    for module in network.modules():
        if type(module) is nn.Sequential:
            for layer in list(module)[1:]:
                if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
                    layer.inplace = True


def _is_plain_convolution(module: nn.Module) -> bool:
    """Not one whose weight is recomputed at each pass, such as a spectral norm's."""
    plain = type(module) is nn.Conv2d or (type(module) is nn.ConvTranspose2d and module.groups == 1)
    return plain and not module._forward_pre_hooks
