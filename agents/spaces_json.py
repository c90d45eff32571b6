"""Spaces as JSON text, so that a saved agent can be read without running code."""

from __future__ import annotations

import json

import numpy as np
from gymnasium import spaces


def space_to_json(space: spaces.Discrete | spaces.Box) -> str:
    """Describe a `Discrete` or `Box` space; :func:`space_from_json` reads it."""
    if isinstance(space, spaces.Discrete):
        return json.dumps({"type": "Discrete", "n": int(space.n), "start": int(space.start)})
    low, high = space.low.tolist(), space.high.tolist()
    return json.dumps({"type": "Box", "low": low, "high": high, "dtype": str(space.dtype)})


def space_from_json(text: str) -> spaces.Discrete | spaces.Box:
    """The space that :func:`space_to_json` described.

    Raises:
        AssertionError, AttributeError, KeyError, TypeError, ValueError: not such a text.
    """
    described = json.loads(text)
    if described["type"] == "Discrete":
        return spaces.Discrete(described["n"], start=described["start"])
    if described["type"] != "Box":
        raise ValueError(f"unknown space {described['type']!r}")
    dtype = np.dtype(described["dtype"])
    low, high = (np.array(described[bound], dtype) for bound in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype)
