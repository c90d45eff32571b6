"""Deep Q-learning from scratch, with common extensions.

Mnih et al. 2015, "Human-level control through deep reinforcement learning". On top, each by a
switch: Double DQN (van Hasselt et al. 2016), dueling networks (Wang et al. 2016), n-step returns
(Sutton 1988), prioritised replay (Schaul et al. 2016), noisy networks (Fortunato et al. 2018).
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch.nn import functional as F

from agents.base import BaseAgent
from agents.callbacks import CheckpointCallback
from agents.environments import (
    as_vector_env,
    autoreset_mode,
    check_rewards,
    interruptible,
    to_numpy,
    uses_env,
)
from agents.networks import QNetwork, building, check_computes, check_learns, clip_gradients
from agents.observations import as_batch, check_values, layout, split, subspaces, take
from agents.replay import Batch, ReplayBuffer
from agents.saving import (
    check_finite,
    describe,
    get_env_state,
    load_weights,
    pack,
    set_env_state,
    unpack,
)
from agents.schedules import linear
from agents.space_json import space_from_json
from agents.validation import (
    boolean,
    callables,
    checked_seed,
    fraction,
    integer,
    layer_widths,
    number,
)
from gan_backbones.utils.devices import usable_device
from gan_backbones.utils.files import read_safetensors, write_safetensors
from gan_backbones.utils.progress import ProgressBar

FORMAT = "latentgym-dqn-3"
CHECKPOINT_FORMAT = "latentgym-dqn-checkpoint-3"

BATCHES_TOGETHER = 16
"""Batches that are drawn in one go."""

Callback = Callable[["DQN"], object]

logger = logging.getLogger("agents")


class DQN(BaseAgent):
    """A deep Q-network agent for `Discrete` actions.

    Observations are `Box`, `Discrete`, `MultiBinary`, `MultiDiscrete`, or a `Dict` or `Tuple` of
    these. Images (uint8, ``[H, W, C]`` or ``[C, H, W]``) go through convolutions, all other boxes
    are flattened, and choices are one-hot encoded. Hyper-parameters are named as in
    Stable-Baselines3; a value of another type is converted if nothing is lost (``1e4`` steps).
    Steps are counted over all environments.

    Copies and unpickled agents learn on by themselves; see `agents.base.BaseAgent`.

    Args:
        env: a Gymnasium environment or vector environment, in any autoreset mode.
        learning_rate: step size of Adam; falls linearly to ``final_learning_rate``.
        final_learning_rate: step size at the end of learning; constant by default.
        buffer_size: maximum number of transitions kept for replay; see
            `agents.replay.ReplayBuffer`.
        learning_starts: transitions stored before the first update; actions are random until then.
        batch_size: transitions per update.
        gamma: discount.
        n_steps: rewards summed before the value of what follows is estimated.
        train_freq: environment steps (of all environments together as one) between updates.
        gradient_steps: updates each time.
        target_update_interval: steps between updates of the target network.
        tau: how far each moves it: 1 copies the network, less averages (Polyak).
        double_q: choose the next action by the network, value it by the target network.
        dueling: separate state value and advantages.
        noisy: explore by noise on the weights, which is learned, instead of random actions.
        prioritized_replay: replay transitions in proportion to their TD errors.
        prioritized_replay_alpha: exponent of the priorities: 0 is uniform.
        prioritized_replay_beta0: initial importance-sampling exponent, annealed to 1.
        exploration_fraction: share of learning over which epsilon falls.
        exploration_initial_eps: epsilon at the beginning.
        exploration_final_eps: epsilon from then on.
        max_grad_norm: the gradient is scaled down to this norm.
        net_arch: widths of the hidden layers.
        compile: compute gradients by `torch.compile`: takes half a minute at first, then updates of
            small networks are about 1.5 times as fast. Needs a C++ compiler; not with ``noisy``.
        seed: random seed of weights, exploration, replay and the environment; ``None`` draws one.
        device: where the networks and the buffer are.

    Attributes:
        q_network: the network that acts.
        target_network: values the next observations; follows `q_network`.
        optimizer: `torch.optim.Adam` of `q_network`.
        num_timesteps: steps so far.
        exploration_rate: epsilon of the last actions.
        episode_returns: returns of the last 100 training episodes.
        losses: the last 100 updates' losses.

    Raises:
        ValueError: spaces it cannot handle, a hyper-parameter of the wrong type or out of range, a
            device that torch cannot use, or a buffer that memory has no room for.

    Example:
        >>> agent = DQN(gym.make("CartPole-v1"), seed=0)
        >>> agent = agent.learn(500)
        >>> action, _ = agent.predict(np.zeros(4, np.float32))
    """

    def __init__(
        self,
        env: gym.Env | VectorEnv | None,
        learning_rate: float = 1e-3,
        final_learning_rate: float | None = None,
        buffer_size: int = 100_000,
        learning_starts: int = 1000,
        batch_size: int = 64,
        gamma: float = 0.99,
        n_steps: int = 1,
        train_freq: int = 1,
        gradient_steps: int = 1,
        target_update_interval: int = 500,
        tau: float = 1.0,
        double_q: bool = True,
        dueling: bool = False,
        noisy: bool = False,
        prioritized_replay: bool = False,
        prioritized_replay_alpha: float = 0.6,
        prioritized_replay_beta0: float = 0.4,
        exploration_fraction: float = 0.2,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10.0,
        net_arch: Sequence[int] = (256, 256),
        compile: bool = False,
        seed: int | None = None,
        device: str = "cpu",
    ):
        self.learning_rate = number("learning_rate", learning_rate, above=0)
        self.final_learning_rate = final_learning_rate
        if final_learning_rate is not None:
            self.final_learning_rate = number("final_learning_rate", final_learning_rate, least=0)
        self.buffer_size = integer("buffer_size", buffer_size, 1)
        self.learning_starts = integer("learning_starts", learning_starts, 0)
        self.batch_size = integer("batch_size", batch_size, 1)
        self.gamma = fraction("gamma", gamma)
        self.n_steps = integer("n_steps", n_steps, 1)
        self.train_freq = integer("train_freq", train_freq, 1)
        self.gradient_steps = integer("gradient_steps", gradient_steps, 1)
        self.target_update_interval = integer("target_update_interval", target_update_interval, 1)
        self.tau = fraction("tau", tau)
        self.double_q = boolean("double_q", double_q)
        self.dueling = boolean("dueling", dueling)
        self.noisy = boolean("noisy", noisy)
        self.prioritized_replay = boolean("prioritized_replay", prioritized_replay)
        self.prioritized_replay_alpha = fraction(
            "prioritized_replay_alpha", prioritized_replay_alpha
        )
        self.prioritized_replay_beta0 = fraction(
            "prioritized_replay_beta0", prioritized_replay_beta0
        )
        self.exploration_fraction = fraction("exploration_fraction", exploration_fraction)
        self.exploration_initial_eps = fraction("exploration_initial_eps", exploration_initial_eps)
        self.exploration_final_eps = fraction("exploration_final_eps", exploration_final_eps)
        self.max_grad_norm = number("max_grad_norm", max_grad_norm, above=0, finite=False)
        self.net_arch = layer_widths("net_arch", net_arch)
        self.compile = boolean("compile", compile)
        if self.compile and self.noisy:
            raise ValueError("compile is True; it must be False with noisy")
        self.seed = checked_seed(seed)
        self.device = usable_device(device)
        seed = self.seed
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._env_seed: int | None = seed  # used for the first reset, then None
        self._rng = np.random.default_rng(seed)
        self._sampling_rng = torch.Generator("cpu").manual_seed(seed)
        self.num_timesteps = 0
        self.exploration_rate = 1.0
        self.episode_returns: deque[float] = deque(maxlen=100)
        self.losses: deque[torch.Tensor] = deque(maxlen=100)
        self.buffer: ReplayBuffer | None = None
        self.env: VectorEnv | None = None
        self._rounds = 0
        self._target_updates = 0
        self._span = 0, 0  # timesteps at which learning began and ends
        self._in_episodes = False  # whether episodes are running that learning may continue
        self._callbacks: list[Callback] = []
        self._callback_states: list[tuple[str, Any]] = []
        if env is not None:
            self.set_env(env)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The constructor's arguments by name, without ``env`` and ``device``."""
        return {name: getattr(self, name) for name in _HYPERPARAMETERS}

    # Using --------------------------------------------------------------------------------------

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
            deterministic: if false, explore as at the end of learning.

        Returns:
            Actions as a NumPy array, int64, of no axes or ``[N]``; and ``state``.

        Raises:
            ValueError: observations of another shape, outside their space or not finite, or a
                network that was moved to another dtype or device.
        """
        deterministic = boolean("deterministic", deterministic)
        batch, single = as_batch(self.observation_space, observation)
        epsilon = 0.0 if deterministic or self.noisy else self.exploration_final_eps
        try:
            actions = self._act(batch, epsilon, noisy=not deterministic)
        except RuntimeError:
            check_computes(self._networks, self.device)
            raise
        return (actions[0] if single else actions), state

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(
        self,
        total_timesteps: int | None = None,
        callback: Callback | Sequence[Callback] | None = (),
        progress_bar: bool = False,
    ) -> DQN:
        """Interact and learn for ``total_timesteps`` more steps.

        Each call begins new episodes, so the environment may be used in between, for an evaluation
        say, and a call that was interrupted can simply be followed by another. Only an agent that
        comes from `resume`, or was copied by a callback, continues its episodes.

        Args:
            total_timesteps: steps, counted over all environments; 0 does nothing; ``None`` finishes
                a run that was interrupted.
            callback: one or several functions called with the agent after each round of steps; see
                `agents.callbacks`. They must not use the environment that the agent learns in.
            progress_bar: show one, with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, an argument of the wrong type or out of range, an
                environment that returns rewards or observations that are not finite, no interrupted
                run to finish, or networks that cannot learn (frozen, or moved to another dtype).
            FloatingPointError: the networks diverged; they stay as they were before the update
                whose gradient was not finite.
        """
        if self.env is None:
            raise ValueError("the agent has no environment; pass env to load(), or call set_env()")
        if total_timesteps is not None:
            total_timesteps = integer("total_timesteps", total_timesteps, 0)
        callbacks = self._checked_callbacks(callback)
        check_computes(self._networks, self.device)
        check_learns("q_network", self.q_network, self.optimizer)
        if total_timesteps == 0:
            return self
        if total_timesteps is not None:
            self._span = self.num_timesteps, self.num_timesteps + total_timesteps
            self._in_episodes = False
        elif self.num_timesteps >= self._span[1]:
            raise ValueError("there is no interrupted run to finish; pass total_timesteps")
        self._set_callbacks(callbacks)
        try:
            with interruptible(self.env):
                if not self._in_episodes:
                    self._begin()
                self._learn(progress_bar)
        finally:
            self._in_episodes = False
        return self

    @torch.inference_mode(False)
    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on; another number of environments empties the replay buffer.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        env = as_vector_env(env)
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"action space is {actions}; DQN needs Discrete")
        subspaces(observations)  # raises an error if it cannot be handled
        if self.buffer_size < env.num_envs:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; it must be at least the number of "
                f"environments, {env.num_envs}"
            )
        if not hasattr(self, "q_network"):
            self._build(observations, actions, self._env_seed)
        given, mine = layout(observations), layout(self.observation_space)
        if given != mine or actions != self.action_space:
            raise ValueError(
                f"the environment has observations {given} and actions {actions}; "
                f"the agent was made for {mine} and {self.action_space}"
            )
        if self.buffer is None or self.buffer.num_envs != env.num_envs:
            self.buffer = ReplayBuffer(
                self.observation_space,
                self.buffer_size,
                env.num_envs,
                self.n_steps,
                self.gamma,
                self.prioritized_replay_alpha if self.prioritized_replay else None,
                self.device,
            )
        if self._env_seed is None:  # the seed decides in the next environment, too
            self._env_seed = int(self._rng.integers(2**31))
        self.env = env
        self._mode = autoreset_mode(env)
        self._in_episodes = False
        self._observations: dict[str, Any] | None = None  # as the environment gave them
        self._env_device: torch.device | None = None  # of an environment that uses tensors
        self._rows = np.arange(env.num_envs)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        self._returns = np.zeros(env.num_envs)

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """The parameters of both networks: not copies."""
        return {name: network.state_dict() for name, network in self._networks.items()}

    def set_parameters(self, parameters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over what :meth:`get_parameters` gave."""
        for name, network in self._networks.items():
            network.load_state_dict(parameters[name])

    # Files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write network and hyper-parameters to one safetensors file, atomically.

        Raises:
            ValueError: weights that are not finite.
        """
        metadata = {**self._description(FORMAT), "num_timesteps": str(self.num_timesteps)}
        tensors = {k: v.cpu().clone() for k, v in self.q_network.state_dict().items()}
        check_finite(tensors)
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(
        cls, path: str | Path, env: gym.Env | VectorEnv | None = None, device: str = "cpu"
    ) -> DQN:
        """Read an agent that :meth:`save` wrote; with ``env`` it can go on learning.

        Raises:
            ValueError: a missing or damaged file, or one that holds no DQN agent.
        """
        metadata, tensors = read_safetensors(path, "DQN agent", FORMAT)
        agent = cls._from_metadata(path, metadata, device)
        try:
            agent.num_timesteps = int(metadata["num_timesteps"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        load_weights(agent.q_network, tensors, path)
        agent.target_network.load_state_dict(tensors)
        if env is not None:
            agent.set_env(env)
        return agent

    def save_checkpoint(self, path: str | Path) -> None:
        """Write all that :meth:`resume` needs to one safetensors file, atomically.

        Networks, optimizer, replay, schedules, random states, the environment's state if it has
        ``get_state``, and that of the callbacks that have it.

        Raises:
            ValueError: the agent has not begun to learn, or weights that are not finite.
        """
        if self.env is None or self._observations is None:
            raise ValueError("the agent has not begun to learn; there is nothing to resume")
        env_state = get_env_state(self.env)
        if env_state is None:
            logger.warning("the environment cannot tell its state; resuming begins new episodes")
        state = {
            **{name: getattr(self, name) for name in _SAVED},
            "networks": self.get_parameters(),
            "optimizer": _with_keys(str, self.optimizer.state_dict()),
            "buffer": self.buffer.get_state(),
            "rng": self._rng.bit_generator.state,
            "sampling_rng": self._sampling_rng.get_state(),
            "episode_returns": list(self.episode_returns),
            "losses": torch.stack(list(self.losses)) if self.losses else None,
            "num_envs": self.env.num_envs,
            "mode": self._mode.name,
            "env": env_state,
            "callbacks": [
                [type(callback).__name__, callback.get_state()]
                for callback in self._callbacks
                if hasattr(callback, "get_state")
            ],
        }
        for parameters in state["networks"].values():
            check_finite(parameters)
        tensors: dict[str, torch.Tensor] = {}
        metadata = self._description(CHECKPOINT_FORMAT)
        metadata["state"] = json.dumps(pack(state, tensors))
        write_safetensors(path, tensors, metadata)

    @classmethod
    @torch.inference_mode(False)
    def resume(cls, path: str | Path, env: gym.Env | VectorEnv, device: str = "cpu") -> DQN:
        """Return an agent that continues exactly where it was: call `learn` without a number.

        Give ``learn`` the callbacks that it had.

        Args:
            path: what :meth:`save_checkpoint` wrote.
            env: like the one it learned in. If it has ``set_state`` it goes on where it was;
                otherwise new episodes begin, and a warning says so.
            device: where the networks and the buffer lie.

        Raises:
            ValueError: a missing or damaged file, one that holds no checkpoint, or another
                environment.
        """
        metadata, tensors = read_safetensors(path, "DQN checkpoint", CHECKPOINT_FORMAT)
        agent = cls._from_metadata(path, metadata, device)
        try:
            state = unpack(json.loads(metadata["state"]), tensors)
            kind = state["num_envs"], state["mode"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        agent.set_env(env)
        if (agent.env.num_envs, agent._mode.name) != kind:
            raise ValueError(
                f"the environment has {agent.env.num_envs} rows and autoreset mode "
                f"{agent._mode.name}; the checkpoint was made with {kind[0]} and {kind[1]}"
            )
        try:
            agent._set_state(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its state is damaged ({error!r})") from None
        return agent

    def _set_state(self, state: Mapping[str, Any]) -> None:
        for name in _SAVED:
            setattr(self, name, state[name])
        self.set_parameters(state["networks"])
        self.optimizer.load_state_dict(_with_keys(int, state["optimizer"]))
        self.buffer.set_state(state["buffer"])
        self._rng.bit_generator.state = state["rng"]
        self._sampling_rng.set_state(state["sampling_rng"])
        self.episode_returns.extend(state["episode_returns"])
        if state["losses"] is not None:
            self.losses.extend(state["losses"].to(self.device))
        self._callback_states = [tuple(saved) for saved in state["callbacks"]]
        if state["env"] is not None:
            set_env_state(self.env, state["env"])
            self._env_seed = None
        else:
            logger.warning("the environment's state was not saved: new episodes begin")
            self._env_seed = int(self._rng.integers(2**31))
            self._in_episodes = False

    def _description(self, file_format: str) -> dict[str, str]:
        spaces_of = self.observation_space, self.action_space
        return describe(file_format, self.hyperparameters, *spaces_of)

    @classmethod
    def _from_metadata(cls, path: str | Path, metadata: Mapping[str, str], device: str) -> DQN:
        """A new agent as a file describes it."""
        device = usable_device(device)
        try:
            agent = cls(None, device=device, **json.loads(metadata["hyperparameters"]))
            agent._build(
                space_from_json(metadata["observation_space"]),
                space_from_json(metadata["action_space"]),
                0,
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        return agent

    # Learning -----------------------------------------------------------------------------------

    def _build(self, observations: spaces.Space, actions: spaces.Discrete, seed: int) -> None:
        self.observation_space, self.action_space = observations, actions
        self._first_action = int(actions.start)
        self._subspaces = subspaces(observations)
        self._dtypes = {
            key: torch.from_numpy(np.empty(0, part.dtype)).dtype
            for key, part in self._subspaces.items()
        }
        arguments = observations, int(actions.n), self.net_arch, self.dueling, self.noisy
        with building(seed):
            self.q_network = QNetwork(*arguments).to(self.device)
            self.target_network = QNetwork(*arguments).to(self.device).requires_grad_(False)
            self.target_network.load_state_dict(self.q_network.state_dict())
        self.optimizer = torch.optim.Adam(
            self.q_network.parameters(), self.learning_rate, fused=True
        )

    @property
    def _networks(self) -> dict[str, QNetwork]:
        return {"q_network": self.q_network, "target_network": self.target_network}

    def _checked_callbacks(self, callback: Any) -> list[Callback]:
        callbacks = callables(callback)
        for function in callbacks:
            if uses_env(function, self.env):
                raise ValueError(
                    f"{type(function).__name__} has the environment that the agent learns in; "
                    "give it one of its own"
                )
        return callbacks

    def _set_callbacks(self, callbacks: list[Callback]) -> None:
        """Checkpoints come last; those resumed get the state they had."""
        self._callbacks = sorted(callbacks, key=lambda c: isinstance(c, CheckpointCallback))
        for callback in self._callbacks:
            names = [name for name, _ in self._callback_states]
            if hasattr(callback, "set_state") and type(callback).__name__ in names:
                _, state = self._callback_states.pop(names.index(type(callback).__name__))
                callback.set_state(state)
        for name, _ in self._callback_states:
            logger.warning("the checkpoint has the state of a %s, which was not given", name)
        self._callback_states = []

    def _begin(self) -> None:
        """Begin new episodes in all environments, whatever was going on before."""
        observations, _ = self.env.reset(seed=self._env_seed)
        self._env_seed = None
        self._observations = self._split_observations(observations)
        self.buffer.restart(self._observations)
        self._ended[:], self._returns[:] = False, 0.0
        self._in_episodes = True

    def _learn(self, progress_bar: bool) -> None:
        first, total = self._span
        done = self.num_timesteps - first
        shown = time.monotonic()
        with ProgressBar(
            total=total - first, initial=done, disable=not progress_bar, unit="step"
        ) as bar:
            while self.num_timesteps < total:
                progress = (self.num_timesteps - first) / (total - first)
                self._collect(progress)
                self._rounds += 1
                if self._has_enough and self._rounds % self.train_freq == 0:
                    self._train(progress)
                self._update_target()
                for function in self._callbacks:
                    function(self)
                bar.update(min(self.num_timesteps, total) - first - bar.n)
                if self.episode_returns and time.monotonic() - shown > 0.5:
                    shown = time.monotonic()
                    bar.set_postfix(mean_return=f"{np.mean(self.episode_returns):.2f}")

    @torch.no_grad()
    def _act(self, observations: Mapping[str, Any], epsilon: float, noisy: bool) -> np.ndarray:
        """Epsilon-greedy actions int64 ``[N]``."""
        count = len(next(iter(observations.values())))
        explore = self._rng.random(count) < epsilon if epsilon else np.zeros(count, dtype=np.bool_)
        exploring = int(np.count_nonzero(explore))
        if exploring == count:
            return self._first_action + self._rng.integers(self.action_space.n, size=count)
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng if noisy else None)
        actions = self.q_network(self._tensors(observations)).argmax(dim=1).cpu().numpy()
        if exploring:
            actions[explore] = self._rng.integers(self.action_space.n, size=exploring)
        return self._first_action + actions

    def _collect(self, progress: float) -> None:
        """Step every environment, and store the transitions; a reset makes none."""
        self.exploration_rate = self._epsilon(progress)
        actions = env_actions = self._act(self._observations, self.exploration_rate, noisy=True)
        if self._env_device is not None:
            env_actions = torch.from_numpy(actions).to(self._env_device)
        next_obs, rewards, terminated, truncated, infos = self.env.step(env_actions)
        rewards, terminated, truncated = map(to_numpy, (rewards, terminated, truncated))
        check_rewards(rewards)
        next_obs = self._split_observations(next_obs)
        dones = terminated | truncated
        some_done = np.count_nonzero(dones)
        rows, stored_obs, episode_starts = self._rows, next_obs, dones
        if self._mode == AutoresetMode.NEXT_STEP:
            episode_starts = self._ended
            if np.count_nonzero(episode_starts):  # a step after an end is a reset
                rows = np.flatnonzero(~episode_starts)
        elif self._mode == AutoresetMode.SAME_STEP and some_done:
            stored_obs = self._with_final(next_obs, infos["final_obs"], dones)
        columns = [actions - self._first_action, rewards, terminated, truncated]
        if len(rows) < len(dones):
            columns, stored_obs = [column[rows] for column in columns], _take(stored_obs, rows)
        self.buffer.add(rows, *columns, stored_obs)
        self._returns[rows] += columns[1]
        if some_done:
            self.episode_returns.extend(self._returns[dones].tolist())
            self._returns[dones] = 0.0
            if self._mode == AutoresetMode.DISABLED:
                next_obs, _ = self.env.reset(options={"reset_mask": dones.copy()})
                next_obs = self._split_observations(next_obs)
        if np.count_nonzero(episode_starts):
            starts = np.flatnonzero(episode_starts)
            self.buffer.begin(starts, _take(next_obs, starts))
        self._observations = next_obs
        self._ended = dones
        self.num_timesteps += len(rows)

    def _epsilon(self, progress: float) -> float:
        if self.buffer.added < self.learning_starts:
            return 1.0
        if self.noisy:
            return 0.0
        return linear(
            self.exploration_initial_eps,
            self.exploration_final_eps,
            self.exploration_fraction,
            progress,
        )

    @property
    def _has_enough(self) -> bool:
        """Whether there is enough to replay; a loaded agent begins with an empty buffer."""
        return len(self.buffer) > 0 and self.buffer.added >= self.learning_starts

    def _train(self, progress: float) -> None:
        """``gradient_steps`` updates, none of which moves the target network."""
        if self.final_learning_rate is not None:
            rate = linear(self.learning_rate, self.final_learning_rate, 1.0, progress)
            self.optimizer.param_groups[0]["lr"] = rate
        beta = linear(self.prioritized_replay_beta0, 1.0, 1.0, progress)
        # Priorities change with each update, and noise is drawn for each.
        together = 1 if self.prioritized_replay or self.noisy else BATCHES_TOGETHER
        for done in range(0, self.gradient_steps, together):
            count = min(together, self.gradient_steps - done)
            drawn = self.buffer.sample(count * self.batch_size, self._sampling_rng, beta)
            for batch in drawn.split(self.batch_size):
                errors = self._update(batch)
                if self.prioritized_replay:
                    self.buffer.update_priorities(batch.rows, errors)

    def _update(self, batch: Batch) -> torch.Tensor:
        """One step of gradient descent on the Huber loss.

        Returns:
            The temporal-difference errors ``[B]`` before it.
        """
        networks = self.q_network, self.target_network
        if self.compile:
            loss, errors = compiled_backward(*networks, batch, self.double_q)
        else:
            noise = self._sampling_rng if self.noisy else None
            loss, errors = td_loss(*networks, batch, self.double_q, noise)
            self.optimizer.zero_grad()
            loss.backward()
        norm = clip_gradients(self.q_network, self.max_grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"DQN diverged: the gradient's norm is {norm} after {self.num_timesteps} steps; "
                "lower learning_rate, or the rewards' scale"
            )
        self.optimizer.step()
        self.losses.append(loss.detach())
        return errors

    @torch.no_grad()
    def _update_target(self) -> None:
        due = self.num_timesteps // self.target_update_interval
        if due > self._target_updates:
            self._target_updates = due
            target, source = self.target_network.parameters(), self.q_network.parameters()
            torch._foreach_lerp_(list(target), list(source), self.tau)

    def _split_observations(self, observations: Any) -> dict[str, Any]:
        """Observations of the environment by key; notes whether it uses NumPy or tensors."""
        parts = split(self.observation_space, observations)
        check_values(self._subspaces, parts)
        first = next(iter(parts.values()))
        if isinstance(first, torch.Tensor):
            self._env_device = first.device
        return parts

    def _tensors(self, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Observations by key, in the space's dtypes on the device."""
        return {
            key: torch.as_tensor(observations[key], dtype=dtype, device=self.device)
            for key, dtype in self._dtypes.items()
        }

    def _with_final(
        self, next_obs: dict[str, Any], final: Any, dones: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """``next_obs``, but the last observations of the episodes that ended."""
        final = take(self.observation_space, final, dones)
        check_values(self._subspaces, final)
        stored = {key: value.clone() for key, value in self._tensors(next_obs).items()}
        for key, value in self._tensors(final).items():
            stored[key][torch.from_numpy(dones)] = value
        return stored


def td_loss(
    q_network: Callable[..., torch.Tensor],
    target_network: QNetwork,
    batch: Batch,
    double_q: bool,
    noise: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean Huber loss of a batch, and its temporal-difference errors ``[B]``.

    Args:
        q_network: the network that learns.
        target_network: values the next observations.
        batch: transitions.
        double_q: choose the next actions by ``q_network``.
        noise: draw the noise of noisy networks from it, for each forward pass.
    """
    with torch.no_grad():
        if noise is not None:
            target_network.draw_noise(noise)
        next_values = target_network(batch.next_observations)
        if double_q:
            if noise is not None:
                q_network.draw_noise(noise)
            best = q_network(batch.next_observations).argmax(dim=1, keepdim=True)
            next_values = next_values.gather(1, best).squeeze(1)
        else:
            next_values = next_values.amax(dim=1)
        targets = batch.rewards + batch.discounts * next_values
    if noise is not None:
        q_network.draw_noise(noise)
    estimates = q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
    if batch.weights is None:
        loss = F.smooth_l1_loss(estimates, targets)
    else:
        losses = F.smooth_l1_loss(estimates, targets, reduction="none")
        loss = (batch.weights * losses).mean()
    return loss, (targets - estimates).detach()


def compiled_backward(
    q_network: QNetwork,
    target_network: QNetwork,
    batch: Batch,
    double_q: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `td_loss` returns; fills in the parameters' gradients, both by one compiled function."""
    parameters = {n: p for n, p in q_network.named_parameters() if p.requires_grad}
    with torch.no_grad():
        gradients, results = _compiled_gradients()(
            parameters, q_network, target_network, batch, double_q
        )
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    return results


@functools.cache
def _compiled_gradients() -> Callable[..., Any]:
    return torch.compile(_gradients, fullgraph=True, dynamic=False)


def _gradients(
    parameters: dict[str, torch.Tensor],
    q_network: QNetwork,
    target_network: QNetwork,
    batch: Batch,
    double_q: bool,
) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    def loss_of(values: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        network = functools.partial(torch.func.functional_call, q_network, values)
        return td_loss(network, target_network, batch, double_q)

    return torch.func.grad_and_value(loss_of, has_aux=True)(parameters)


_SAVED = (
    "num_timesteps",
    "exploration_rate",
    "_rounds",
    "_target_updates",
    "_span",
    "_in_episodes",
    "_ended",
    "_returns",
    "_observations",
)
"""What a checkpoint holds as it is."""

_HYPERPARAMETERS = [n for n in inspect.signature(DQN).parameters if n not in ("env", "device")]


def _take(observations: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows of arrays or tensors."""
    return {key: value[rows] for key, value in observations.items()}


def _with_keys(kind: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with its parameters' numbers as text, as JSON wants it, or as ints."""
    return {**state, "state": {kind(index): value for index, value in state["state"].items()}}
