"""Known-good settings per agent and environment, read from ``hyperparameters.yaml``.

Example:
    >>> agent = DQN(env, **known_good("dqn", "LatentEdit-v0"))
    >>> agent = agent.learn(settings("dqn", "LatentEdit-v0").timesteps)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agents.environments import registered_id

FILE = Path(__file__).with_name("hyperparameters.yaml")

logger = logging.getLogger("agents")


@dataclass(frozen=True)
class Settings:
    """How to train an agent in an environment.

    Attributes:
        timesteps: number of steps over all environments.
        num_envs: number of environments.
        hyperparameters: the agent's hyper-parameters that differ from its defaults.
    """

    timesteps: int = 100_000
    num_envs: int = 1
    hyperparameters: dict[str, Any] = field(default_factory=dict)


def settings(agent: str, env_id: str) -> Settings:
    """Return known-good settings, or the defaults, with a warning, where there are none.

    Args:
        agent: ``"dqn"``, ``"sb3-ppo"``, ...: see `agents.registry.KINDS`.
        env_id: registered id, with or without the module that registers it.
    """
    entry = dict(entries().get(agent, {}).get(registered_id(env_id), {}))
    if not entry:
        logger.warning(
            "no known-good hyper-parameters of %s for %s: the agent's defaults", agent, env_id
        )
        return Settings()
    return Settings(entry.pop("timesteps"), entry.pop("num_envs"), entry)


def known_good(agent: str, env_id: str) -> dict[str, Any]:
    """Return the hyper-parameters alone: ``DQN(env, **known_good("dqn", env_id))``."""
    return settings(agent, env_id).hyperparameters


@cache
def entries() -> dict[str, dict[str, dict[str, Any]]]:
    """The whole file: agent to environment to ``timesteps``, ``num_envs`` and the rest."""
    return yaml.safe_load(FILE.read_text())
