"""Deep Q-learning from scratch, with common extensions.

Mnih et al. 2015, "Human-level control through deep reinforcement learning". On top, each by a
switch: Double DQN (van Hasselt et al. 2016), dueling networks (Wang et al. 2016), n-step returns
(Sutton 1988), prioritized replay (Schaul et al. 2016), noisy networks (Fortunato et al. 2018).
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import nn
from torch.nn import functional as F

from agents.base import BaseAgent, LearningBar
from agents.callbacks import CheckpointCallback, as_callbacks
from agents.collector import Step
from agents.environments import interruptible, uses_env
from agents.networks import QNetwork, building
from agents.observations import subspaces
from agents.replay import Batch, ReplayBuffer
from agents.saving import check_finite, get_env_state, pack, set_env_state, unpack
from agents.schedules import linear
from gan_backbones.utils.files import read_safetensors, write_safetensors
from gan_backbones.utils.validation import boolean, fraction, integer

CHECKPOINT_FORMAT = "latentgym-dqn-checkpoint-4"

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
        learning_starts: number of transitions to store before the first update; until then actions
            are random.
        batch_size: number of transitions per update.
        gamma: discount factor.
        n_steps: number of rewards summed before the value of the next observation is added.
        train_freq: number of times that all environments are stepped between updates.
        gradient_steps: number of updates each time.
        target_update_interval: number of steps between updates of the target network.
        tau: weight of the network in such an update: 1 copies it, less averages (Polyak).
        double_q: choose the next action by the network, value it by the target network.
        dueling: separate state value and advantages.
        noisy: explore by learned noise on the weights instead of random actions.
        prioritized_replay: replay transitions in proportion to their TD errors.
        prioritized_replay_alpha: exponent of the priorities: 0 is uniform.
        prioritized_replay_beta0: initial importance-sampling exponent, annealed to 1.
        exploration_fraction: share of learning over which epsilon falls.
        exploration_initial_eps: epsilon at the beginning.
        exploration_final_eps: epsilon after that.
        max_grad_norm: the gradient is scaled down to this norm.
        net_arch: widths of the hidden layers.
        seed: random seed of weights, exploration, replay and the environment; ``None`` draws one.
        device: device of the networks and the buffer.

    Attributes:
        q_network: the network that acts.
        target_network: values the next observations; follows `q_network`.
        optimizer: `torch.optim.Adam` of `q_network`.
        num_timesteps: number of steps so far.
        exploration_rate: epsilon of the last actions.
        episode_returns: returns of the last 100 training episodes.
        losses: losses of the last 100 updates.

    Raises:
        ValueError: spaces it cannot handle, a hyper-parameter of the wrong type or out of range, a
            device that torch cannot use, or a buffer that memory has no room for.

    Example:
        >>> agent = DQN(gym.make("CartPole-v1"), seed=0)
        >>> agent = agent.learn(500)
        >>> action, _ = agent.predict(np.zeros(4, np.float32))
    """

    buffer: ReplayBuffer
    _observations: dict[str, Any]  # by key, to act on next

    name = "DQN"
    file_format = "latentgym-dqn-4"

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
        seed: int | None = None,
        device: str = "cpu",
    ):
        super().__init__(
            learning_rate, final_learning_rate, gamma, max_grad_norm, net_arch, seed, device
        )
        self.buffer_size = integer("buffer_size", buffer_size, 1)
        self.learning_starts = integer("learning_starts", learning_starts, 0)
        self.batch_size = integer("batch_size", batch_size, 1)
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
        self._rng = np.random.default_rng(self._seed)
        self._sampling_rng = torch.Generator("cpu").manual_seed(self._seed)
        self.exploration_rate = 1.0
        self.losses: deque[torch.Tensor] = deque(maxlen=100)
        self.buffer = None  # type: ignore[assignment]  # until there is an environment
        self._rounds = 0  # number of times that all environments were stepped
        self._target_updates = 0
        self._first_timestep = self._last_timestep = 0  # where the current `learn` began and ends
        self._in_episodes = False  # whether episodes are running that learning may continue
        self._callback_states: list[tuple[str, Any]] = []
        if env is not None:
            self.set_env(env)

    # Learning -----------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(
        self,
        total_timesteps: int | None = None,
        callback: Callback | Sequence[Callback] | None = (),
        progress_bar: bool = False,
    ) -> DQN:
        """Interact and learn for ``total_timesteps`` more steps.

        Each call begins new episodes. So the environment may be used in between, and after an
        interrupt you can simply call `learn` again. Only an agent that comes from `resume`, or that
        a callback copied, continues its episodes.

        Args:
            total_timesteps: number of steps over all environments; 0 does nothing; ``None``
                finishes an interrupted run.
            callback: one or several functions called with the agent after each round of steps; see
                `agents.callbacks`. They must not use the environment that the agent learns in.
            progress_bar: show a progress bar with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, an argument of the wrong type or out of range, an
                environment that returns rewards or observations that are not finite, no interrupted
                run to finish, or networks that cannot learn (frozen, or moved to another dtype).
            FloatingPointError: the networks diverged; they stay as they were before the update
                whose gradient was not finite.
        """
        env = self._check_can_learn()
        if total_timesteps is not None:
            total_timesteps = integer("total_timesteps", total_timesteps, 0)
        callbacks = self._checked_callbacks(callback, env)
        if total_timesteps == 0:
            return self
        if total_timesteps is not None:
            self._first_timestep = self.num_timesteps
            self._last_timestep = self.num_timesteps + total_timesteps
            self._in_episodes = False
        elif self.num_timesteps >= self._last_timestep:
            raise ValueError("there is no interrupted run to finish; pass total_timesteps")
        self._set_callbacks(callbacks)
        try:
            with interruptible(env):
                if not self._in_episodes:
                    self._begin_episodes()
                self._learn(progress_bar)
        finally:
            self._in_episodes = False
        return self

    def _learn(self, progress_bar: bool) -> None:
        first, total = self._first_timestep, self._last_timestep - self._first_timestep
        with LearningBar(self, total, first, progress_bar) as bar:
            while self.num_timesteps < self._last_timestep:
                progress = (self.num_timesteps - first) / total
                self._collect(progress)
                self._rounds += 1
                can_train = len(self.buffer) > 0 and self.buffer.added >= self.learning_starts
                if can_train and self._rounds % self.train_freq == 0:
                    self._train(progress)
                self._update_target()
                for function in self._callbacks:
                    function(self)
                bar.update()

    def _begin_episodes(self) -> None:
        """Begin new episodes in all environments, whatever was going on before."""
        observations = self._collector.reset(seed=self._env_seed)
        self._env_seed = None
        self._observations = self._by_key(observations)
        self.buffer.restart(self._observations)
        self._in_episodes = True

    def _collect(self, progress: float) -> None:
        """Step all environments and store the transitions."""
        self.exploration_rate = self._epsilon(progress)
        actions = self._act(self._observations, self.exploration_rate, noisy=True)
        step = self._collector.step(self._first_action + actions)
        self._observations = self._by_key(step.obs)
        next_obs = self._next_observations(step)
        rows = np.flatnonzero(step.mask)  # a step that only resets is no transition
        if len(rows) < len(actions):
            next_obs = _take(next_obs, rows)
        self.buffer.add(
            rows,
            actions[rows],
            step.rewards[rows],
            step.terminated[rows],
            step.truncated[rows],
            next_obs,
        )
        if step.episode_starts.any():
            starts = np.flatnonzero(step.episode_starts)
            self.buffer.begin(starts, _take(self._observations, starts))
        self.episode_returns.extend(self._collector.returns[step.dones].tolist())
        self.num_timesteps += len(rows)

    def _next_observations(self, step: Step) -> dict[str, Any]:
        """What the actions led to, by key: the last observations of episodes that ended."""
        if step.next_obs is step.obs and step.final_obs is None:
            return self._observations
        next_obs = self._tensors(self._by_key(step.next_obs))
        if step.final_obs is not None:
            final = self._tensors(self._last_observations(step, step.dones))
            dones = torch.from_numpy(step.dones)
            for key, rows in final.items():
                next_obs[key] = next_obs[key].clone()
                next_obs[key][dones] = rows
        return next_obs

    def _train(self, progress: float) -> None:
        """Make ``gradient_steps`` updates, none of which moves the target network."""
        self._schedule_learning_rate(progress)
        beta = linear(self.prioritized_replay_beta0, 1.0, 1.0, progress)
        # Priorities change with each update, and noise is drawn for each.
        together = 1 if self.prioritized_replay or self.noisy else BATCHES_TOGETHER
        for done in range(0, self.gradient_steps, together):
            count = min(together, self.gradient_steps - done)
            drawn = self.buffer.sample(count * self.batch_size, self._sampling_rng, beta)
            for batch in drawn.split(self.batch_size):
                td_errors = self._update(batch)
                if self.prioritized_replay:
                    self.buffer.update_priorities(batch.indices, td_errors)

    def _update(self, batch: Batch) -> torch.Tensor:
        """Take one step of gradient descent on the Huber loss; return the TD errors ``[B]``."""
        targets = self._targets(batch)
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng)
        estimates = self.q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
        if batch.weights is None:
            loss = F.smooth_l1_loss(estimates, targets)
        else:
            losses = F.smooth_l1_loss(estimates, targets, reduction="none")
            loss = (batch.weights * losses).mean()
        self._gradient_step(self.q_network, self.optimizer, loss)
        self.losses.append(loss.detach())
        return (targets - estimates).detach()

    @torch.no_grad()
    def _targets(self, batch: Batch) -> torch.Tensor:
        """Return the TD targets ``[B]``: reward plus discounted value of the next observation."""
        if self.noisy:
            self.target_network.draw_noise(self._sampling_rng)
        next_values = self.target_network(batch.next_observations)
        if self.double_q:
            if self.noisy:
                self.q_network.draw_noise(self._sampling_rng)
            best = self.q_network(batch.next_observations).argmax(dim=1, keepdim=True)
            next_values = next_values.gather(1, best).squeeze(1)
        else:
            next_values = next_values.amax(dim=1)
        return batch.rewards + batch.discounts * next_values

    @torch.no_grad()
    def _update_target(self) -> None:
        due = self.num_timesteps // self.target_update_interval
        if due > self._target_updates:
            self._target_updates = due
            target, source = self.target_network.parameters(), self.q_network.parameters()
            torch._foreach_lerp_(list(target), list(source), self.tau)

    # Acting -------------------------------------------------------------------------------------

    def _greedy_or_random(self, observations: dict[str, Any], deterministic: bool) -> np.ndarray:
        epsilon = 0.0 if deterministic or self.noisy else self.exploration_final_eps
        return self._first_action + self._act(observations, epsilon, noisy=not deterministic)

    @torch.no_grad()
    def _act(self, observations: Mapping[str, Any], epsilon: float, noisy: bool) -> np.ndarray:
        """Return epsilon-greedy actions int64 ``[N]``, counted from 0."""
        count = len(next(iter(observations.values())))
        explore = self._rng.random(count) < epsilon if epsilon else np.zeros(count, dtype=np.bool_)
        exploring = int(np.count_nonzero(explore))
        if exploring == count:
            return self._rng.integers(self.action_space.n, size=count)
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng if noisy else None)
        actions = self.q_network(self._tensors(observations)).argmax(dim=1).cpu().numpy()
        if exploring:
            actions[explore] = self._rng.integers(self.action_space.n, size=exploring)
        return actions

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

    def _tensors(self, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Observations by key, in the space's dtypes on the device."""
        return {
            key: torch.as_tensor(observations[key], dtype=dtype, device=self.device)
            for key, dtype in self._dtypes.items()
        }

    # Setting up ---------------------------------------------------------------------------------

    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on; another number of environments empties the replay buffer.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        super().set_env(env)
        self._in_episodes = False
        self._observations = None  # type: ignore[assignment]  # before the first episodes

    def _check_spaces(
        self, observations: spaces.Space, actions: spaces.Space, num_envs: int
    ) -> None:
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"action space is {actions}; DQN needs Discrete")
        subspaces(observations)  # raises an error if it cannot be handled
        if self.buffer_size < num_envs:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; it must be at least the number of "
                f"environments, {num_envs}"
            )

    def _prepare(self, env: VectorEnv) -> None:
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

    def _build(self, seed: int) -> None:
        self._first_action = int(self.action_space.start)
        self._dtypes = {
            key: torch.from_numpy(np.empty(0, part.dtype)).dtype
            for key, part in self._subspaces.items()
        }
        count = int(self.action_space.n)
        arguments = self.observation_space, count, self.net_arch, self.dueling, self.noisy
        with building(seed):
            self.q_network = QNetwork(*arguments).to(self.device)
            self.target_network = QNetwork(*arguments).to(self.device).requires_grad_(False)
            self.target_network.load_state_dict(self.q_network.state_dict())
        self.optimizer = torch.optim.Adam(
            self.q_network.parameters(), self.learning_rate, fused=True
        )

    def _networks(self) -> dict[str, nn.Module]:
        return {"q_network": self.q_network, "target_network": self.target_network}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"q_network": self.optimizer}

    def _saved_network(self) -> nn.Module:
        return self.q_network

    def _load_weights(self, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
        super()._load_weights(tensors, path)
        self.target_network.load_state_dict(tensors)

    def _draw_seed(self) -> int:
        return int(self._rng.integers(2**31))

    def _checked_callbacks(self, callback: Any, env: VectorEnv) -> list[Callback]:
        callbacks = as_callbacks(callback)
        for function in callbacks:
            if uses_env(function, env):
                raise ValueError(
                    f"{type(function).__name__} has the environment that the agent learns in; "
                    "give it one of its own"
                )
        return callbacks

    def _set_callbacks(self, callbacks: list[Callback]) -> None:
        """Call checkpoints last; give callbacks the state that they had in a resumed run."""
        self._callbacks = sorted(callbacks, key=lambda c: isinstance(c, CheckpointCallback))
        for callback in self._callbacks:
            names = [name for name, _ in self._callback_states]
            if hasattr(callback, "set_state") and type(callback).__name__ in names:
                _, state = self._callback_states.pop(names.index(type(callback).__name__))
                callback.set_state(state)
        for name, _ in self._callback_states:
            logger.warning("the checkpoint has the state of a %s, which was not given", name)
        self._callback_states = []

    # Checkpoints --------------------------------------------------------------------------------

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
            logger.warning("the environment has no get_state(); resuming begins new episodes")
        state = {
            **{name: getattr(self, name) for name in _COUNTERS},
            "networks": self.get_parameters(),
            "optimizer": _with_keys(str, self.optimizer.state_dict()),
            "buffer": self.buffer.get_state(),
            "rng": self._rng.bit_generator.state,
            "sampling_rng": self._sampling_rng.get_state(),
            "episode_returns": list(self.episode_returns),
            "losses": torch.stack(list(self.losses)) if self.losses else None,
            "num_envs": self.env.num_envs,
            "mode": self._collector.mode.name,
            "env": env_state,
            "collector": self._collector.get_state(),
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
            path: file that :meth:`save_checkpoint` wrote.
            env: environment like the one that it learned in. If it has ``set_state``, its episodes
                continue; otherwise new episodes begin, and a warning says so.
            device: device of the networks and the buffer.

        Raises:
            ValueError: a missing or damaged file, one that holds no checkpoint, or another
                environment.
        """
        metadata, tensors = read_safetensors(path, "DQN checkpoint", CHECKPOINT_FORMAT)
        agent = cls._from_metadata(path, metadata, device)
        try:
            state = unpack(json.loads(metadata["state"]), tensors)
            num_envs, mode = state["num_envs"], state["mode"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        agent.set_env(env)
        given = agent._collector.env.num_envs, agent._collector.mode.name
        if given != (num_envs, mode):
            raise ValueError(
                f"the environment has {given[0]} rows and autoreset mode {given[1]}; "
                f"the checkpoint was made with {num_envs} and {mode}"
            )
        try:
            agent._set_state(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its state is damaged ({error!r})") from None
        return agent

    def _set_state(self, state: Mapping[str, Any]) -> None:
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.set_parameters(state["networks"])
        self.optimizer.load_state_dict(_with_keys(int, state["optimizer"]))
        self.buffer.set_state(state["buffer"])
        self._rng.bit_generator.state = state["rng"]
        self._sampling_rng.set_state(state["sampling_rng"])
        self.episode_returns.extend(state["episode_returns"])
        if state["losses"] is not None:
            self.losses.extend(state["losses"].to(self.device))
        self._callback_states = [(name, saved) for name, saved in state["callbacks"]]
        if state["env"] is not None:
            set_env_state(self._collector.env, state["env"])
            self._collector.set_state(state["collector"])
            self._observations = self._by_key(self._collector.obs)
            self._env_seed = None
        else:
            logger.warning("the environment's state was not saved: new episodes begin")
            self._env_seed = self._draw_seed()
            self._in_episodes = False


_COUNTERS = (
    "num_timesteps",
    "exploration_rate",
    "_rounds",
    "_target_updates",
    "_first_timestep",
    "_last_timestep",
    "_in_episodes",
)
"""Attributes that a checkpoint holds as they are."""


def _take(observations: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows of arrays or tensors."""
    return {key: value[rows] for key, value in observations.items()}


def _with_keys(kind: type, state: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state with its parameters' numbers as text, as JSON wants it, or as ints."""
    return {**state, "state": {kind(index): value for index, value in state["state"].items()}}
