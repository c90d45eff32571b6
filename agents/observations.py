"""Observation spaces an agent can handle, and their observations as tensors by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

Observation = torch.Tensor | dict[str, torch.Tensor]
"""A tensor ``[N, *shape]`` of a Box space, or one for each key of a Dict space."""


def boxes(space: spaces.Space) -> dict[str, spaces.Box]:
    """The boxes of a space by key; the key of a lone Box is ``""``.

    Raises:
        ValueError: neither a Box nor a Dict of such, each flat or a uint8 image of three axes.
    """
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    if not parts or not all(
        isinstance(part, spaces.Box) and (len(part.shape) == 1 or is_image(part))
        for part in parts.values()
    ):
        raise ValueError(
            f"observation space is {space}; DQN needs a flat Box, a uint8 image, or a Dict of such"
        )
    return parts


def is_image(box: spaces.Box) -> bool:
    """Whether it is uint8 with three axes: height, width and channels, or channels first."""
    return box.dtype == np.uint8 and len(box.shape) == 3


def split(observation: Any) -> dict[str, Any]:
    """Observations by key, as `boxes` names them."""
    return dict(observation) if isinstance(observation, Mapping) else {"": observation}


def join(parts: dict[str, Any]) -> Any:
    """The inverse of `split`."""
    return parts.get("", parts)


def shapes(space: spaces.Space) -> Any:
    """The shape of a Box, or the shapes of a Dict by key."""
    return join({key: box.shape for key, box in boxes(space).items()})
