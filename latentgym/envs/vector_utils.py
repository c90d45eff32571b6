"""What all vector environments share, apart from their task: seeds, masks, limits and infos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv

from latentgym.envs.options import PlainSpec, one_line


class RowsVectorEnv(PlainSpec, VectorEnv):
    """A vector environment whose rows draw from generators of their own, as `SyncVectorEnv`'s."""

    _rngs: list[np.random.Generator] | None = None
    _seeds: list[int] | None = None
    num_envs: int

    @property  # type: ignore[misc]  # Gymnasium has an attribute that can be set
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each row's random generator."""
        self._seed_rows(None, np.zeros(self.num_envs, dtype=np.bool_))
        return tuple(self._rngs or ())

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What each row's generator was seeded with, or -1 where it came from a saved state."""
        self._seed_rows(None, np.zeros(self.num_envs, dtype=np.bool_))
        return tuple(self._seeds or ())

    def _seed_rows(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        """Seed the generators of the rows in ``mask``, and those of all rows where there are none.

        Args:
            seed: row ``i`` is seeded with ``seed + i``, or with the i-th of a sequence; ``None``
                keeps a row's generator.
            mask: bool ``[num_envs]``.

        Raises:
            ValueError: neither an integer nor a sequence of ``num_envs``.
            gymnasium.error.Error: a row's seed is negative or no integer.
        """
        if seed is None and self._rngs is not None:
            return
        seeds = read_seeds(seed, self.num_envs)
        new = [
            self._rngs is None or (m and s is not None) for m, s in zip(mask, seeds, strict=True)
        ]
        seeded = [seeding.np_random(s) if n else None for n, s in zip(new, seeds, strict=True)]
        before: list[Any] = list(zip(self._rngs or (), self._seeds or (), strict=True))
        pairs = [pair or before[row] for row, pair in enumerate(seeded)]
        self._rngs, self._seeds = [rng for rng, _ in pairs], [number for _, number in pairs]

    def _generators(self, mask: np.ndarray) -> list[np.random.Generator]:
        """Return the generators of the rows in ``mask``."""
        assert self._rngs is not None
        return [self._rngs[row] for row in np.flatnonzero(mask).tolist()]

    def _set_generators(self, rngs: list[np.random.Generator]) -> None:
        """Draw from these generators, whose seeds nobody knows."""
        self._rngs, self._seeds = rngs, [-1] * self.num_envs


def check_num_envs(num_envs: int) -> None:
    """Raise a ValueError unless it is an integer of at least 1."""
    if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
        raise ValueError(f"num_envs is {num_envs!r}; it must be an integer of at least 1")


def step_limit(max_episode_steps: int | None) -> float:
    """The number of steps after which a row is truncated: infinity for ``None`` or -1."""
    if max_episode_steps is None or max_episode_steps == -1:
        return math.inf
    if not isinstance(max_episode_steps, (int, np.integer)) or max_episode_steps < 1:
        raise ValueError(
            f"max_episode_steps is {max_episode_steps!r}; allowed: at least 1, or None or -1"
        )
    return max_episode_steps


def read_mask(options: Mapping[str, Any] | None, num_envs: int, begun: bool) -> np.ndarray:
    """The rows to reset: ``options["reset_mask"]``, or all. The options are not changed.

    Args:
        options: of ``reset``.
        num_envs: rows there are.
        begun: whether a reset came before; the first one must be of all rows.

    Returns:
        bool ``[num_envs]``.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"options is {one_line(options)}; expected a dict")
    mask = (options or {}).get("reset_mask")
    if mask is None:
        return np.ones(num_envs, dtype=np.bool_)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] is {one_line(mask)}; expected a bool array")
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"options['reset_mask'] is {one_line(mask)}; expected shape ({num_envs},) "
            "with at least one True"
        )
    if not begun and not mask.all():
        raise gym.error.ResetNeeded("the first reset must begin all rows, without reset_mask")
    return mask


def read_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """The seed of each row: ``seed + i``, or the i-th of a sequence.

    Raises:
        ValueError: neither an integer nor a sequence of ``num_envs``.
    """
    if isinstance(seed, (int, np.integer)):
        return [int(seed) + row for row in range(num_envs)]
    if seed is None:
        return [None] * num_envs
    if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, (str, bytes)):
        raise ValueError(
            f"seed is {one_line(seed)}; allowed: None, an integer, or a sequence of {num_envs}"
        )
    if len(seed) != num_envs:
        raise ValueError(f"seed has {len(seed)} values; expected num_envs={num_envs}")
    return [int(s) if isinstance(s, np.integer) else s for s in seed]


def rows_to_reset(mode: AutoresetMode, ended: np.ndarray) -> np.ndarray:
    """The rows that the coming step resets instead of moving them.

    Args:
        mode: what happens to a row whose episode has ended.
        ended: bool ``[num_envs]``: the rows whose episode ended and that were not reset since.

    Raises:
        gymnasium.error.ResetNeeded: there are any, and resetting them is the caller's task.
    """
    if mode == AutoresetMode.DISABLED and ended.any():
        raise gym.error.ResetNeeded(
            f"rows {np.flatnonzero(ended).tolist()} have ended: reset them with "
            "options={'reset_mask': mask}"
        )
    return ended


def spread(info: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Infos as Gymnasium's vector environments lay them out, each with its ``_mask``.

    Args:
        info: arrays with one entry for each row in ``mask``, or dicts of such.
        mask: bool ``[num_envs]``.

    Returns:
        Arrays of ``num_envs`` entries, zero outside the mask. Without any row, nothing.
    """
    if not mask.any():
        return {}
    infos: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, Mapping):
            infos[key] = spread(value, mask)
        else:
            infos[key] = np.zeros((len(mask), *value.shape[1:]), dtype=value.dtype)
            infos[key][mask] = value
        infos[f"_{key}"] = mask.copy()
    return infos


def take(info: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """The entries of the rows in ``mask``, of arrays that have one for each row."""
    return {
        key: take(value, mask) if isinstance(value, Mapping) else value[mask]
        for key, value in info.items()
    }


def shown(info: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Of infos of all rows, those of the rows in ``mask``, spread."""
    return spread(take(info, mask), mask)


def final_infos(
    observations: np.ndarray | Mapping[str, np.ndarray], info: dict[str, Any], ended: np.ndarray
) -> dict[str, Any]:
    """What `AutoresetMode.SAME_STEP` tells of the episodes that a step ended.

    Args:
        observations: of all rows, the last of those episodes.
        info: spread infos of the ended rows.
        ended: bool ``[num_envs]``.
    """
    final_obs = np.full(len(ended), None, dtype=object)
    for row in np.flatnonzero(ended):
        if isinstance(observations, Mapping):
            final_obs[row] = {key: value[row].copy() for key, value in observations.items()}
        else:
            final_obs[row] = observations[row].copy()
    return {
        "final_obs": final_obs,
        "_final_obs": ended.copy(),
        "final_info": info,
        "_final_info": ended.copy(),
    }
