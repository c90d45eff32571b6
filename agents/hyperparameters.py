"""Known-good settings per agent and environment, read from ``hyperparameters.yaml``.

Example:
    >>> agent = DQN(env, **known_good("dqn", "LatentEdit-v0"))
    >>> agent = agent.learn(settings("dqn", "LatentEdit-v0").timesteps)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Any

import yaml

from agents.environments import registered_id
from gan_backbones.utils.validation import is_number

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


def check_names(
    agent: str, values: Mapping[str, Any], parameters: Mapping[str, Parameter], allowed: list[str]
) -> None:
    """Raise a ValueError for the first hyper-parameter that does not exist or is no number.

    Args:
        agent: its kind, for the message.
        values: by name.
        parameters: parameters of the agent's constructor; a default that is a number says that the
            value must be one.
        allowed: the names there are.
    """
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(
                f"unknown hyper-parameter {name!r} of {agent}; allowed: {', '.join(allowed)}"
            )
        if name in parameters and is_number(parameters[name].default) and isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; it must be a number")
