"""Stable-Baselines3's algorithms as agents like our own: same constructor, callbacks and files."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.base import LearningBar
from agents.callbacks import as_callbacks
from agents.environments import as_vector_env, interruptible
from agents.hyperparameters import check_names
from agents.observations import is_image
from agents.saving import describe, load_weights
from agents.sb3.vec_env import SB3VecEnv, first, from_zero, is_shifted, shift
from agents.space_json import space_from_json
from gan_backbones.utils.devices import plain_mode, usable_device
from gan_backbones.utils.files import read_safetensors, write_safetensors
from gan_backbones.utils.validation import boolean, checked_seed, integer

FORMAT = "latentgym-sb3-1"

NOT_HYPERPARAMETERS = {
    "policy",
    "env",
    "seed",
    "device",
    "verbose",
    "tensorboard_log",
    "_init_setup_model",
}

Callback = Callable[["SB3Agent"], object]


class SB3Agent:
    """One of Stable-Baselines3's algorithms, with the methods of `agents.DQN`.

    Args:
        kind: ``"sb3-dqn"``, ``"sb3-ppo"``, ...
        env: a Gymnasium environment, or a vector environment as `agents.SB3VecEnv` takes it.
        seed: random seed; Stable-Baselines3 seeds the global random states with it.
        device: device of the networks.
        **hyperparameters: arguments of the algorithm's constructor; also ``net_arch`` for
            ``policy_kwargs``, ``final_X`` for a hyper-parameter X that falls linearly to it, and
            ``replay_buffer_class="HerReplayBuffer"``.

    Attributes:
        algorithm: Stable-Baselines3's own object.

    Raises:
        ValueError: an unknown hyper-parameter, one out of range, or spaces the algorithm cannot
            handle.
    """

    def __init__(
        self,
        kind: str,
        env: gym.Env | VectorEnv,
        seed: int | None = None,
        device: str = "cpu",
        **hyperparameters: Any,
    ):
        parameters = inspect.signature(algorithm_class(kind)).parameters
        check_names(kind, hyperparameters, parameters, hyperparameter_names(kind))
        hyperparameters = {
            name: _checked(name, value, parameters) for name, value in hyperparameters.items()
        }
        self.kind, self.hyperparameters = kind, hyperparameters
        seed, usable = checked_seed(seed), usable_device(device)
        self.observation_space, self.action_space = _spaces_of(env)
        _check_observations(self.observation_space, hyperparameters)
        describe(FORMAT, hyperparameters, self.observation_space, self.action_space)  # can be saved
        self._first_observation = first(self.observation_space)
        self._first_action = first(self.action_space)
        counts_from_zero = not any(map(is_shifted, (self._first_observation, self._first_action)))
        if isinstance(env, VectorEnv) or not (counts_from_zero or isinstance(env, _Spaces)):
            sb3_env: Any = VecMonitor(SB3VecEnv(as_vector_env(env)))
        elif isinstance(env, _Spaces):
            sb3_env = _Spaces(from_zero(self.observation_space), from_zero(self.action_space))
        else:
            sb3_env = env
        policy, arguments = _policy(sb3_env.observation_space), _arguments(hyperparameters)
        try:
            with _float32():
                self.algorithm = algorithm_class(kind)(
                    policy, sb3_env, seed=seed, device=usable, **arguments
                )
        except (AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"{kind}: {' '.join(str(error).split())}") from None

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return the best action for one observation or a batch; see `agents.DQN.predict`."""
        observation = shift(observation, self._first_observation, -1)
        with _float32():
            actions, state = self.algorithm.predict(
                observation, state, episode_start, deterministic
            )
        return shift(actions, self._first_action), state

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] = (),
        progress_bar: bool = False,
    ) -> SB3Agent:
        """Interact and learn for ``total_timesteps`` more steps.

        Each call begins new episodes. So the environment may be used in between, and after an
        interrupt you can simply call `learn` again.

        Args:
            total_timesteps: number of steps over all environments; 0 does nothing; algorithms that
                learn from whole rollouts finish the last one.
            callback: one or several functions called with this agent after each step of the
                environments; see `agents.callbacks`.
            progress_bar: show a progress bar with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: the agent was loaded without an environment, or an argument of the wrong
                type or out of range.
        """
        if self.algorithm.env is None:
            raise ValueError("the agent has no environment; pass env to load()")
        total_timesteps = integer("total_timesteps", total_timesteps, 0)
        callbacks = as_callbacks(callback)
        if total_timesteps == 0:
            return self
        self._begin_new_episodes()
        bar = LearningBar(self, total_timesteps, self.num_timesteps, progress_bar)
        with bar, _float32(), _interruptible(self.algorithm.env):
            self.algorithm.learn(
                total_timesteps,
                _Callbacks(self, callbacks, bar),
                reset_num_timesteps=False,
            )
        return self

    def _begin_new_episodes(self) -> None:
        """Make Stable-Baselines3's `learn` reset the environment, and end episodes in replay."""
        self.algorithm._last_obs = None
        buffer = getattr(self.algorithm, "replay_buffer", None)
        if isinstance(buffer, stable_baselines3.HerReplayBuffer):
            buffer.truncate_last_trajectory()

    @property
    def num_timesteps(self) -> int:
        """Steps so far."""
        return self.algorithm.num_timesteps

    @property
    def episode_returns(self) -> list[float]:
        """Returns of the last 100 training episodes."""
        return [episode["r"] for episode in self.algorithm.ep_info_buffer or ()]

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return the networks' parameters: not copies."""
        return {"policy": self.algorithm.policy.state_dict()}

    def set_parameters(self, parameters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over what :meth:`get_parameters` returned."""
        self.algorithm.policy.load_state_dict(parameters["policy"])

    def save(self, path: str | Path) -> None:
        """Write networks and hyper-parameters to one safetensors file, atomically.

        Not the optimizer nor the replay buffer: ``agent.algorithm.save`` writes all there is, to a
        file that can run code when it is loaded.
        """
        spaces_of = self.observation_space, self.action_space
        metadata = describe(FORMAT, self.hyperparameters, *spaces_of)
        metadata |= {"kind": self.kind, "num_timesteps": str(self.num_timesteps)}
        tensors = {k: v.cpu().clone() for k, v in self.algorithm.policy.state_dict().items()}
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(
        cls, path: str | Path, env: gym.Env | VectorEnv | None = None, device: str = "cpu"
    ) -> SB3Agent:
        """Read an agent that :meth:`save` wrote; with ``env`` it can continue to learn.

        Raises:
            ValueError: a missing or damaged file, or one that holds no such agent.
        """
        metadata, tensors = read_safetensors(path, "Stable-Baselines3 agent", FORMAT)
        try:
            kind, hyperparameters = metadata["kind"], json.loads(metadata["hyperparameters"])
            given = env
            if given is None:
                given = _Spaces(*(space_from_json(metadata[name]) for name in _SPACES))
                if issubclass(algorithm_class(kind), OffPolicyAlgorithm):
                    hyperparameters |= _NO_REPLAY
            with warnings.catch_warnings():  # about rollouts shorter than a batch
                if env is None:
                    warnings.simplefilter("ignore")
                agent = cls(kind, given, device=device, **hyperparameters)
            if env is None:
                agent.algorithm.env = None
            agent.hyperparameters = json.loads(metadata["hyperparameters"])
            agent.algorithm.num_timesteps = int(metadata["num_timesteps"])
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        load_weights(agent.algorithm.policy, tensors, path)
        return agent


def algorithm_class(kind: str) -> type[BaseAlgorithm]:
    """``"sb3-ppo"`` to `stable_baselines3.PPO`."""
    return getattr(stable_baselines3, kind.removeprefix("sb3-").upper())


def hyperparameter_names(kind: str) -> list[str]:
    """Return the names of the hyper-parameters of :class:`SB3Agent` for this kind."""
    names = [
        name
        for name in inspect.signature(algorithm_class(kind)).parameters
        if name not in NOT_HYPERPARAMETERS
    ]
    schedules = [f"final_{name}" for name in ("learning_rate", "clip_range") if name in names]
    return [*names, "net_arch", *schedules]


_SPACES = "observation_space", "action_space"

SMALLEST_IMAGE = 36
"""Pixels on a side that the convolutions of Stable-Baselines3 need."""

AT_LEAST_1 = ("buffer_size", "batch_size", "n_steps", "n_epochs", "target_update_interval")

# An agent without an environment cannot learn.
_NO_REPLAY = dict(buffer_size=1, replay_buffer_class=None, replay_buffer_kwargs=None)


class _Spaces(gym.Env):
    """Tells an algorithm that is loaded to predict its spaces; nothing can be played in it."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space


class _Linear:
    """A schedule as Stable-Baselines3 takes it."""

    def __init__(self, start: float, end: float):
        self.start, self.end = start, end

    def __call__(self, remaining: float) -> float:
        return self.end + (self.start - self.end) * remaining


def _checked(name: str, value: Any, parameters: Mapping[str, inspect.Parameter]) -> Any:
    """A hyper-parameter as the type of its default, where it is a number or bool.

    Raises:
        ValueError: it cannot be converted without loss, is not finite, or is out of range.
    """
    default = parameters[name].default if name in parameters else None
    if isinstance(default, bool):
        return boolean(name, value)
    if not isinstance(value, Real) or isinstance(value, bool):
        return value  # schedules, tuples, classes, None
    if name in AT_LEAST_1:
        return integer(name, value, 1)
    if isinstance(default, int):
        return integer(name, value, -1)
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite")
    return float(value) if isinstance(default, float) else value


def _spaces_of(env: gym.Env | VectorEnv) -> tuple[spaces.Space, spaces.Space]:
    if isinstance(env, VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space


def _check_observations(space: spaces.Space, hyperparameters: Mapping[str, Any]) -> None:
    """Raise a ValueError for observations that Stable-Baselines3 would fail on later."""
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else (space,)
    for part in parts:
        if isinstance(part, (spaces.Dict, spaces.Tuple)):
            raise ValueError(
                f"observation space is {space}; Stable-Baselines3 takes Box, Discrete, "
                "MultiDiscrete, MultiBinary, or a Dict of these"
            )
        own_features = "features_extractor_class" in (hyperparameters.get("policy_kwargs") or {})
        if isinstance(part, spaces.Box) and is_image(part) and not own_features:
            height, width = sorted(part.shape)[1:]
            if height < SMALLEST_IMAGE:
                raise ValueError(
                    f"images are {height} x {width} pixels; Stable-Baselines3's convolutions need "
                    f"at least {SMALLEST_IMAGE} x {SMALLEST_IMAGE}: train dqn, or pass "
                    "features_extractor_class in policy_kwargs"
                )


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Run Stable-Baselines3's code as in a new process, whatever the caller has set in torch."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with plain_mode():
            yield
    finally:
        torch.set_default_dtype(dtype)


@contextlib.contextmanager
def _interruptible(env: VecEnv) -> Iterator[None]:
    """`interruptible`, for the environments of Stable-Baselines3's `DummyVecEnv` or our adapter."""
    base: Any = env.unwrapped
    with interruptible(base.vector_env if isinstance(base, SB3VecEnv) else base):
        yield


def _arguments(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the constructors' arguments for our hyper-parameters."""
    given = dict(hyperparameters)
    if "net_arch" in given:
        net_arch = list(given.pop("net_arch"))
        given["policy_kwargs"] = {**(given.get("policy_kwargs") or {}), "net_arch": net_arch}
    for final in [name for name in given if name.startswith("final_")]:
        name, end = final.removeprefix("final_"), given.pop(final)
        if end is not None:
            if name not in given:
                raise ValueError(f"{final} is given without {name}")
            given[name] = _Linear(given[name], end)
    if given.get("replay_buffer_class") == "HerReplayBuffer":
        given["replay_buffer_class"] = stable_baselines3.HerReplayBuffer
    return given


def _policy(observations: spaces.Space) -> str:
    if isinstance(observations, spaces.Dict):
        return "MultiInputPolicy"
    image = isinstance(observations, spaces.Box) and is_image(observations)
    return "CnnPolicy" if image else "MlpPolicy"


class _Callbacks(BaseCallback):
    """Calls our callbacks from Stable-Baselines3's `learn`."""

    def __init__(self, agent: SB3Agent, callbacks: list[Callback], bar: LearningBar):
        super().__init__()
        self.agent, self.callbacks, self.bar = agent, callbacks, bar

    def _on_step(self) -> bool:
        for function in self.callbacks:
            function(self.agent)
        self.bar.update()
        return True
