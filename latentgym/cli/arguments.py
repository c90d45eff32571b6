"""Checks of arguments that commands share."""

from __future__ import annotations

from gan_backbones.utils.validation import MAX_SEED


def check_seed(seed: int) -> None:
    """Raise a ValueError for a seed that not all random generators take."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed}; it must be from 0 to {MAX_SEED}")


def check_counts(least: int = 1, **counts: int | None) -> None:
    """Raise a ValueError for the first count below ``least``; None passes."""
    for name, count in counts.items():
        if count is not None and count < least:
            raise ValueError(f"{name} is {count}; it must be at least {least}")
