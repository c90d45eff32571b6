"""Experience replay: a ring of transitions that are sampled uniformly (Lin 1992)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Batch:
    """Transitions, one per row.

    Attributes:
        observations, next_observations: float32 ``[B, D]``.
        actions: int64 ``[B]``.
        rewards: float32 ``[B]``.
        discounts: float32 ``[B]``: what the value of ``next_observations`` counts for; 0 where
            the episode terminated.
    """

    observations: torch.Tensor
    next_observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor


class ReplayBuffer:
    """A ring of the last ``capacity`` transitions on the learner's device.

    One transition is one float32 record, so that sampling a batch is a single gather.

    Args:
        capacity: how many transitions.
        observation_size: length of a flat observation.
        device: where the records lie.
    """

    def __init__(self, capacity: int, observation_size: int, device: torch.device | str = "cpu"):
        self.capacity = capacity
        self.observation_size = observation_size
        # Zeroed pages are only backed by memory once written, so an unfilled buffer costs little.
        self._records = torch.zeros(capacity, 2 * observation_size + 3, device=device)
        self._next = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(
        self,
        observations: np.ndarray,
        next_observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        discounts: np.ndarray,
    ) -> None:
        """Store N transitions (N at most ``capacity``), overwriting the oldest.

        Args:
            observations: ``[N, D]``.
            next_observations: ``[N, D]``.
            actions: ``[N]``.
            rewards: ``[N]``.
            discounts: ``[N]``.
        """
        count = len(actions)
        if not count:
            return
        record = np.concatenate(
            [observations, next_observations, np.stack([actions, rewards, discounts], axis=1)],
            axis=1,
            dtype=np.float32,
        )
        records = torch.from_numpy(record).to(self._records.device)
        head = min(count, self.capacity - self._next)
        self._records[self._next : self._next + head] = records[:head]
        self._records[: count - head] = records[head:]
        self._next = (self._next + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, batch_size: int, rng: torch.Generator) -> Batch:
        """Draw ``batch_size`` transitions with replacement."""
        rows = torch.randint(self._size, (batch_size,), generator=rng).to(self._records.device)
        records = self._records.index_select(0, rows)
        size = self.observation_size
        return Batch(
            observations=records[:, :size],
            next_observations=records[:, size : 2 * size],
            actions=records[:, 2 * size].long(),
            rewards=records[:, 2 * size + 1],
            discounts=records[:, 2 * size + 2],
        )
