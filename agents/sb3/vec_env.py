"""Stable-Baselines3 on any Gymnasium vector environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorEnv,
    VectorWrapper,
)
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from agents.environments import NumpyVectorEnv, autoreset_mode


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment as Stable-Baselines3's algorithms and wrappers take it.

    Steps, infos and ends are those of Stable-Baselines3's `DummyVecEnv` of the single
    environments: a row that ends is reset at once, its last observation is
    ``infos[row]["terminal_observation"]``, and the reset's info ``reset_infos[row]``.

    A batched environment is one object for all rows: `get_attr` gives its attribute for each row,
    and `env_method` calls its method once (``compute_reward`` for `HerReplayBuffer`) and gives the
    result for each row. In `SyncVectorEnv` and `AsyncVectorEnv` the rows' own environments are
    asked; those of `AsyncVectorEnv` only all together.

    An environment that uses tensors, on any device, is seen as one of arrays. Stable-Baselines3
    counts actions and discrete observations from 0: in a `Discrete` or `MultiDiscrete` space with
    another ``start`` they are shifted, and the adapter's spaces say so.

    Args:
        vector_env: in autoreset mode SAME_STEP or DISABLED. In NEXT_STEP a row's reset takes a
            step of all rows, for which Stable-Baselines3 has no place. `make_vec` takes the mode
            as ``autoreset_mode="SameStep"`` for batched environments, and as
            ``vector_kwargs={"autoreset_mode": "SameStep"}`` with ``vectorization_mode="sync"``.

    Raises:
        ValueError: no vector environment, or one that resets at the next step.

    Example:
        >>> env = SB3VecEnv(gym.make_vec("LatentEdit-v0", 16, autoreset_mode="SameStep"))
        >>> PPO("MlpPolicy", env).learn(10_000)
    """

    def __init__(self, vector_env: VectorEnv):
        if not isinstance(vector_env, VectorEnv):
            raise ValueError(
                f"{vector_env} is no vector environment; make one by gymnasium.make_vec"
            )
        self._mode = autoreset_mode(vector_env)
        if self._mode == AutoresetMode.NEXT_STEP:
            raise ValueError(
                f"{vector_env} resets a row at the next step, which Stable-Baselines3 cannot use; "
                'make it with autoreset_mode="SameStep"'
            )
        self.vector_env = vector_env
        self._env = NumpyVectorEnv(vector_env)
        self._writes_over = not getattr(vector_env.unwrapped, "copy", True)
        observations, actions = vector_env.single_observation_space, vector_env.single_action_space
        self._first_observation, self._first_action = first(observations), first(actions)
        super().__init__(vector_env.num_envs, from_zero(observations), from_zero(actions))

    def reset(self) -> VecEnvObs:
        """Begin new episodes in all rows, with the values of `seed` and `set_options`, once."""
        observations, infos = self._env.reset(
            seed=self._seeds[0],  # row i takes seed + i, as in all vector environments
            options=self._options[0] or None,
        )
        self.reset_infos = _by_row(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return self._shifted(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows: observations, rewards float32, ends bool, and a dict of infos per row."""
        actions = shift(self._actions, self._first_action)
        observations, rewards, terminated, truncated, infos = self._env.step(actions)
        ended = terminated | truncated
        rows = _by_row(infos, self.num_envs)
        if self._mode == AutoresetMode.SAME_STEP:
            for row in np.flatnonzero(ended).tolist():
                rows[row], self.reset_infos[row] = _split(rows[row])
        elif ended.any():
            for row in np.flatnonzero(ended).tolist():
                rows[row]["terminal_observation"] = _one(observations, row)
            observations, infos = self._env.reset(options={"reset_mask": ended.copy()})
            begun = _by_row(infos, self.num_envs)
            for row in np.flatnonzero(ended).tolist():
                self.reset_infos[row] = begun[row]
        for row in np.flatnonzero(ended).tolist():
            final = rows[row]["terminal_observation"]
            rows[row]["terminal_observation"] = shift(final, self._first_observation, -1)
        for info, cut in zip(rows, (truncated & ~terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        return self._shifted(observations), np.asarray(rewards, np.float32), ended, rows

    def set_options(self, options: Any = None) -> None:
        """Set the options of the next reset, for all rows.

        Raises:
            ValueError: a list, with one dict per row.
        """
        if isinstance(options, list):
            raise ValueError("options is a list; a vector environment takes one dict for all rows")
        super().set_options(options)

    def close(self) -> None:
        """Close the vector environment."""
        self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the rendered image of each row, or one image of all."""
        images: Any = self.vector_env.render()
        return [images] if isinstance(images, np.ndarray) and images.ndim == 3 else list(images)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each row."""
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            return [base.envs[row].get_wrapper_attr(attr_name) for row in rows]
        if isinstance(base, AsyncVectorEnv):
            values = base.get_attr(attr_name)
            return [values[row] for row in rows]
        return [getattr(self._owner(attr_name), attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute.

        Raises:
            ValueError: of some rows only, where they are one environment.
        """
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            for row in rows:
                base.envs[row].set_wrapper_attr(attr_name, value)
        elif len(set(rows)) < self.num_envs:
            raise ValueError(f"{attr_name} cannot be set for rows {rows} alone, only for all")
        elif isinstance(base, AsyncVectorEnv):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(self._owner(attr_name), attr_name, value)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method; its result for each row."""
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[row].get_wrapper_attr(method_name) for row in rows]
            return [method(*args, **kwargs) for method in methods]
        if isinstance(base, AsyncVectorEnv):
            results = base.call(method_name, *args, **kwargs)
            return [results[row] for row in rows]
        return [getattr(self._owner(method_name), method_name)(*args, **kwargs)] * len(rows)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each row's own environment is wrapped; false where it has none, or far away."""
        base, rows = self.vector_env.unwrapped, list(self._get_indices(indices))
        if not isinstance(base, SyncVectorEnv):
            return [False] * len(rows)
        return [is_wrapped(base.envs[row], wrapper_class) for row in rows]

    def _shifted(self, observations: VecEnvObs) -> VecEnvObs:
        """Observations that count from 0 and are not written over."""
        if self._writes_over:
            observations = copy.deepcopy(observations)
        return shift(observations, self._first_observation, -1)

    def _owner(self, name: str) -> VectorEnv:
        """The outermost wrapper that has the attribute, else the environment itself."""
        env = self.vector_env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env


def _by_row(infos: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Each row's infos, of arrays with masks. What has no mask, all rows have."""
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        mask = infos.get(f"_{name}")
        if isinstance(values, Mapping):
            values = _by_row(values, count)
        for row in range(count) if mask is None else np.flatnonzero(mask):
            rows[row][name] = values[row]
    return rows


def _split(info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The infos of an episode's end and of the reset after it, which a row has both."""
    final = info.pop("final_info", {})
    final["terminal_observation"] = info.pop("final_obs")
    if "episode" in info:  # Gymnasium's RecordEpisodeStatistics puts it outside final_info
        final["episode"] = info.pop("episode")
    return final, info


def _one(observations: VecEnvObs, row: int) -> VecEnvObs:
    """A copy of one row's observation."""
    if isinstance(observations, Mapping):
        return {key: values[row].copy() for key, values in observations.items()}
    return observations[row].copy()


def first(space: spaces.Space) -> Any:
    """The ``start`` of a space, which is 0 if it has none; of a Dict, one for each key."""
    if isinstance(space, spaces.Dict):
        return {key: first(part) for key, part in space.spaces.items()}
    return getattr(space, "start", 0)


def from_zero(space: Any) -> Any:
    """Return the same space, but with ``start`` 0."""
    if not is_shifted(first(space)):
        return space
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: from_zero(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n, dtype=space.dtype.type)
    return spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)


def shift(values: Any, starts: Any, sign: int = 1) -> Any:
    """Return ``values + sign * starts``; the same values if there is nothing to add.

    Args:
        values: one or several values of a space, or a dict of them.
        starts: result of `first` for the space.
        sign: 1 adds, -1 subtracts.
    """
    if not is_shifted(starts):
        return values
    if isinstance(values, Mapping):
        return {key: shift(part, starts[key], sign) for key, part in values.items()}
    return values + sign * starts


def is_shifted(starts: Any) -> bool:
    """Whether any of the numbers that :func:`first` returns is not 0."""
    if isinstance(starts, Mapping):
        return any(map(is_shifted, starts.values()))
    return bool(np.any(starts))
