"""Evaluating any policy on any environment, with confidence intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from agents.collector import Collector
from agents.environments import NumpyVectorEnv, as_vector_env, interruptible
from gan_backbones.utils.validation import checked_seed, integer

PATIENCE = 100_000
"""Steps without the end of an episode after which `evaluate` warns."""


class Policy(Protocol):
    """Anything with Stable-Baselines3's ``predict``."""

    def predict(self, observation: Any, *, deterministic: bool) -> tuple[Any, Any]:
        """Return actions for a batch of observations, and a state that is ignored here."""


@dataclass(frozen=True)
class EvaluationResult:
    """Finished episodes, one value each.

    Attributes:
        values: ``"return"``, ``"length"``, and every number in the episodes' last ``info``:
            ``"is_success"``, ``"scores/realism"``, and so on. Arrays float64 ``[episodes]``;
            NaN where an episode lacks a number that another has.
    """

    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values["return"])

    def mean(self, name: str) -> float:
        """Mean over episodes."""
        return float(self.values[name].mean())

    def interval(
        self, name: str, level: float = 0.95, resamples: int = 2000
    ) -> tuple[float, float]:
        """Bootstrap confidence interval of the mean; see `bootstrap_interval`."""
        return bootstrap_interval(self.values[name], level, resamples)


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap confidence interval of the mean of ``values [N]`` (Efron 1979)."""
    rng = np.random.default_rng(seed)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate(
    policy: Policy, env: gym.Env | VectorEnv, episodes: int = 100, seed: int | None = None
) -> EvaluationResult:
    """Run ``policy`` greedily for ``episodes`` episodes.

    Each row of a vector environment runs its fixed share of the episodes, so short episodes are
    not counted more often than long ones.

    Args:
        policy: anything with ``predict(observations, deterministic=True) -> (actions, state)``. It
            gets NumPy arrays, also from an environment that uses tensors.
        env: a Gymnasium environment or vector environment, in any autoreset mode. If no episode
            ends for 100,000 steps, a warning says so.
        episodes: number of episodes.
        seed: random seed of the environment.

    Raises:
        ValueError: ``episodes`` or ``seed`` of the wrong type or out of range.
    """
    episodes, seed = integer("episodes", episodes, 1), checked_seed(seed)
    env = NumpyVectorEnv(as_vector_env(env))
    with interruptible(env):
        return _evaluate(policy, env, episodes, seed)


def _evaluate(policy: Policy, env: VectorEnv, episodes: int, seed: int | None) -> EvaluationResult:
    collector = Collector(env)
    remaining = (episodes + np.arange(env.num_envs)) // env.num_envs  # episodes of each row
    finished: list[dict[str, float]] = []
    collector.reset(seed=seed)
    steps_without_end = 0
    while remaining.any():
        actions, _ = policy.predict(collector.obs, deterministic=True)
        step = collector.step(actions)
        steps_without_end = 0 if step.dones.any() else steps_without_end + 1
        if steps_without_end == PATIENCE:
            warnings.warn(
                f"no episode has ended for {PATIENCE:,} steps; give the environment "
                "max_episode_steps",
                stacklevel=3,
            )
        for row in np.flatnonzero(step.dones & (remaining > 0)).tolist():
            numbers = {"return": collector.returns[row], "length": float(collector.lengths[row])}
            finished.append(numbers | _numbers(step.infos, row))
            remaining[row] -= 1
    names = dict.fromkeys(name for numbers in finished for name in numbers)
    return EvaluationResult(
        {name: np.array([numbers.get(name, np.nan) for numbers in finished]) for name in names}
    )


def _numbers(infos: Mapping[str, Any], row: int, prefix: str = "") -> dict[str, float]:
    """The numbers that ``infos`` has for ``row``, nested names joined by a slash."""
    numbers: dict[str, float] = {}
    for name, value in infos.items():
        if name.startswith("_") or not infos.get(f"_{name}", np.zeros(row + 1))[row]:
            continue
        if isinstance(value, Mapping):
            numbers |= _numbers(value, row, f"{prefix}{name}/")
        elif (number := np.asarray(value[row])).ndim == 0 and number.dtype.kind in "biuf":
            numbers[prefix + name] = float(number)
    return numbers
