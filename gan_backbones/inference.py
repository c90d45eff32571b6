"""Preparing frozen networks for fast forward passes."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import torch


def fold(network: nn.Module) -> nn.Module:
    """A frozen copy with batch norm folded into the convolutions before it, in channels_last.

    Same outputs up to rounding. Folding happens inside ``nn.Sequential``; other modules are
    copied as they are.
    """
    network = copy.deepcopy(network).requires_grad_(False).eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Sequential):
            folded = nn.Sequential(*_fold_layers(list(module)))
            if name:
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, folded)
            else:
                network = folded
    return network.requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_layers(layers: list[nn.Module]) -> list[nn.Module]:
    folded: list[nn.Module] = []
    for layer in layers:
        previous = folded[-1] if folded else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            folded[-1] = fuse_conv_bn_eval(previous, layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(previous, nn.ConvTranspose2d):
            folded[-1] = fuse_conv_bn_eval(previous, layer, transpose=True)
        else:
            folded.append(layer)
    return folded
