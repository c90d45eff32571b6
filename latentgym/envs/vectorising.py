"""What vector environments keep account of, apart from their task: plain functions on numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from latentgym.envs.reading import one_line


def check_num_envs(num_envs: int) -> None:
    """Raise a ValueError unless there is a row."""
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; it must be at least 1")


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


def seed_rows(
    rngs: Sequence[np.random.Generator] | None,
    seed: int | Sequence[int | None] | None,
    mask: np.ndarray,
) -> list[np.random.Generator]:
    """Each row's random generator for the episodes that a reset begins.

    Args:
        rngs: the generators so far; ``None`` before the first reset.
        seed: row ``i`` is seeded with ``seed + i``, or with the i-th of a sequence; ``None`` lets
            a generator go on.
        mask: bool ``[num_envs]``, the rows being reset; the others' generators go on.
    """
    num_envs = len(mask)
    if isinstance(seed, (int, np.integer)):
        seeds = [int(seed) + row for row in range(num_envs)]
    elif seed is None:
        seeds = [None] * num_envs
    else:
        seeds = [None if s is None else int(s) for s in seed]
    if len(seeds) != num_envs:
        raise ValueError(f"seed has {len(seeds)} values; expected num_envs={num_envs}")
    return [
        seeding.np_random(seeds[row])[0]
        if rngs is None or (mask[row] and seeds[row] is not None)
        else rngs[row]
        for row in range(num_envs)
    ]


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
