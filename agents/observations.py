"""Observation spaces an agent can handle, and their observations by key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from gymnasium import spaces
from torch.nn import functional as F

Observation = torch.Tensor | dict[str, torch.Tensor]
"""A tensor ``[N, *shape]``, or one for each key of a Dict or Tuple space."""

SIMPLE_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


def subspaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the spaces of a Dict or Tuple by key or position (``"0"``, ...).

    A simple space has the key ``""``.

    Raises:
        ValueError: not a Box, Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple of these.
    """
    found = {"": space}
    if isinstance(space, spaces.Dict):
        found = dict(space.spaces)
    elif isinstance(space, spaces.Tuple):
        found = {str(position): part for position, part in enumerate(space.spaces)}
    if not found or not all(isinstance(part, SIMPLE_SPACES) for part in found.values()):
        raise ValueError(
            f"observation space is {space}; it must be Box, Discrete, MultiBinary or "
            "MultiDiscrete, or a Dict or Tuple of these"
        )
    return found


def split(space: spaces.Space, observation: Any) -> dict[str, Any]:
    """Return an observation, or a batch of them, by the keys of `subspaces`.

    Raises:
        ValueError: keys or a length other than the space's.
    """
    if isinstance(space, spaces.Dict):
        keys = list(space.spaces)
        if not isinstance(observation, Mapping):
            raise ValueError(
                f"observation is {type(observation).__name__}; expected a dict with the keys {keys}"
            )
        if set(observation) != set(keys):
            raise ValueError(f"observation has the keys {list(observation)}; expected {keys}")
        return dict(observation)
    if isinstance(space, spaces.Tuple):
        if not isinstance(observation, (tuple, list)) or len(observation) != len(space.spaces):
            raise ValueError(
                f"observation is {type(observation).__name__}; "
                f"expected a tuple of {len(space.spaces)}"
            )
        return {str(position): part for position, part in enumerate(observation)}
    return {"": observation}


def take(space: spaces.Space, observations: Any, mask: np.ndarray) -> dict[str, Any]:
    """Return some rows of a batch of observations, by key.

    Args:
        space: space of one observation.
        observations: a batch, or an array of objects with one observation per row, as Gymnasium
            gives ``final_obs``.
        mask: bool ``[N]``, the rows.
    """
    if isinstance(observations, np.ndarray) and observations.dtype == object:
        rows = [split(space, observation) for observation in observations[mask]]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return {
        key: part[torch.from_numpy(mask) if isinstance(part, torch.Tensor) else mask]
        for key, part in split(space, observations).items()
    }


def join(parts: dict[str, Any]) -> Any:
    """Return the only part of a simple space, or all parts by key."""
    return parts.get("", parts)


def as_batch(space: spaces.Space, observation: Any) -> tuple[dict[str, Any], bool]:
    """Return one observation or a batch of them as a batch by key, and whether it was one.

    Args:
        space: space of one observation.
        observation: arrays, tensors or numbers, ``[*shape]`` or ``[N, *shape]``.

    Raises:
        ValueError: observations of another shape or kind, or outside the space.
    """
    expected = subspaces(space)
    parts = {
        key: part if isinstance(part, torch.Tensor) else np.asarray(part)
        for key, part in split(space, observation).items()
    }
    single = all(part.shape == expected[key].shape for key, part in parts.items())
    for key, part in parts.items():
        shape, name = expected[key].shape or (), _name(key)
        if not single and (part.ndim == 0 or part.shape[1:] != shape):
            batch = f"(N, {', '.join(map(str, shape))})" if shape else "(N,)"
            raise ValueError(
                f"{name} has shape {tuple(part.shape)}; expected {tuple(shape)} or {batch}"
            )
        if isinstance(part, np.ndarray) and part.dtype.kind not in "biuf":
            raise ValueError(f"{name} has dtype {part.dtype}; expected numbers")
    batched = {key: part[None] if single else part for key, part in parts.items()}
    check_values(expected, batched)
    return batched, single


def check_values(space_of: Mapping[str, spaces.Space], parts: Mapping[str, Any]) -> None:
    """Raise a ValueError for a number that is not finite, or a choice that its space lacks.

    Args:
        space_of: the space of one observation, by key.
        parts: a batch of observations by key, arrays or tensors.
    """
    for key, space in space_of.items():
        values = parts[key]
        if isinstance(space, spaces.Box):
            if np.issubdtype(space.dtype, np.inexact):
                finite = (torch if isinstance(values, torch.Tensor) else np).isfinite(values)
                if not finite.all():
                    raise ValueError(
                        f"{_name(key)} contains {values[~finite][0].item()}; it must be finite"
                    )
        elif isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
            counts, start = _choices(space)
            if isinstance(values, torch.Tensor):
                counts, start = (torch.as_tensor(x, device=values.device) for x in (counts, start))
            if ((values < start) | (values >= start + counts)).any():
                raise ValueError(f"{_name(key)} is outside its space, {space}")


def encode(space: Any, values: torch.Tensor) -> torch.Tensor:
    """Return a batch of one simple space as float32 rows ``[N, encoded_size]``; choices one-hot."""
    rows = values.flatten(1) if values.ndim > 1 else values[:, None]
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return rows.float()
    columns = [
        F.one_hot(column - start, count)
        for column, count, start in zip(rows.unbind(1), *_choice_lists(space), strict=True)
    ]
    return torch.cat(columns, dim=1).float()


def encoded_size(space: Any) -> int:
    """Return the number of numbers per row of `encode`."""
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return math.prod(space.shape)
    counts, _ = _choice_lists(space)
    return sum(counts)


def is_image(space: spaces.Space) -> TypeGuard[spaces.Box]:
    """Return whether it is a uint8 Box of three axes: height, width, channels, in either order."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def layout(space: spaces.Space) -> Any:
    """Return what must not change: shapes of boxes, and all other spaces, by key."""
    return join(
        {
            key: part.shape if isinstance(part, spaces.Box) else part
            for key, part in subspaces(space).items()
        }
    )


def _choices(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[Any, Any]:
    """Return the number of choices and the first: ints, or arrays of the space's shape."""
    if isinstance(space, spaces.Discrete):
        return int(space.n), int(space.start)
    return space.nvec, space.start


def _choice_lists(space: spaces.Discrete | spaces.MultiDiscrete) -> tuple[list[int], list[int]]:
    counts, starts = (np.ravel(part).tolist() for part in _choices(space))
    return counts, starts


def _name(key: str) -> str:
    return f"observation[{key!r}]" if key else "observation"
