"""Reading what users pass to `reset` and `set_state`, with one clear line where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding

from latentgym.core import EditCore


def read_options(
    core: EditCore, options: Mapping[str, Any] | None, count: int
) -> tuple[np.ndarray | None, Mapping[str, str] | None]:
    """Start latents ``[count, latent_dim]`` and target of ``reset``'s options, checked.

    Raises:
        ValueError: no dict, a latent of the wrong shape or out of bounds, or a target with unknown
            names.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"options is {options!r}; expected a dict")
    latent, target = options.get("latent"), options.get("target")
    if target is not None:
        if not isinstance(target, Mapping):
            raise ValueError(f"options['target'] is {target!r}; expected a dict")
        core.task.check_target(target)
    return None if latent is None else _read_latents(core, latent, count), target


def _read_latents(core: EditCore, latent: Any, count: int) -> np.ndarray:
    latents = np.asarray(latent, dtype=np.float32)
    shape = (count, core.backbone.latent_dim)
    if latents.shape not in (shape, shape[1:]):
        raise ValueError(
            f"options['latent'] has shape {latents.shape}; expected {shape} or {shape[1:]}"
        )
    bound = core.task.latent_bound
    if bound == "sphere":
        if not np.isfinite(latents).all() or not latents.any(axis=-1).all():
            raise ValueError("options['latent'] must be finite and not all zero")
    elif not (np.abs(latents) <= bound).all():  # NaN fails too
        raise ValueError(
            f"options['latent'] must be finite and within latent_bound={bound}; "
            f"found values from {latents.min()} to {latents.max()}"
        )
    return np.broadcast_to(latents, shape).copy()


def read_action(space: spaces.Space, action: Any) -> np.ndarray:
    """An action, or a batch of them, as an array of the space's dtype.

    Raises:
        ValueError: outside the space, or not finite.
    """
    try:
        array = np.asarray(action)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    if array.dtype != np.bool_ and np.can_cast(array.dtype, space.dtype, "same_kind"):
        array = array.astype(space.dtype)
        if space.contains(array):
            return array
    subject = "actions are" if isinstance(space, spaces.MultiDiscrete) else "action is"
    raise ValueError(f"{subject} {one_line(action)}; allowed: {space}")


def check_keys(state: Any, keys: tuple[str, ...]) -> None:
    """Raise a ValueError unless ``state`` is a mapping with exactly these keys."""
    if not isinstance(state, Mapping) or set(state) != set(keys):
        found = sorted(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"state is {found}; expected a dict of {sorted(keys)}")


def read_random(saved: Any) -> np.random.Generator:
    """A generator in the state ``saved``.

    Raises:
        ValueError: not the state of such a generator.
    """
    generator, _ = seeding.np_random(0)
    try:
        generator.bit_generator.state = saved
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(
            f"the state's random is {one_line(saved)}; expected a PCG64 generator's"
        ) from None
    return generator


def one_line(value: object) -> str:
    """What it is, on one line."""
    return " ".join(repr(value).split())
