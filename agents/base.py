"""What `DQN` and `Reinforce` share: settings, environments, files, copies; and what an agent is."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import logging
import math
import pickle
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from torch import nn

from agents.collector import Collector, Step
from agents.environments import as_vector_env
from agents.networks import check_computes, check_learns, clip_gradients
from agents.observations import as_batch, check_values, layout, split, subspaces, take
from agents.saving import check_finite, describe, load_weights
from agents.schedules import linear
from agents.space_json import space_from_json
from gan_backbones.utils.devices import usable_device
from gan_backbones.utils.files import read_safetensors, write_safetensors
from gan_backbones.utils.progress import ProgressBar
from gan_backbones.utils.validation import boolean, checked_seed, fraction, layer_widths, number

logger = logging.getLogger("agents")

Self = TypeVar("Self", bound="BaseAgent")


class Agent(Protocol):
    """What agents of all kinds have: ours and Stable-Baselines3's; see `agents.DQN`."""

    @property
    def num_timesteps(self) -> int:
        """Number of steps so far."""

    @property
    def episode_returns(self) -> Sequence[float]:
        """Returns of the last 100 training episodes."""

    def learn(self, total_timesteps: Any, callback: Any = (), progress_bar: bool = False) -> Agent:
        """Learn for so many more steps."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Return actions for observations."""

    def get_parameters(self) -> dict[str, Any]:
        """Return the networks' parameters."""

    def set_parameters(self, parameters: Any) -> None:
        """Take over what :meth:`get_parameters` returned."""

    def save(self, path: str | Path) -> None:
        """Write the agent to one file, for `agents.registry.load_agent`."""


class BaseAgent:
    """An agent of our own: a subclass adds its networks, how it acts, and how it learns.

    Copies learn on by themselves, exactly as the original would: ``copy.deepcopy`` and ``pickle``
    take networks, optimizers, replay, random states and the environment along. An environment that
    cannot be copied or pickled is left out, and a warning says so: give the copy another by
    :meth:`set_env`. Callbacks are never taken along.

    Args:
        learning_rate: step size of Adam; falls linearly to ``final_learning_rate``.
        final_learning_rate: step size at the end of learning; constant by default.
        gamma: discount factor.
        max_grad_norm: the gradient is scaled down to this norm.
        net_arch: widths of the hidden layers.
        seed: random seed; ``None`` draws one.
        device: device of the networks.

    Attributes:
        observation_space: space of one observation; missing until there is an environment.
        action_space: space of one action; missing until there is an environment.
        env: the vector environment that it learns in, or ``None``.
        num_timesteps: number of steps so far, over all environments.
        episode_returns: returns of the last 100 training episodes.
        optimizer: `torch.optim.Adam` of the network that acts.
    """

    name: ClassVar[str]
    """The algorithm's name, for messages."""
    file_format: ClassVar[str]
    """Format of the files that :meth:`save` writes."""

    observation_space: spaces.Space
    action_space: Any
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        learning_rate: float,
        final_learning_rate: float | None,
        gamma: float,
        max_grad_norm: float,
        net_arch: Sequence[int],
        seed: int | None,
        device: str | torch.device,
    ):
        self.learning_rate = number("learning_rate", learning_rate, above=0)
        self.final_learning_rate = final_learning_rate
        if final_learning_rate is not None:
            self.final_learning_rate = number("final_learning_rate", final_learning_rate, least=0)
        self.gamma = fraction("gamma", gamma)
        self.max_grad_norm = number("max_grad_norm", max_grad_norm, above=0, finite=False)
        self.net_arch = layer_widths("net_arch", net_arch)
        self.seed = checked_seed(seed)
        self.device = usable_device(device)
        seed = self.seed
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._seed = seed
        self._env_seed: int | None = seed  # used for the first reset, then None
        self.env: VectorEnv | None = None
        self.num_timesteps = 0
        self.episode_returns: deque[float] = deque(maxlen=100)
        self._callbacks: list[Any] = []

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments by name, without ``env`` and ``device``."""
        return {name: getattr(self, name) for name in hyperparameter_names(type(self))}

    # What a subclass adds -----------------------------------------------------------------------

    def _check_spaces(
        self, observations: spaces.Space, actions: spaces.Space, num_envs: int
    ) -> None:
        """Raise a ValueError for an environment that the agent cannot handle."""
        raise NotImplementedError

    def _build(self, seed: int) -> None:
        """Make networks and optimizers for the agent's spaces."""
        raise NotImplementedError

    def _prepare(self, env: VectorEnv) -> None:
        """Make what learning in ``env`` needs besides the networks."""

    def _networks(self) -> dict[str, nn.Module]:
        """Return all networks by name."""
        raise NotImplementedError

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers, by the names of the networks that they change."""
        raise NotImplementedError

    def _saved_network(self) -> nn.Module:
        """Return the module whose weights a file holds."""
        raise NotImplementedError

    def _greedy_or_random(self, observations: dict[str, Any], deterministic: bool) -> np.ndarray:
        """Return actions for a batch of observations by key, as the environment takes them."""
        raise NotImplementedError

    def _draw_seed(self) -> int:
        """Draw a seed for the next environment."""
        raise NotImplementedError

    # Environments -------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        env = as_vector_env(env)
        observations, actions = env.single_observation_space, env.single_action_space
        self._check_spaces(observations, actions, env.num_envs)
        if not hasattr(self, "observation_space"):
            self._set_spaces(observations, actions, self._seed)
        given, own = layout(observations), layout(self.observation_space)
        if given != own or actions != self.action_space:
            raise ValueError(
                f"the environment has observations {given} and actions {actions}; "
                f"the agent was made for {own} and {self.action_space}"
            )
        self._prepare(env)
        if self._env_seed is None:  # the seed determines the next environment, too
            self._env_seed = self._draw_seed()
        self.env = env
        self._collector = Collector(env)

    def _set_spaces(self, observations: spaces.Space, actions: spaces.Space, seed: int) -> None:
        self._subspaces = subspaces(observations)
        self.observation_space, self.action_space = observations, actions
        self._build(seed)

    def _by_key(self, observations: Any) -> dict[str, Any]:
        """Observations of the environment by key, if they are valid."""
        parts = split(self.observation_space, observations)
        check_values(self._subspaces, parts)
        return parts

    def _last_observations(self, step: Step, mask: np.ndarray) -> dict[str, Any]:
        """What the actions of the rows in ``mask`` led to, by key; no row of a new episode."""
        observations = step.next_obs if step.final_obs is None else step.final_obs
        parts = take(self.observation_space, observations, mask)
        check_values(self._subspaces, parts)
        return parts

    # Acting -------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return the best action for one observation or a batch of them.

        Args:
            observation: arrays, tensors on any device, or numbers: ``[*shape]`` or
                ``[N, *shape]``; a dict or tuple of such for a Dict or Tuple space.
            state: passed through; the agent has no memory.
            episode_start: ignored; here for Stable-Baselines3's `evaluate_policy`.
            deterministic: if false, explore as while learning.

        Returns:
            Actions as a NumPy array, a single one or N of them (`Discrete`: int64; `Box`: within
            its bounds, of its shape and dtype), and ``state``.

        Raises:
            ValueError: observations of another shape, outside their space or not finite, or a
                network that was moved to another dtype or device.
        """
        deterministic = boolean("deterministic", deterministic)
        batch, is_single = as_batch(self.observation_space, observation)
        try:
            actions = self._greedy_or_random(batch, deterministic)
        except RuntimeError:
            check_computes(self._networks(), self.device)
            raise
        return (actions[0] if is_single else actions), state

    # Learning -----------------------------------------------------------------------------------

    def _check_can_learn(self) -> VectorEnv:
        """Return the environment.

        Raises:
            ValueError: there is none, or the networks cannot learn.
        """
        if self.env is None:
            raise ValueError("the agent has no environment; pass env to load(), or call set_env()")
        networks = self._networks()
        check_computes(networks, self.device)
        for name, optimizer in self._optimizers().items():
            check_learns(name, networks[name], optimizer)
        return self.env

    def _schedule_learning_rate(self, progress: float) -> None:
        """Set the learning rate for the share of learning that is done."""
        if self.final_learning_rate is not None:
            rate = linear(self.learning_rate, self.final_learning_rate, 1.0, progress)
            self.optimizer.param_groups[0]["lr"] = rate

    def _gradient_step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor
    ) -> None:
        """Take one step of gradient descent, unless the gradient is not finite."""
        optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(network, self.max_grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"{self.name} diverged: the gradient's norm is {norm} after {self.num_timesteps} "
                "steps; lower the learning rate, or the rewards' scale"
            )
        optimizer.step()

    # Parameters and files -----------------------------------------------------------------------

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the parameters of all networks: not copies."""
        return {name: network.state_dict() for name, network in self._networks().items()}

    def set_parameters(self, parameters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over what :meth:`get_parameters` returned."""
        for name, network in self._networks().items():
            network.load_state_dict(parameters[name])

    def save(self, path: str | Path) -> None:
        """Write networks and hyper-parameters to one safetensors file, atomically.

        Raises:
            ValueError: weights that are not finite.
        """
        metadata = self._description(self.file_format)
        metadata["num_timesteps"] = str(self.num_timesteps)
        weights = self._saved_network().state_dict()
        tensors = {name: tensor.cpu().clone() for name, tensor in weights.items()}
        check_finite(tensors)
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(
        cls: type[Self],
        path: str | Path,
        env: gym.Env | VectorEnv | None = None,
        device: str = "cpu",
    ) -> Self:
        """Read an agent that :meth:`save` wrote; with ``env`` it can continue to learn.

        Raises:
            ValueError: a missing or damaged file, or one that holds no agent of this class.
        """
        metadata, tensors = read_safetensors(path, f"{cls.name} agent", cls.file_format)
        agent = cls._from_metadata(path, metadata, device)
        try:
            agent.num_timesteps = int(metadata["num_timesteps"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        agent._load_weights(tensors, path)
        if env is not None:
            agent.set_env(env)
        return agent

    def _load_weights(self, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
        load_weights(self._saved_network(), tensors, path)

    def _description(self, file_format: str) -> dict[str, str]:
        return describe(
            file_format, self.hyperparameters, self.observation_space, self.action_space
        )

    @classmethod
    def _from_metadata(
        cls: type[Self], path: str | Path, metadata: Mapping[str, str], device: str
    ) -> Self:
        """Return a new agent as a file describes it."""
        make: Callable[..., Self] = cls
        usable = usable_device(device)
        try:
            agent = make(env=None, device=usable, **json.loads(metadata["hyperparameters"]))
            agent._set_spaces(
                space_from_json(metadata["observation_space"]),
                space_from_json(metadata["action_space"]),
                0,
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        return agent

    # Copies -------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self._state(pickle.dumps)

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseAgent:
        copied = memo[id(self)] = object.__new__(type(self))
        state = self._state(functools.partial(copy.deepcopy, memo=memo))
        copied.__dict__.update(copy.deepcopy(state, memo))
        return copied

    def _state(self, copy_env: Callable[[VectorEnv], Any]) -> dict[str, Any]:
        """All attributes, with the environment if ``copy_env`` does not fail."""
        state = {**self.__dict__, "_callbacks": []}
        if self.env is None:
            return state
        try:
            if isinstance(self.env.unwrapped, AsyncVectorEnv):
                # To try would close the pipes to its processes.
                raise TypeError("it has processes of its own")
            copy_env(self.env)
        except Exception as error:  # whatever an environment raises
            reason = " ".join(str(error).split())
            logger.warning(
                "the copy has no environment, as it cannot be copied (%s); call set_env", reason
            )
            state["env"] = state["_collector"] = None
        return state


class LearningBar:
    """Progress bar of a call of `learn`, with the mean return of recent episodes.

    Args:
        agent: the agent that learns.
        total: number of steps of this call.
        first: ``num_timesteps`` of the agent at its beginning.
        is_shown: show the bar.
    """

    def __init__(self, agent: Agent, total: int, first: int, is_shown: bool):
        self._agent, self._total, self._first = agent, total, first
        done = agent.num_timesteps - first
        self._bar = ProgressBar(total=total, initial=done, disable=not is_shown, unit="step")
        self._updated = time.monotonic()

    def __enter__(self) -> LearningBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.__exit__(*exception)

    def update(self) -> None:
        """Show how many steps the agent has done."""
        done = min(self._agent.num_timesteps - self._first, self._total)
        self._bar.update(done - self._bar.n)
        if time.monotonic() - self._updated > 0.5 and self._agent.episode_returns:
            self._updated = time.monotonic()
            self._bar.set_postfix(mean_return=f"{np.mean(self._agent.episode_returns):.2f}")


def hyperparameter_names(agent: type[BaseAgent]) -> tuple[str, ...]:
    """Names of the constructor's arguments, without ``env`` and ``device``."""
    return tuple(
        name for name in inspect.signature(agent).parameters if name not in ("env", "device")
    )
