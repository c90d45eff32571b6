"""Stepping a vector environment in any autoreset mode, for whatever learns or evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.environments import autoreset_mode, check_rewards, device_of, to_numpy


@dataclass
class Step:
    """What a step of N environments returned.

    Attributes:
        obs: the observations to act on next, as the environment returned them.
        next_obs: the observations that the actions led to; where an episode ended, ``final_obs``
            has its last one, unless it is ``None``.
        final_obs: the last observations of the episodes that ended, as Gymnasium returns them, or
            ``None``.
        rewards: float ``[N]``.
        terminated: bool ``[N]``.
        truncated: bool ``[N]``.
        dones: bool ``[N]``: terminated or truncated.
        mask: bool ``[N]``: false where the step only reset an environment.
        episode_starts: bool ``[N]``: whether ``obs`` begins an episode.
        infos: the infos, of the last step of an episode where it ended.
    """

    obs: Any
    next_obs: Any
    final_obs: Any
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    dones: np.ndarray
    mask: np.ndarray
    episode_starts: np.ndarray
    infos: Mapping[str, Any]


class Collector:
    """Steps a vector environment of any autoreset mode, and sums up its episodes.

    In `AutoresetMode.NEXT_STEP` the step after an end only resets the environment; in `SAME_STEP`
    the step that ends an episode also resets, and its last observation comes in the infos; in
    `DISABLED` the collector resets.

    Args:
        env: environment that uses arrays or tensors. If it writes each observation over the one
            before, so do the observations here.

    Attributes:
        mode: the autoreset mode.
        obs: the observations to act on next.
        returns: float64 ``[N]``: sum of the episode's rewards so far. After a step that ended an
            episode it is that episode's, until the next step.
        lengths: int64 ``[N]``: number of the episode's steps so far, until the next step too.
    """

    def __init__(self, env: VectorEnv):
        self.env, self.mode = env, autoreset_mode(env)
        self.obs: Any = None
        self.returns = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._dones = np.zeros(env.num_envs, dtype=np.bool_)  # of the last step
        self._all = np.ones(env.num_envs, dtype=np.bool_)

    def reset(self, seed: int | None = None) -> Any:
        """Begin new episodes in all environments; return the first observations."""
        self.obs, _ = self.env.reset(seed=seed)
        self.returns[:], self.lengths[:], self._dones[:] = 0.0, 0, False
        return self.obs

    def step(self, actions: np.ndarray) -> Step:
        """Step all environments.

        Args:
            actions: array ``[N, ...]``.

        Raises:
            ValueError: a reward that is not finite.
        """
        device = device_of(self.obs)
        env_actions = actions if device is None else torch.from_numpy(actions).to(device)
        obs, rewards, terminated, truncated, infos = self.env.step(env_actions)
        rewards, terminated, truncated = map(to_numpy, (rewards, terminated, truncated))
        check_rewards(rewards)
        dones, before = terminated | truncated, self._dones
        if before.any():
            self.returns[before], self.lengths[before] = 0.0, 0
        mask = ~before if self.mode == AutoresetMode.NEXT_STEP else self._all
        self.returns += np.where(mask, rewards, 0.0)
        self.lengths += mask
        next_obs, final_obs = obs, None
        if dones.any():
            if self.mode == AutoresetMode.SAME_STEP:
                final_obs, infos = infos["final_obs"], infos["final_info"]
            elif self.mode == AutoresetMode.DISABLED:
                next_obs = _copy(obs)  # the environment may write over it
                obs, _ = self.env.reset(options={"reset_mask": dones.copy()})
        episode_starts = before if self.mode == AutoresetMode.NEXT_STEP else dones
        self.obs, self._dones = obs, dones
        return Step(
            obs,
            next_obs,
            final_obs,
            rewards,
            terminated,
            truncated,
            dones,
            mask,
            episode_starts,
            infos,
        )

    def get_state(self) -> dict[str, Any]:
        """Return all that a collector of an environment in the same state needs to continue."""
        return {
            "obs": self.obs,
            "returns": self.returns,
            "lengths": self.lengths,
            "dones": self._dones,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self.obs, self.returns, self.lengths = state["obs"], state["returns"], state["lengths"]
        self._dones = state["dones"]


def _copy(obs: Any) -> Any:
    """Copies of arrays and tensors in nested dicts and tuples."""
    if isinstance(obs, Mapping):
        return {key: _copy(part) for key, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(map(_copy, obs))
    return obs.clone() if isinstance(obs, torch.Tensor) else np.copy(obs)
