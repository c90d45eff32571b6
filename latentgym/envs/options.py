"""Checks of arguments, options, actions and saved states, with one clear line per error."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Real
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import seeding

from latentgym.core import EditCore
from latentgym.rendering.frame import load_pygame

VECTOR_OPTIONS = ("reset_mask",)
"""Options of ``reset`` that every vector environment has."""


class PlainSpec:
    """An environment whose ``spec`` holds plain data, so that ``spec.to_json()`` works."""

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """Specification that `gymnasium.make` or `gymnasium.make_vec` used."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None:
            spec = copy.copy(spec)
            spec.kwargs = plain(spec.kwargs)
        self._spec = spec


def plain(value: Any) -> Any:
    """Return a copy of an argument as plain JSON data.

    Enums, paths, devices and numpy's values are replaced.
    """
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value) if isinstance(value, torch.device) else value


def check_options(options: Mapping[str, Any] | None, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Return the options of ``reset``; an empty dict for None.

    Raises:
        ValueError: not a dict, or a key that is not allowed.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(f"options is {one_line(options)}; expected a dict")
    for key in options:
        if key not in allowed:
            raise ValueError(f"options has the key {key!r}; allowed: {', '.join(allowed)}")
    return options


def read_bounds(options: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    """Return the bounds ``"low"`` and ``"high"`` of ``reset``'s options.

    Args:
        options: options of ``reset``.
        low: default lower bound.
        high: default upper bound.

    Raises:
        ValueError: not a finite number, or the lower bound above the upper one.
    """
    bounds = {"low": low, "high": high} | {k: options[k] for k in ("low", "high") if k in options}
    for key, bound in bounds.items():
        if not (isinstance(bound, Real) and math.isfinite(bound)):
            raise ValueError(f"options[{key!r}] is {one_line(bound)}; expected a finite number")
    low, high = (float(bound) for bound in bounds.values())
    if not math.isfinite(high - low):
        raise ValueError(f"options['low'] is {low} and options['high'] {high}: too far apart")
    if low > high:
        raise ValueError(f"options['low'] is {low}; it must not be above options['high'], {high}")
    return low, high


def read_options(
    core: EditCore, options: Mapping[str, Any] | None, others: Sequence[str] = ()
) -> tuple[np.ndarray | None, Mapping[str, str] | None]:
    """Return start latents ``[num_envs, latent_dim]`` and target of ``reset``'s options.

    Args:
        core: core of the environment.
        options: options of ``reset``.
        others: further keys that are allowed; they are not read here.

    Raises:
        ValueError: not a dict, an unknown key, a latent of the wrong shape or out of bounds, or a
            target with unknown names.
    """
    options = check_options(options, ("latent", "target", *others))
    latent, target = options.get("latent"), options.get("target")
    if target is not None:
        if not isinstance(target, Mapping):
            raise ValueError(f"options['target'] is {target!r}; expected a dict")
        core.task.check_target(target)
    return None if latent is None else _read_starts(core, latent), target


def _read_starts(core: EditCore, latent: Any) -> np.ndarray:
    if isinstance(latent, torch.Tensor):
        latent = latent.detach().cpu()
    try:
        latents = np.asarray(latent, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"options['latent'] is {one_line(latent)}; expected numbers") from None
    shape = (core.num_envs, core.backbone.latent_dim)
    if latents.shape not in (shape, shape[1:]):
        raise ValueError(
            f"options['latent'] has shape {latents.shape}; expected {shape} or {shape[1:]}"
        )
    bound = core.task.latent_bound
    if isinstance(bound, str):  # "sphere"
        if not np.isfinite(latents).all() or not latents.any(axis=-1).all():
            raise ValueError("options['latent'] must be finite and not all zero")
    elif not (np.abs(latents) <= bound).all():  # NaN fails too
        raise ValueError(
            f"options['latent'] must be finite and within latent_bound={bound}; "
            f"found values from {latents.min()} to {latents.max()}"
        )
    return np.broadcast_to(latents, shape).copy()


def check_render_mode(render_mode: str | None, allowed: Sequence[str]) -> None:
    """Check the mode, and that pygame works if there is one.

    Raises:
        ValueError: neither None nor an allowed mode.
        gymnasium.error.DependencyNotInstalled: pygame-ce is missing or broken.
    """
    if render_mode is None:
        return
    if render_mode not in allowed:
        raise ValueError(
            f"render_mode is {render_mode!r}; allowed: None, {', '.join(map(repr, allowed))}"
        )
    load_pygame()


def read_action(space: spaces.Space, action: Any) -> np.ndarray:
    """Return an action, or a batch of actions, as an array of the space's dtype.

    Raises:
        ValueError: outside the space, or not finite.
    """
    try:
        array = np.asarray(action)
    except ValueError:  # nested lists of different lengths
        array = np.asarray(None)
    assert space.dtype is not None
    if array.dtype != np.bool_ and np.can_cast(array.dtype, space.dtype, "same_kind"):
        array = array.astype(space.dtype)
        if space.contains(array):
            return array
    subject = "actions are" if isinstance(space, spaces.MultiDiscrete) else "action is"
    raise ValueError(f"{subject} {one_line(action)}; allowed: {space}")


def read_latents(latents: Any, latent_dim: int) -> np.ndarray:
    """Return latents as float32 ``[N, latent_dim]``; N may be 0.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    if isinstance(latents, torch.Tensor):
        latents = latents.detach().cpu().numpy()
    try:
        array = np.array(latents)
    except ValueError:  # nested lists of different lengths
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"latents is {one_line(latents)[:60]}; expected an array of real numbers")
    if array.ndim != 2 or array.shape[1] != latent_dim:
        raise ValueError(f"latents has shape {array.shape}; expected (N, {latent_dim})")
    if not np.isfinite(array).all():
        raise ValueError("latents holds values that are not finite")
    return array.astype(np.float32)


def check_state(state: Any, expected: Mapping[str, Any], name: str = "state") -> None:
    """Check that a value is a saved state of this environment.

    Args:
        state: value to check.
        expected: state of this environment. The value must have the same keys, with arrays of the
            same shapes and dtypes, lists of the same lengths, other values of the same types, and
            the same in nested dicts. ``random`` is checked by `random_generator`.
        name: name of the value in the message.

    Raises:
        ValueError: the first difference.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"{name} is {one_line(state)}; expected a dict of get_state()")
    if state.keys() != expected.keys():
        raise ValueError(
            f"{name} has the keys {sorted(map(str, state))}; expected {sorted(expected)}"
        )
    for key, value in expected.items():
        actual = state[key]
        if isinstance(value, Mapping) and key != "random":
            check_state(actual, value, f"{name}[{key!r}]")
        elif _kind(actual) != _kind(value):
            raise ValueError(f"{name}[{key!r}] is {_kind(actual)}; expected {_kind(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return type(value).__name__


def random_generator(state: Mapping[str, Any]) -> np.random.Generator:
    """Return a random generator that continues from a saved ``bit_generator.state``."""
    rng, _ = seeding.np_random()
    try:
        rng.bit_generator.state = state
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"no state of a random generator: {one_line(state)}") from None
    return rng


def one_line(value: object) -> str:
    """Return ``repr(value)`` on one line."""
    return " ".join(repr(value).split())
