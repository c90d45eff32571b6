"""Networks of the agents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class QNetwork(nn.Module):
    """A multi-layer perceptron from observations to action values.

    Args:
        inputs: length of a flat observation.
        actions: how many actions.
        net_arch: widths of the hidden layers.
        dueling: add a state value and the actions' centred advantages (Wang et al. 2016).

    Maps float32 ``[N, inputs]`` to ``[N, actions]``.
    """

    def __init__(self, inputs: int, actions: int, net_arch: Sequence[int], dueling: bool = False):
        super().__init__()
        layers: list[nn.Module] = []
        for width in net_arch:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.advantage = nn.Linear(inputs, actions)
        self.value = nn.Linear(inputs, 1) if dueling else None

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        features = self.body(observations)
        advantage = self.advantage(features)
        if self.value is None:
            return advantage
        return self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
