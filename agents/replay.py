"""Experience replay (Lin 1992): uniform or prioritized (Schaul et al. 2016), n-step (Sutton 1988).

Each observation is stored once. A transition holds the slots of two observations: the next
observation of one transition is the first of the following one.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from agents.observations import Observation, join, subspaces

logger = logging.getLogger("agents")

PRIORITY_FLOOR = 1e-6
"""Added to every absolute error, so that each transition can be drawn."""


@dataclass
class Batch:
    """Transitions, one per row.

    Attributes:
        observations, next_observations: ``[B, *shape]`` in the space's own dtype; a dict of such
            for a Dict space.
        actions: int64 ``[B]``.
        rewards: float32 ``[B]``: sums of up to n discounted rewards.
        discounts: float32 ``[B]``: weight of the value of ``next_observations``: ``gamma ** k``
            after k steps; 0 where the episode terminated.
        weights: float32 ``[B]``: importance weights, or ``None`` if sampling was uniform.
        indices: int64 ``[B]`` on the CPU: where the transitions are, for `update_priorities`.
    """

    observations: Observation
    next_observations: Observation
    actions: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    weights: torch.Tensor | None = None
    indices: torch.Tensor | None = None

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of ``size``; the last one may be smaller."""
        columns = (_split(column, size) for column in vars(self).values())
        return (Batch(*parts) for parts in zip(*columns))  # noqa: B905 (None repeats endlessly)


class ReplayBuffer:
    """The last transitions of several environments, on the learner's device.

    Observations and transitions lie in one ring each, both in order of time. There is room for as
    many observations as transitions, and for those of unfinished ones. The last observation of an
    episode takes a slot of its own, so with short episodes there are fewer transitions than
    ``capacity``: those whose observations were overwritten are forgotten.

    Args:
        space: space of one observation.
        capacity: maximum number of transitions.
        num_envs: number of environments.
        n_steps: number of rewards summed into one transition; fewer at the end of an episode.
        gamma: discount factor.
        alpha: exponent of the priorities when sampling, from 0 to 1; ``None``: uniform.
        device: device of observations and transitions.

    Attributes:
        added: number of transitions ever added.

    Raises:
        ValueError: the device has less memory than it needs.
    """

    def __init__(
        self,
        space: spaces.Space,
        capacity: int,
        num_envs: int = 1,
        n_steps: int = 1,
        gamma: float = 0.99,
        alpha: float | None = None,
        device: torch.device | str = "cpu",
    ):
        self.capacity, self.num_envs, self.n_steps, self.alpha = capacity, num_envs, n_steps, alpha
        self.device = torch.device(device)
        self._arguments = space, capacity, num_envs, n_steps, gamma, alpha, device
        # An environment may have n unfinished transitions, and two observations for each.
        self._num_slots = capacity + 2 * (n_steps + 1) * num_envs
        layout = {
            key: (part.shape or (), torch.from_numpy(np.empty(0, part.dtype)).dtype)
            for key, part in subspaces(space).items()
        }
        per_slot = sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values())
        self.nbytes = self._num_slots * per_slot + capacity * (3 * 8 + 2 * 4 + 8)
        if alpha is not None:
            self.nbytes += SumTree.needed(capacity)
        _check_memory(self.nbytes, capacity, self.device)

        # Not zeroed: what is not yet written takes no memory.
        # On the CPU all goes through NumPy, which has a fraction of torch's overhead.
        self._observation_slots = {
            key: _as_numpy_if_cpu(
                torch.empty(self._num_slots, *shape, dtype=dtype, device=self.device)
            )
            for key, (shape, dtype) in layout.items()
        }
        # Start and end (slots of observations) and action; return and discount.
        self._transitions = _as_numpy_if_cpu(
            torch.empty(capacity, 3, dtype=torch.int64, device=self.device)
        )
        self._returns_and_discounts = _as_numpy_if_cpu(
            torch.empty(capacity, 2, dtype=torch.float32, device=self.device)
        )
        self._oldest_needed = np.empty(capacity, dtype=np.int64)  # the first observation in use
        self._tree = None if alpha is None else SumTree(capacity)
        self._highest_priority = 1.0
        self._stored = 0  # observations, ever; they are numbered, and slot = number % slots
        self.added = 0
        self._size = 0
        self._current = np.zeros(num_envs, dtype=np.int64)  # number of each row's observation
        self._gamma = float(gamma)
        self._unfinished = None if n_steps == 1 else NStepReturns(num_envs, n_steps, gamma)

    def __len__(self) -> int:
        return self._size

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles hold what was stored, not the memory that waits for more."""
        return ReplayBuffer, self._arguments, self.get_state()

    def restart(self, observations: Mapping[str, Any]) -> None:
        """New episodes begin in all environments, whatever was going on.

        An interrupt in the middle of any method leaves the stored transitions as they were; what it
        leaves in the tree of priorities is corrected here.

        Args:
            observations: the first ones, by key: ``[num_envs, *shape]``.
        """
        if self._tree is not None:
            rows = (self._oldest + np.arange(self._size)) % self.capacity
            self._tree.keep(rows)
        self.begin(np.arange(self.num_envs), observations)

    def begin(self, rows: np.ndarray, observations: Mapping[str, Any]) -> None:
        """New episodes begin; what was unfinished in these rows is dropped.

        Args:
            rows: int64 ``[M]``: numbers of the environments.
            observations: the first ones, by key: ``[M, *shape]``.
        """
        if self._unfinished is not None:
            self._unfinished.drop(rows)
        self._current[rows] = self._store(observations)

    def add(
        self,
        rows: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        observations: Mapping[str, Any],
    ) -> None:
        """One step of some environments; after an end, `begin` has to come next for that row.

        Args:
            rows: int64 ``[M]``: numbers of the environments.
            actions: int64 ``[M]``.
            rewards: ``[M]``.
            terminated: bool ``[M]``.
            truncated: bool ``[M]``.
            observations: the next observations, before any reset, by key: ``[M, *shape]``.
        """
        if not len(rows):
            return
        starts = self._current[rows]
        self._current[rows] = reached = self._store(observations)
        if self._unfinished is None:
            # Nothing follows a termination; a truncated episode would have continued.
            discounts = self._gamma * ~terminated
            self._insert(starts, reached, actions, rewards, discounts, starts.min())
        else:
            column, finished = self._unfinished.step(
                rows, starts, actions, rewards, terminated, terminated | truncated
            )
            self._insert(finished[0], reached[column], *finished[1:])

    def sample(self, batch_size: int, rng: torch.Generator, beta: float = 1.0) -> Batch:
        """Draw ``batch_size`` transitions with replacement.

        With priorities: in proportion to them, one from each of ``batch_size`` equal shares of
        their sum (Schaul et al. 2016).

        Args:
            batch_size: number of transitions.
            rng: random generator on the CPU.
            beta: exponent of the importance weights, from 0 to 1.
        """
        weights = None
        if self._tree is None:
            rows = torch.randint(self._size, (batch_size,), generator=rng, device="cpu")
            if self._size < self.capacity and self._oldest:
                rows = rows.add_(self._oldest).remainder_(self.capacity)
        else:
            drawn, probabilities = self._tree.sample(batch_size, rng)
            rows = torch.from_numpy(drawn)
            importance = (self._size * probabilities) ** -beta
            importance = (importance / importance.max()).astype(np.float32)
            weights = torch.from_numpy(importance).to(self.device)
        indices = _as_numpy_if_cpu(rows.to(self.device))
        links, numbers = (
            _gather(self._transitions, indices),
            _gather(self._returns_and_discounts, indices),
        )
        slots = links[:, :2].T.reshape(-1)
        before, after = {}, {}
        for key, ring in self._observation_slots.items():
            both = _tensor(_gather(ring, slots))  # both observations of all transitions at once
            before[key], after[key] = both[:batch_size], both[batch_size:]
        return Batch(
            observations=join(before),
            next_observations=join(after),
            actions=_tensor(links[:, 2]),
            rewards=_tensor(numbers[:, 0]),
            discounts=_tensor(numbers[:, 1]),
            weights=weights,
            indices=rows,
        )

    def update_priorities(self, indices: torch.Tensor | None, td_errors: torch.Tensor) -> None:
        """Set the priorities of transitions that were sampled; only with ``alpha``.

        Args:
            indices: the batch's.
            td_errors: float ``[B]``.
        """
        assert self._tree is not None and self.alpha is not None and indices is not None
        priorities = td_errors.abs().cpu().numpy().astype(np.float64) + PRIORITY_FLOOR
        self._highest_priority = max(self._highest_priority, float(priorities.max()))
        self._tree.set(indices.numpy(), priorities**self.alpha)

    def get_state(self) -> dict[str, Any]:
        """Return all contents: tensors, arrays and numbers."""
        slots, size = min(self._stored, self._num_slots), min(self.added, self.capacity)
        state: dict[str, Any] = {name: getattr(self, name) for name in _COUNTERS}
        state["observations"] = {key: ring[:slots] for key, ring in self._observation_slots.items()}
        state["links"], state["numbers"] = (
            self._transitions[:size],
            self._returns_and_discounts[:size],
        )
        state["oldest_needed"] = self._oldest_needed[:size]
        state["current"] = self._current
        state["unfinished"] = None if self._unfinished is None else vars(self._unfinished)
        state["priorities"] = None if self._tree is None else self._tree.leaves[:size]
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` of a buffer with the same arguments gave."""
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for key, observations in state["observations"].items():
            _write(self._observation_slots[key], 0, observations)
        size = len(state["oldest_needed"])
        _write(self._transitions, 0, state["links"])
        _write(self._returns_and_discounts, 0, state["numbers"])
        self._oldest_needed[:size] = state["oldest_needed"]
        self._current[...] = state["current"]
        if self._unfinished is not None:
            vars(self._unfinished).update(state["unfinished"])
        if self._tree is not None and size:
            self._tree.set(np.arange(size), state["priorities"])

    __setstate__ = set_state

    # Inside -------------------------------------------------------------------------------------
    #
    # An interrupt may come between any two lines. So transitions are dropped before anything they
    # need is overwritten, and what is written is counted last.

    @property
    def _oldest(self) -> int:
        return (self.added - self._size) % self.capacity

    def _store(self, observations: Mapping[str, Any]) -> np.ndarray:
        """Numbers of the newly stored observations, int64 ``[M]``."""
        count = len(next(iter(observations.values())))
        numbers = np.arange(self._stored, self._stored + count)
        self._forget(self._stored + count - self._num_slots)
        for key, ring in self._observation_slots.items():
            _write(ring, self._stored % self._num_slots, observations[key])
        self._stored += count
        return numbers

    def _insert(
        self,
        starts: np.ndarray,
        ends: np.ndarray,
        actions: np.ndarray,
        returns: np.ndarray,
        discounts: np.ndarray,
        oldest_needed: int,
    ) -> None:
        """Add finished transitions; ``starts`` and ``ends`` are numbers of observations."""
        kept = slice(max(0, len(starts) - self.capacity), None)
        links = np.array(
            [starts[kept] % self._num_slots, ends[kept] % self._num_slots, actions[kept]]
        )
        numbers = np.array([returns[kept], discounts[kept]], dtype=np.float32)
        first, count = (self.added + kept.start) % self.capacity, links.shape[1]
        self._size = min(self._size, self.capacity - count)
        _write(self._transitions, first, links.T)
        _write(self._returns_and_discounts, first, numbers.T)
        rows = (first + np.arange(count)) % self.capacity
        self._oldest_needed[rows] = oldest_needed
        self.added += len(starts)  # first: with the size alone, an old transition would count
        self._size += count
        if self._tree is not None and self.alpha is not None:
            self._tree.set(rows, np.full(count, self._highest_priority**self.alpha))

    def _forget(self, oldest_kept: int) -> None:
        """Drop the transitions that need an observation older than number ``oldest_kept``."""
        if oldest_kept <= 0:
            return
        first = self._oldest
        lost = bisect_left(
            range(self._size),
            oldest_kept,
            key=lambda age: self._oldest_needed[(first + age) % self.capacity],
        )
        if self._tree is not None and lost:
            self._tree.set((first + np.arange(lost)) % self.capacity, np.zeros(lost))
        self._size -= lost


def _split(column: Observation | None, size: int) -> Iterable[Any]:
    if column is None:
        return itertools.repeat(None)
    if isinstance(column, dict):
        parts = zip(*(part.split(size) for part in column.values()), strict=True)
        return (dict(zip(column, values, strict=True)) for values in parts)
    return column.split(size)


_COUNTERS = ("added", "_size", "_stored", "_highest_priority")


def _as_numpy_if_cpu(tensor: torch.Tensor) -> np.ndarray | torch.Tensor:
    """The same memory as a NumPy array where NumPy can reach it."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def _gather(ring: Any, rows: Any) -> Any:
    return ring.take(rows, axis=0) if isinstance(ring, np.ndarray) else ring.index_select(0, rows)


def _write(ring: Any, first: int, values: Any) -> None:
    """Write ``values`` from slot ``first`` on, and on from the ring's beginning at its end."""
    count, room = len(values), len(ring) - first
    if isinstance(ring, torch.Tensor):
        values = torch.as_tensor(values, device=ring.device)
    elif isinstance(values, torch.Tensor):
        values = values.cpu().numpy()
    if count <= room:
        ring[first : first + count] = values
    else:
        ring[first:], ring[: count - room] = values[:room], values[room:]


class NStepReturns:
    """Transitions that are still gathering rewards (Sutton 1988).

    Args:
        num_envs: environments they come from.
        n_steps: rewards of a whole one; fewer at the end of an episode.
        gamma: discount factor.
    """

    def __init__(self, num_envs: int, n_steps: int, gamma: float):
        # At index k those that began k steps ago.
        self._starts = np.zeros((n_steps, num_envs), dtype=np.int64)
        self._actions = np.zeros((n_steps, num_envs), dtype=np.int64)
        self._returns = np.zeros((n_steps, num_envs))
        self._count = np.zeros(num_envs, dtype=np.int64)
        self._ages = np.arange(n_steps)[:, None]
        self._discounts = float(gamma) ** np.arange(n_steps + 1)

    def drop(self, rows: np.ndarray) -> None:
        """Forget what is unfinished in these environments."""
        self._count[rows] = 0

    def step(
        self,
        rows: np.ndarray,
        starts: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        ended: np.ndarray,
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        """Begin a transition in each of ``rows``, and finish those that are whole or at an end.

        Returns:
            For each finished one, the oldest first, its column among ``rows``; and starts,
            actions, returns and discounts of them, and the oldest start that was in use.
        """
        last = len(self._ages) - 1
        for gathered in (self._starts, self._actions, self._returns):
            gathered[1:, rows] = gathered[:last, rows]
        self._starts[0, rows], self._actions[0, rows] = starts, actions
        self._returns[0, rows] = 0.0
        self._returns[:, rows] += self._discounts[:-1, None] * rewards
        self._count[rows] = np.minimum(self._count[rows] + 1, last + 1)
        finished = (self._ages < self._count[rows]) & (ended | (self._ages == last))
        age, column = np.nonzero(finished[::-1])  # the oldest come first
        age = last - age
        slot = age, rows[column]
        oldest = self._starts[self._ages < self._count].min()
        self._count[rows[ended]] = 0
        # Nothing follows a termination; a truncated episode would have continued.
        discounts = self._discounts[age + 1] * ~terminated[column]
        return column, (
            self._starts[slot],
            self._actions[slot],
            self._returns[slot],
            discounts,
            oldest,
        )


class SumTree:
    """Priorities in the leaves of a binary tree whose nodes hold sums, for drawing by priority.

    Args:
        capacity: number of priorities, which are all 0 at first.
    """

    def __init__(self, capacity: int):
        self._first_leaf = _power_of_two(capacity)
        self._sums = np.zeros(2 * self._first_leaf)  # the root is node 1

    @staticmethod
    def needed(capacity: int) -> int:
        """Bytes it takes."""
        return 2 * 8 * _power_of_two(capacity)

    @property
    def leaves(self) -> np.ndarray:
        """All priorities, float64."""
        return self._sums[self._first_leaf :]

    def set(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities of ``rows``, float64 ``[M]``."""
        if not len(rows):
            return
        nodes = rows + self._first_leaf
        self._sums[nodes] = priorities
        while nodes[0] > 1:
            nodes = nodes // 2
            self._sums[nodes] = self._sums[2 * nodes] + self._sums[2 * nodes + 1]

    def keep(self, rows: np.ndarray) -> None:
        """Set all priorities but those of ``rows`` to 0, and compute all sums again."""
        kept = self.leaves[rows].copy()
        self._sums[:] = 0.0
        self.leaves[rows] = kept
        first = self._first_leaf
        while first > 1:
            pairs = self._sums[first : 2 * first].reshape(-1, 2)
            self._sums[first // 2 : first] = pairs.sum(axis=1)
            first //= 2

    def sample(self, count: int, rng: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one row from each of ``count`` equal shares of the total.

        Returns:
            Rows int64 ``[count]``, and the probabilities they had, float64 ``[count]``.
        """
        total = self._sums[1]
        share = torch.rand(count, dtype=torch.float64, generator=rng, device="cpu").numpy()
        points = (np.arange(count) + share) / count * total
        nodes = np.ones(count, dtype=np.int64)
        while nodes[0] < self._first_leaf:
            nodes = 2 * nodes
            left = self._sums[nodes]
            # Rounding must never lead to a leaf without priority.
            right = (points >= left) & (self._sums[nodes + 1] > 0)
            points = points - left * right
            nodes = nodes + right
        return nodes - self._first_leaf, self._sums[nodes] / total


def _power_of_two(capacity: int) -> int:
    """Return the smallest power of two >= capacity."""
    return 1 << (capacity - 1).bit_length()


def _check_memory(needed: int, capacity: int, device: torch.device) -> None:
    """Log how much memory a buffer needs; raise a ValueError if the device has less."""
    available = None
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[1]
    elif hasattr(os, "sysconf"):  # Windows has none
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    logger.info("a replay buffer of %d transitions takes up to %s", capacity, _gb(needed))
    if available is not None and needed > available:
        raise ValueError(
            f"a replay buffer of {capacity} transitions needs {_gb(needed)} of memory; "
            f"{device} has {_gb(available)}"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
