"""Spaces as JSON text, so that a saved agent can be read without running code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces


def space_to_json(space: spaces.Space) -> str:
    """Describe a space of boxes and choices; `space_from_json` reads it.

    Args:
        space: `Box`, `Discrete`, `MultiBinary`, `MultiDiscrete`, or a `Dict` or `Tuple` of these.

    Raises:
        ValueError: another space.
    """
    return json.dumps(_describe(space))


def space_from_json(text: str) -> spaces.Space:
    """The space that :func:`space_to_json` described.

    Raises:
        AssertionError, AttributeError, KeyError, TypeError, ValueError: not such a text.
    """
    return _read(json.loads(text))


def _describe(space: spaces.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        parts = {key: _describe(part) for key, part in space.spaces.items()}
        return {"type": "Dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [_describe(part) for part in space.spaces]}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": list(space.shape)}
    if isinstance(space, spaces.MultiDiscrete):
        counts, start = space.nvec.tolist(), space.start.tolist()
        dtype = str(space.dtype)
        return {"type": "MultiDiscrete", "nvec": counts, "start": start, "dtype": dtype}
    if not isinstance(space, spaces.Box):
        raise ValueError(f"{space} cannot be saved")
    return {
        "type": "Box",
        "shape": list(space.shape),
        "dtype": str(space.dtype),
        "low": _shortened(space.low),
        "high": _shortened(space.high),
    }


def _read(described: Mapping[str, Any]) -> spaces.Space:
    kind = described["type"]
    if kind == "Dict" and "spaces" in described:
        return spaces.Dict({key: _read(part) for key, part in described["spaces"].items()})
    if kind == "Tuple":
        return spaces.Tuple([_read(part) for part in described["spaces"]])
    if kind == "Discrete":
        return spaces.Discrete(described["n"], start=described["start"])
    if kind == "MultiBinary":
        shape = described["n"]
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    if kind == "MultiDiscrete":
        dtype = np.dtype(described["dtype"])
        return spaces.MultiDiscrete(described["nvec"], dtype=dtype.type, start=described["start"])
    if kind != "Box":
        raise ValueError(f"unknown space {kind!r}")
    shape, dtype = tuple(described["shape"]), np.dtype(described["dtype"])
    low, high = (
        np.broadcast_to(np.array(described[bound], dtype), shape) for bound in ("low", "high")
    )
    return spaces.Box(low, high, dtype=dtype.type)


def _shortened(bound: np.ndarray) -> Any:
    """One number where all are the same: images have many."""
    return bound.flat[0].item() if (bound == bound.flat[0]).all() else bound.tolist()
