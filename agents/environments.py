"""Environments as agents and evaluation need them, whichever kind they are."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import PassiveEnvChecker

from gan_backbones.utils.validation import integer


def as_vector_env(env: gym.Env | VectorEnv) -> VectorEnv:
    """Return a vector environment itself, or one whose only row is a single environment.

    The latter writes each observation over the one before.
    """
    if isinstance(env, VectorEnv):
        return env
    # Not a lambda, so that the whole can be copied and pickled.
    make = partial(_identity, env)
    return SyncVectorEnv([make], copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def registered_id(env_id: str) -> str:
    """Return the id under which an environment is registered.

    Args:
        env_id: such as ``"CartPole-v1"``, or ``"module:id"`` as `gymnasium.make` takes it; the
            module is imported, since it registers the environment.

    Raises:
        ValueError: there is no such module.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"env is {env_id!r}; {str(error).lower()}") from None
    return name


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """Return the autoreset mode, Gymnasium's default if the environment names none."""
    return env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)


def check_rewards(rewards: np.ndarray) -> None:
    """Raise a ValueError that shows the first reward that is not finite."""
    if np.count_nonzero(np.isfinite(rewards)) < len(rewards):
        bad = rewards[~np.isfinite(rewards)][0]
        raise ValueError(f"the environment returned the reward {bad}; it must be finite")


def to_numpy(values: Any) -> np.ndarray:
    """Return an array or a tensor on any device as an array."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


class NumpyVectorEnv(VectorWrapper):
    """A vector environment that takes and returns NumPy arrays, even if ``env`` uses tensors.

    Whether it does, and on which device, is known from its first observations. `evaluate` and
    `SB3VecEnv` convert by themselves; Gymnasium's wrappers that expect NumPy arrays need this one:

    Example:
        >>> env = gym.make_vec("LatentEdit-v0", 64, tensors=True, device="cuda")
        >>> env = gym.wrappers.vector.RecordEpisodeStatistics(NumpyVectorEnv(env))
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._device: torch.device | None = None  # None if env uses arrays

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset ``env``; see its own ``reset``."""
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]  # lists are allowed
        self._device = device_of(observations)
        return self._arrays((observations, infos))

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step ``env``; actions may be an array or a tensor on any device."""
        if self._device is not None:
            actions = torch.as_tensor(actions, device=self._device)
        elif isinstance(actions, torch.Tensor):
            actions = _arrays(actions)
        return self._arrays(self.env.step(actions))

    def _arrays(self, values: Any) -> Any:
        return values if self._device is None else _arrays(values)


@contextmanager
def interruptible(env: VectorEnv) -> Iterator[None]:
    """Make sure that ``env`` can be reset and used again after an interrupt or error.

    Gymnasium's `PassiveEnvChecker` compares the first results of an environment with each other; if
    the first reset is interrupted, every later step fails for lack of a result to compare with. So
    reset its memory of them.
    """
    try:
        yield
    except BaseException:
        for row in getattr(env.unwrapped, "envs", ()):
            while isinstance(row, gym.Wrapper):
                if isinstance(row, PassiveEnvChecker):
                    row.checked_reset = row.checked_step = False
                row = row.env
        raise


def uses_env(callback: Any, env: VectorEnv) -> bool:
    """Whether a callback evaluates in ``env``, or in one that a row of it is made of."""
    other = getattr(callback, "eval_env", None)
    rows = getattr(env.unwrapped, "envs", ())
    mine = [env.unwrapped, *(row.unwrapped for row in rows)]
    return any(getattr(other, "unwrapped", None) is each for each in mine)


def device_of(values: Any) -> torch.device | None:
    """Return the device of the first tensor in nested dicts and tuples, or ``None``."""
    if isinstance(values, torch.Tensor):
        return values.device
    parts = values.values() if isinstance(values, Mapping) else values
    found = map(device_of, parts) if isinstance(values, (Mapping, tuple)) else ()
    return next((device for device in found if device is not None), None)


def _arrays(values: Any) -> Any:
    """Return nested dicts and tuples with arrays in place of tensors."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, Mapping):
        return {key: _arrays(value) for key, value in values.items()}
    return tuple(map(_arrays, values)) if isinstance(values, tuple) else values


def _identity(env: gym.Env) -> gym.Env:
    return env


def make_env(
    env_id: str, num_envs: int = 1, same_step: bool = False, **options: Any
) -> gym.Env | VectorEnv:
    """Make a single environment, or a vector environment if ``num_envs > 1``.

    Args:
        env_id: registered id, with or without the module that registers it.
        num_envs: number of environments.
        same_step: reset a row in the step in which its episode ends, as Stable-Baselines3's agents
            need it.
        **options: arguments of the environment.

    Raises:
        ValueError: an unknown environment or option.
    """
    num_envs = integer("num_envs", num_envs, 1)
    try:
        if num_envs == 1:
            return gym.make(env_id, **options)
        if not same_step:
            return gym.make_vec(env_id, num_envs, **options)
        if _takes_autoreset_mode(env_id):
            return gym.make_vec(env_id, num_envs, autoreset_mode="SameStep", **options)
        return gym.make_vec(
            env_id,
            num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            **options,
        )
    except (TypeError, gym.error.Error) as error:
        raise ValueError(f"{env_id}: {' '.join(str(error).split())}") from None


def _takes_autoreset_mode(env_id: str) -> bool:
    """Return whether it is one of our batched environments."""
    entry = gym.spec(registered_id(env_id)).vector_entry_point
    return isinstance(entry, str) and entry.startswith("latentgym.")
