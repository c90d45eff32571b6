"""The floor: random actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


class RandomPolicy:
    """Uniformly random actions.

    Args:
        action_space: action space of one environment.
        seed: random seed of the policy; the space's own generator stays untouched.
    """

    def __init__(self, action_space: spaces.Discrete, seed: int = 0):
        self._rng = np.random.default_rng(seed)
        self._space = action_space

    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        """One action per observation."""
        start, count = int(self._space.start), len(observation)
        return start + self._rng.integers(self._space.n, size=count), None
