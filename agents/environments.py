"""What agents and evaluation ask of an environment, whichever kind it is."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv


def as_vector_env(env: gym.Env | VectorEnv) -> VectorEnv:
    """The environment itself, or a single one as the only row of a vector environment.

    The latter writes each observation over the one before.
    """
    if isinstance(env, VectorEnv):
        return env
    return SyncVectorEnv([lambda: env], copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """What happens to a row whose episode has ended; Gymnasium's default if it does not say."""
    return env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)


def check_rewards(rewards: np.ndarray) -> None:
    """Raise a ValueError that shows the first reward that is not finite."""
    if np.count_nonzero(np.isfinite(rewards)) < len(rewards):
        bad = rewards[~np.isfinite(rewards)][0]
        raise ValueError(f"the environment returned the reward {bad}; it must be finite")
