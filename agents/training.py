"""Agents of all kinds by name: made, trained, saved and loaded in one way."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

from agents import dqn, reinforce
from agents.callbacks import KeepBest
from agents.checks import check_names, integer
from agents.environments import registered_id
from gan_backbones.files import read_format

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

OWN = {"dqn": dqn.DQN, "reinforce": reinforce.Reinforce}


class Agent(Protocol):
    """What agents of all kinds have; see `agents.DQN`."""

    num_timesteps: int

    def learn(self, total_timesteps: int, callback: Any = (), progress_bar: bool = False) -> Agent:
        """Learn for so many more steps."""

    def predict(self, observation: Any, **_: Any) -> tuple[Any, Any]:
        """Actions for observations."""

    def get_parameters(self) -> dict[str, Any]:
        """The networks' parameters."""

    def set_parameters(self, parameters: Any) -> None:
        """Take over what :meth:`get_parameters` gave."""

    def save(self, path: str | Path) -> None:
        """Write it to one file, for `load_agent`."""


def make_agent(
    kind: str, env: gym.Env | VectorEnv, seed: int | None = None, **hyperparameters: Any
) -> Agent:
    """An agent by name.

    Args:
        kind: one of `KINDS`.
        env: what it learns in; see `make_env`.
        seed: of everything random.
        **hyperparameters: of the agent.

    Raises:
        ValueError: an unknown kind, hyper-parameters it does not have or that are out of range,
            or an environment it cannot handle.
    """
    if check_kind(kind) not in OWN:
        from agents.sb3_agents import SB3Agent  # slow to import

        return SB3Agent(kind, env, seed, **hyperparameters)
    parameters = inspect.signature(OWN[kind]).parameters
    check_names(kind, hyperparameters, parameters, hyperparameter_names(kind))
    try:
        return OWN[kind](env, seed=seed, **hyperparameters)
    except TypeError as error:  # "abc" where a number should be
        raise ValueError(f"{kind}: {error}") from None


def hyperparameter_names(kind: str) -> list[str]:
    """What `make_agent` takes for this kind, besides the seed.

    Raises:
        ValueError: an unknown kind.
    """
    if check_kind(kind) not in OWN:
        from agents import sb3_agents

        return sb3_agents.hyperparameter_names(kind)
    return [n for n in inspect.signature(OWN[kind]).parameters if n not in ("env", "seed")]


def load_agent(
    path: str | Path, env: gym.Env | VectorEnv | None = None, device: str = "cpu"
) -> Agent:
    """Read an agent of any kind that its ``save`` wrote; with ``env`` it can go on learning.

    Raises:
        ValueError: a missing or damaged file, or one that holds no agent.
    """
    file_format = read_format(path)
    if file_format == dqn.FORMAT:
        return dqn.DQN.load(path, env, device)
    if file_format == reinforce.FORMAT:
        return reinforce.Reinforce.load(path, env, device)
    if not str(file_format).startswith("latentgym-sb3-"):
        raise ValueError(f"{path}: not an agent; its format is {file_format!r}")
    from agents.sb3_agents import SB3Agent

    return SB3Agent.load(path, env, device)


def make_env(
    env_id: str, num_envs: int = 1, same_step: bool = False, **options: Any
) -> gym.Env | VectorEnv:
    """A single environment, or a vector environment where there shall be several.

    Args:
        env_id: as registered with Gymnasium, with or without the module that registers it.
        num_envs: how many.
        same_step: reset a row in the step in which its episode ends, as Stable-Baselines3's agents
            need it.
        **options: of the environment.

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


def make_training_env(kind: str, env_id: str, num_envs: int, **options: Any) -> gym.Env | VectorEnv:
    """`make_env` in the autoreset mode that the agent needs."""
    return make_env(env_id, num_envs, same_step=check_kind(kind) not in OWN, **options)


@dataclass(frozen=True)
class Training:
    """What `train` did.

    Attributes:
        best: the evaluations and the best network; ``best.restore(agent)`` brings it back.
        seconds: of learning, without the evaluations.
        steps: that were learned from.
    """

    best: KeepBest
    seconds: float
    steps: int


def train(
    agent: Agent,
    timesteps: int | None,
    best: KeepBest,
    callbacks: Sequence[Callable[[Any], object]] = (),
    progress_bar: bool = False,
) -> Training:
    """Let an agent of any kind learn, evaluating it now and then.

    Args:
        agent: of any kind.
        timesteps: how long; ``None`` finishes an interrupted run of `agents.DQN`.
        best: evaluates, on an environment of its own.
        callbacks: called besides.
        progress_bar: show one.
    """
    began, first = time.perf_counter(), agent.num_timesteps
    waited = best.seconds
    agent.learn(timesteps, [best, *callbacks], progress_bar=progress_bar)
    seconds = time.perf_counter() - began - (best.seconds - waited)
    return Training(best, seconds, agent.num_timesteps - first)


def check_kind(kind: str) -> str:
    """The kind itself, or a ValueError that names those there are."""
    if kind not in KINDS:
        raise ValueError(f"unknown agent {kind!r}; allowed: {', '.join(KINDS)}")
    return kind


def _takes_autoreset_mode(env_id: str) -> bool:
    """Whether it is one of our batched environments."""
    entry = gym.spec(registered_id(env_id)).vector_entry_point
    return isinstance(entry, str) and entry.startswith("latentgym.")
