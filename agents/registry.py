"""Make and load agents of all kinds by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from agents.base import Agent
from agents.dqn import DQN
from agents.environments import make_env
from agents.hyperparameters import check_names
from agents.reinforce import Reinforce
from gan_backbones.utils.files import read_format

KINDS = (
    "dqn",
    "reinforce",
    "sb3-a2c",
    "sb3-ddpg",
    "sb3-dqn",
    "sb3-ppo",
    "sb3-sac",
    "sb3-td3",
)
"""Our own agents and Stable-Baselines3's."""

OWN: dict[str, type[DQN] | type[Reinforce]] = {"dqn": DQN, "reinforce": Reinforce}


def make_agent(
    kind: str, env: gym.Env | VectorEnv, seed: int | None = None, **hyperparameters: Any
) -> Agent:
    """Make an agent by name.

    Args:
        kind: one of `KINDS`.
        env: environment that it learns in; see `agents.environments.make_env`.
        seed: random seed.
        **hyperparameters: the agent's hyper-parameters.

    Raises:
        ValueError: an unknown kind, hyper-parameters it does not have or that are out of range,
            or an environment it cannot handle.
    """
    if check_kind(kind) not in OWN:
        from agents.sb3.agent import SB3Agent  # slow to import

        return SB3Agent(kind, env, seed, **hyperparameters)
    parameters = inspect.signature(OWN[kind]).parameters
    check_names(kind, hyperparameters, parameters, hyperparameter_names(kind))
    try:
        return OWN[kind](env, seed=seed, **hyperparameters)
    except TypeError as error:  # "abc" where a number should be
        raise ValueError(f"{kind}: {error}") from None


def hyperparameter_names(kind: str) -> list[str]:
    """Return the names of the hyper-parameters that `make_agent` takes, without the seed.

    Raises:
        ValueError: an unknown kind.
    """
    if check_kind(kind) not in OWN:
        from agents.sb3 import agent

        return agent.hyperparameter_names(kind)
    return [n for n in inspect.signature(OWN[kind]).parameters if n not in ("env", "seed")]


def load_agent(
    path: str | Path, env: gym.Env | VectorEnv | None = None, device: str = "cpu"
) -> Agent:
    """Read an agent of any kind that its ``save`` wrote; with ``env`` it can continue to learn.

    Raises:
        ValueError: a missing or damaged file, or one that holds no agent.
    """
    file_format = read_format(path)
    for agent_class in OWN.values():
        if file_format == agent_class.file_format:
            return agent_class.load(path, env, device)
    if not str(file_format).startswith("latentgym-sb3-"):
        raise ValueError(f"{path}: not an agent; its format is {file_format!r}")
    from agents.sb3.agent import SB3Agent

    return SB3Agent.load(path, env, device)


def make_training_env(kind: str, env_id: str, num_envs: int, **options: Any) -> gym.Env | VectorEnv:
    """Make an environment in the autoreset mode that the agent needs."""
    return make_env(env_id, num_envs, same_step=check_kind(kind) not in OWN, **options)


def check_kind(kind: str) -> str:
    """Return the kind itself, or raise a ValueError that lists the kinds."""
    if kind not in KINDS:
        raise ValueError(f"unknown agent {kind!r}; allowed: {', '.join(KINDS)}")
    return kind
