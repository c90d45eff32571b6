"""Seeds, masks, step limits and infos of vector environments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv

from latentgym.envs.options import PlainSpec, one_line


class RowsVectorEnv(PlainSpec, VectorEnv):
    """A vector environment with one random generator per row, as in `SyncVectorEnv`."""

    # Empty until the rows are seeded.
    _rngs: Sequence[np.random.Generator] = ()
    _seeds: Sequence[int] = ()

    # As in Gymnasium's own SyncVectorEnv, one for each row instead of one for all.
    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each row's random generator."""
        self._seed_rows(None, np.zeros(self.num_envs, dtype=np.bool_))
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each row's generator, or -1 if it came from a saved state."""
        self._seed_rows(None, np.zeros(self.num_envs, dtype=np.bool_))
        return tuple(self._seeds)

    def _seed_rows(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        """Seed the generators of the rows in ``mask``; the first time, those of all rows.

        Args:
            seed: random seed; row ``i`` gets ``seed + i``, or the i-th value of a sequence.
                ``None`` keeps a row's generator.
            mask: bool ``[num_envs]``.

        Raises:
            ValueError: neither an integer nor a sequence of ``num_envs``.
            gymnasium.error.Error: a row's seed is negative or not an integer.
        """
        if seed is None and self._rngs:
            return
        rngs: list[np.random.Generator] = []
        seeds: list[int] = []
        for row, row_seed in enumerate(read_seeds(seed, self.num_envs)):
            if not self._rngs or (mask[row] and row_seed is not None):
                rng, used_seed = seeding.np_random(row_seed)
            else:
                rng, used_seed = self._rngs[row], self._seeds[row]
            rngs.append(rng)
            seeds.append(used_seed)
        self._rngs, self._seeds = rngs, seeds

    def _set_generators(self, rngs: list[np.random.Generator]) -> None:
        """Use these generators, whose seeds are not known."""
        self._rngs, self._seeds = rngs, [-1] * self.num_envs


def check_num_envs(num_envs: int) -> None:
    """Raise a ValueError unless it is an integer of at least 1."""
    if not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
        raise ValueError(f"num_envs is {num_envs!r}; it must be an integer of at least 1")


def step_limit(max_episode_steps: int | None) -> float:
    """Return the number of steps after which a row is truncated; infinity for ``None`` or -1."""
    if max_episode_steps is None or max_episode_steps == -1:
        return math.inf
    if not isinstance(max_episode_steps, (int, np.integer)) or max_episode_steps < 1:
        raise ValueError(
            f"max_episode_steps is {max_episode_steps!r}; allowed: at least 1, or None or -1"
        )
    return max_episode_steps


def read_mask(options: Mapping[str, Any] | None, num_envs: int, begun: bool) -> np.ndarray:
    """Return the mask of the rows to reset: ``options["reset_mask"]``, or all.

    Args:
        options: options of ``reset``. They are not changed.
        num_envs: number of rows.
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
    """Return the seed of each row: ``seed + i``, or the i-th value of a sequence.

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
    """Return the mask of the rows that the next step resets instead of moving them.

    Args:
        mode: what happens to a row whose episode has ended.
        ended: bool ``[num_envs]``: the rows whose episode ended and that were not reset since.

    Raises:
        gymnasium.error.ResetNeeded: a row ended, and the caller has to reset it.
    """
    if mode == AutoresetMode.DISABLED and ended.any():
        raise gym.error.ResetNeeded(
            f"rows {np.flatnonzero(ended).tolist()} have ended: reset them with "
            "options={'reset_mask': mask}"
        )
    return ended


def with_masks(
    info: Mapping[str, Any], lay_out: Callable[[Any], Any], make_mask: Callable[[], Any]
) -> dict[str, Any]:
    """Return infos as in Gymnasium's vector environments: each with its ``_mask``.

    Args:
        info: arrays or tensors, or dicts of these.
        lay_out: makes one entry per row of the environment.
        make_mask: makes a copy of the mask.
    """
    infos: dict[str, Any] = {}
    for key, value in info.items():
        is_dict = isinstance(value, Mapping)
        infos[key] = with_masks(value, lay_out, make_mask) if is_dict else lay_out(value)
        infos[f"_{key}"] = make_mask()
    return infos


def masked_infos(info: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Return infos of the rows in ``mask``, each with its ``_mask``; nothing for an empty mask.

    Args:
        info: arrays with one entry per row of the environment, or dicts of these.
        mask: bool ``[num_envs]``.

    Returns:
        Arrays of the same length, zero outside the mask.
    """

    def lay_out(value: np.ndarray) -> np.ndarray:
        entries = np.zeros_like(value)
        entries[mask] = value[mask]
        return entries

    return with_masks(info, lay_out, mask.copy) if mask.any() else {}


def final_infos(
    observations: np.ndarray | Mapping[str, np.ndarray], info: dict[str, Any], ended: np.ndarray
) -> dict[str, Any]:
    """Return the infos that `AutoresetMode.SAME_STEP` adds when a step ends episodes.

    Args:
        observations: last observations of these episodes, in a batch of all rows.
        info: infos of the ended rows, with masks.
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
