"""Deep Q-learning from scratch, and what has proven to make it better.

Mnih et al. 2015, "Human-level control through deep reinforcement learning". On top, each by a
switch: Double DQN (van Hasselt et al. 2016), dueling networks (Wang et al. 2016), n-step returns
(Sutton 1988), prioritised replay (Schaul et al. 2016), noisy networks (Fortunato et al. 2018).
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch.nn import functional as F

from agents.adam import Adam
from agents.callbacks import Checkpoint
from agents.checks import check_hyperparameters
from agents.environments import as_vector_env, autoreset_mode, check_rewards
from agents.networks import QNetwork, as_one_vector
from agents.observations import boxes, shapes, split
from agents.replay import Batch, ReplayBuffer
from agents.schedules import linear
from agents.spaces_json import space_from_json
from agents.states import describe, get_env_state, load_weights, pack, set_env_state, unpack
from gan_backbones.files import read_safetensors, write_safetensors
from gan_backbones.progress import ProgressBar

FORMAT = "latentgym-dqn-3"
CHECKPOINT_FORMAT = "latentgym-dqn-checkpoint-2"

BATCHES_TOGETHER = 16
"""Batches that are drawn in one go."""

Callback = Callable[["DQN"], object]

logger = logging.getLogger("agents")


class DQN:
    """A deep Q-network agent for `Discrete` actions.

    Observations are a flat `Box`, a uint8 image ``[H, W, C]`` or ``[C, H, W]``, or a `Dict` of
    such. Hyper-parameters bear Stable-Baselines3's names. Steps are counted over all environments.

    Args:
        env: a Gymnasium environment or vector environment, in any autoreset mode.
        learning_rate: of Adam; falls linearly to ``final_learning_rate``.
        final_learning_rate: by default the same: constant.
        buffer_size: transitions kept for replay, at most; see `agents.replay.ReplayBuffer`.
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
        prioritized_replay: replay transitions by how wrong their values were.
        prioritized_replay_alpha: how much that counts: 0 is uniform.
        prioritized_replay_beta0: how much importance weights make up for it in the beginning; in
            the end wholly, 1.
        exploration_fraction: share of learning over which epsilon falls.
        exploration_initial_eps: epsilon at the beginning.
        exploration_final_eps: epsilon from then on.
        max_grad_norm: the gradient is scaled down to this norm.
        net_arch: widths of the hidden layers.
        compile: compile the gradient by `torch.compile`: half a minute at first, then updates of
            small networks take half the time. Needs a C++ compiler; not with ``noisy``.
        seed: of weights, exploration, replay and the environment; ``None`` draws one.
        device: where the networks and the buffer lie.

    Attributes:
        q_network: the network that acts.
        num_timesteps: steps so far.
        exploration_rate: epsilon of the last actions.
        episode_returns: returns of the last 100 training episodes.
        losses: the last 100 updates' losses.

    Raises:
        ValueError: spaces it cannot handle, a hyper-parameter out of range, or a buffer for which
            there is no memory.

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
        self.hyperparameters: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "env", "device")
        }
        self.hyperparameters["net_arch"] = list(net_arch)
        check_hyperparameters(
            self.hyperparameters,
            at_least={
                0: ("learning_starts", "final_learning_rate", "seed"),
                1: (
                    "buffer_size",
                    "batch_size",
                    "n_steps",
                    "train_freq",
                    "gradient_steps",
                    "target_update_interval",
                ),
            },
            from_0_to_1=(
                "gamma",
                "tau",
                "prioritized_replay_alpha",
                "prioritized_replay_beta0",
                "exploration_fraction",
                "exploration_initial_eps",
                "exploration_final_eps",
            ),
            above_0=("learning_rate", "max_grad_norm"),
        )
        if compile and noisy:
            raise ValueError("compile is True; it must be False with noisy")
        vars(self).update(self.hyperparameters)
        self.device = torch.device(device)
        seed = int(np.random.SeedSequence().generate_state(1)[0] if seed is None else seed)
        self._env_seed: int | None = seed  # used for the first reset, then None
        self._rng = np.random.default_rng(seed)
        self._sampling_rng = torch.Generator().manual_seed(seed)
        self.num_timesteps = 0
        self.exploration_rate = 1.0
        self.episode_returns: deque[float] = deque(maxlen=100)
        self.losses: deque[torch.Tensor] = deque(maxlen=100)
        self.buffer: ReplayBuffer | None = None
        self.env: VectorEnv | None = None
        self._rounds = 0
        self._target_updates = 0
        self._span = 0, 0  # timesteps at which learning began and ends
        self._callbacks: list[Callback] = []
        self._callback_states: list[tuple[str, Any]] = []
        if env is not None:
            self.set_env(env)

    # Using --------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The best action for one observation or a batch of them.

        Args:
            observation: ``[*shape]`` or ``[N, *shape]``, or a dict of such.
            state: passed through; the agent has no memory.
            episode_start: ignored; here for Stable-Baselines3's `evaluate_policy`.
            deterministic: if false, explore as in the end of learning.

        Returns:
            Actions int64, a scalar array or ``[N]``, and ``state``.

        Raises:
            ValueError: observations of another shape.
        """
        parts = {key: np.asarray(value) for key, value in split(observation).items()}
        single = _is_single(parts, self.observation_space)
        batch = {key: part[None] if single else part for key, part in parts.items()}
        epsilon = 0.0 if deterministic or self.noisy else self.exploration_final_eps
        actions = self._act(batch, epsilon, noisy=not deterministic)
        return (actions[0] if single else actions), state

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: Callback | Sequence[Callback] = (),
        progress_bar: bool = False,
    ) -> DQN:
        """Interact and learn for ``total_timesteps`` more steps.

        Args:
            total_timesteps: steps, counted over all environments; ``None`` finishes a run that was
                interrupted.
            callback: one or several functions called with the agent after each round of steps; see
                `agents.callbacks`.
            progress_bar: show one, with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, an environment that returns a reward that is not finite, or
                no interrupted run to finish.
        """
        if self.env is None:
            raise ValueError("the agent has no environment; pass env to load(), or call set_env()")
        if total_timesteps is not None:
            self._span = self.num_timesteps, self.num_timesteps + total_timesteps
        elif self.num_timesteps >= self._span[1]:
            raise ValueError("there is no interrupted run to finish; pass total_timesteps")
        self._set_callbacks([callback] if callable(callback) else list(callback))
        if self._observations is None:
            self._begin()
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
        return self

    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on; with another number of environments, replay begins anew.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        env = as_vector_env(env)
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"action space is {actions}; DQN needs Discrete")
        boxes(observations)
        if self.buffer_size < env.num_envs:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; it must be at least the number of "
                f"environments, {env.num_envs}"
            )
        if not hasattr(self, "q_network"):
            self._build(observations, actions, self._env_seed)
        mine = shapes(self.observation_space), self.action_space
        if (shapes(observations), actions.n, actions.start) != (mine[0], mine[1].n, mine[1].start):
            raise ValueError(
                f"the environment has observations {shapes(observations)} and actions {actions}; "
                f"the agent was made for {mine[0]} and {mine[1]}"
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
        self.env = env
        self._mode = autoreset_mode(env)
        self._observations: dict[str, Any] | None = None  # as the environment gave them
        self._tensor_device: torch.device | None = None  # of an environment that speaks tensors
        self._rows = np.arange(env.num_envs)
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        self._returns = np.zeros(env.num_envs)

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """The parameters of both networks: not copies."""
        return {name: getattr(self, name).state_dict() for name in _NETWORKS}

    def set_parameters(self, parameters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over what :meth:`get_parameters` gave."""
        for name in _NETWORKS:
            getattr(self, name).load_state_dict(parameters[name])

    # Files --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write network and hyper-parameters to one safetensors file, atomically."""
        metadata = {**self._description(FORMAT), "num_timesteps": str(self.num_timesteps)}
        tensors = {k: v.cpu().clone() for k, v in self.q_network.state_dict().items()}
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
        agent = cls._described(path, metadata, device)
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

        Networks, optimiser, replay, schedules, random states, the environment's state if it has
        ``get_state``, and that of the callbacks that have it.

        Raises:
            ValueError: the agent has not begun to learn.
        """
        if self.env is None or self._observations is None:
            raise ValueError("the agent has not begun to learn; there is nothing to resume")
        env_state = get_env_state(self.env)
        if env_state is None:
            logger.warning("the environment cannot tell its state; resuming begins new episodes")
        state = {
            **{name: getattr(self, name) for name in _SAVED},
            "parameters": self._parameters,
            "target_parameters": self._target_parameters,
            "optimiser": self.optimiser.get_state(),
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
        tensors: dict[str, torch.Tensor] = {}
        metadata = self._description(CHECKPOINT_FORMAT)
        metadata["state"] = json.dumps(pack(state, tensors))
        write_safetensors(path, tensors, metadata)

    @classmethod
    def resume(cls, path: str | Path, env: gym.Env | VectorEnv, device: str = "cpu") -> DQN:
        """An agent that goes on as if it had not been interrupted: call `learn` without a number.

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
        agent = cls._described(path, metadata, device)
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
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"{path}: its state is damaged ({error!r})") from None
        return agent

    def _set_state(self, state: Mapping[str, Any]) -> None:
        for name in _SAVED:
            setattr(self, name, state[name])
        with torch.no_grad():
            self._parameters.copy_(state["parameters"])
            self._target_parameters.copy_(state["target_parameters"])
        self.optimiser.set_state(state["optimiser"])
        self.buffer.set_state(state["buffer"])
        self._rng.bit_generator.state = state["rng"]
        self._sampling_rng.set_state(state["sampling_rng"])
        self.episode_returns.extend(state["episode_returns"])
        if state["losses"] is not None:
            self.losses.extend(state["losses"].to(self.device))
        self._callback_states = [tuple(saved) for saved in state["callbacks"]]
        if state["env"] is not None:
            set_env_state(self.env, state["env"])
        else:
            logger.warning("the environment's state was not saved: new episodes begin")
            self._env_seed = int(self._rng.integers(2**31))
            self._ended[:], self._returns[:] = False, 0.0
            self._observations = None

    def _description(self, file_format: str) -> dict[str, str]:
        spaces_of = self.observation_space, self.action_space
        return describe(file_format, self.hyperparameters, *spaces_of)

    @classmethod
    def _described(cls, path: str | Path, metadata: Mapping[str, str], device: str) -> DQN:
        """A fresh agent as a file describes it."""
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
        self._dtypes = {
            key: torch.from_numpy(np.empty(0, box.dtype)).dtype
            for key, box in boxes(observations).items()
        }
        arguments = observations, int(actions.n), self.net_arch, self.dueling, self.noisy
        with torch.random.fork_rng(devices=[]):  # leave the global random state untouched
            torch.manual_seed(seed)
            self.q_network = QNetwork(*arguments).to(self.device)
            self.target_network = QNetwork(*arguments).to(self.device).requires_grad_(False)
        # As one vector each, so that one operation steps, clips or averages all of a network.
        self._parameters = as_one_vector(self.q_network)
        self._target_parameters = as_one_vector(self.target_network).copy_(self._parameters)
        self.optimiser = Adam(self._parameters, self.learning_rate)
        if self.compile:
            self._backpropagate = torch.compile(self._backpropagate, fullgraph=True, dynamic=False)

    def _set_callbacks(self, callbacks: list[Callback]) -> None:
        """Checkpoints come last; those resumed get the state they had."""
        self._callbacks = sorted(callbacks, key=lambda c: isinstance(c, Checkpoint))
        for callback in self._callbacks:
            names = [name for name, _ in self._callback_states]
            if hasattr(callback, "set_state") and type(callback).__name__ in names:
                _, state = self._callback_states.pop(names.index(type(callback).__name__))
                callback.set_state(state)
        for name, _ in self._callback_states:
            logger.warning("the checkpoint has the state of a %s, which was not given", name)
        self._callback_states = []

    def _begin(self) -> None:
        """Begin episodes in all environments."""
        observations, _ = self.env.reset(seed=self._env_seed)
        self._env_seed = None
        self._observations = self._noticed(observations)
        self.buffer.begin(np.arange(self.env.num_envs), self._observations)

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
        """One step of every environment, stored unless it was a mere reset."""
        self.exploration_rate = self._epsilon(progress)
        actions = self._act(self._observations, self.exploration_rate, noisy=True)
        given = actions
        if self._tensor_device is not None:
            given = torch.from_numpy(actions).to(self._tensor_device)
        following, rewards, terminated, truncated, infos = self.env.step(given)
        rewards, terminated, truncated = map(_array, (rewards, terminated, truncated))
        check_rewards(rewards)
        following = self._noticed(following)
        ended = terminated | truncated
        some_ended = np.count_nonzero(ended)
        rows, reached, began = self._rows, following, ended
        if self._mode == AutoresetMode.NEXT_STEP:
            began = self._ended
            if np.count_nonzero(began):  # a step after an end is a reset: its action was ignored
                rows = np.flatnonzero(~began)
        elif self._mode == AutoresetMode.SAME_STEP and some_ended:
            reached = self._with_final(following, infos["final_obs"], ended)
        columns = [actions - self._first_action, rewards, terminated, truncated]
        if len(rows) < len(ended):
            columns, reached = [column[rows] for column in columns], _take(reached, rows)
        self.buffer.add(rows, *columns, reached)
        self._returns[rows] += columns[1]
        if some_ended:
            self.episode_returns.extend(self._returns[ended].tolist())
            self._returns[ended] = 0.0
            if self._mode == AutoresetMode.DISABLED:
                following, _ = self.env.reset(options={"reset_mask": ended.copy()})
                following = self._noticed(following)
        if np.count_nonzero(began):
            self.buffer.begin(np.flatnonzero(began), _take(following, np.flatnonzero(began)))
        self._observations = following
        self._ended = ended
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
        """Whether there is enough to replay, which a loaded agent must gather anew."""
        return len(self.buffer) > 0 and self.buffer.added >= self.learning_starts

    def _train(self, progress: float) -> None:
        """``gradient_steps`` updates, none of which moves the target network."""
        if self.final_learning_rate is not None:
            self.optimiser.learning_rate = linear(
                self.learning_rate, self.final_learning_rate, 1.0, progress
            )
        beta = linear(self.prioritized_replay_beta0, 1.0, 1.0, progress)
        # Priorities change with each update, and noise is drawn for each.
        together = 1 if self.prioritized_replay or self.noisy else BATCHES_TOGETHER
        for done in range(0, self.gradient_steps, together):
            count = min(together, self.gradient_steps - done)
            drawn = self.buffer.sample(count * self.batch_size, self._sampling_rng, beta)
            with _traced_gradients() if self.compile else nullcontext():
                for batch in drawn.split(self.batch_size):
                    errors = self._update(batch)
                    if self.prioritized_replay:
                        self.buffer.update_priorities(batch.rows, errors)

    @torch.no_grad()
    def _targets(self, batch: Batch) -> torch.Tensor:
        """What the batch's action values should be, ``[B]``."""
        if self.noisy:
            self.target_network.draw_noise(self._sampling_rng)
        values = self.target_network(batch.next_observations)
        if self.double_q:
            if self.noisy:
                self.q_network.draw_noise(self._sampling_rng)
            best = self.q_network(batch.next_observations).argmax(dim=1, keepdim=True)
            value = values.gather(1, best).squeeze(1)
        else:
            value = values.amax(dim=1)
        return batch.rewards + batch.discounts * value

    def _update(self, batch: Batch) -> torch.Tensor:
        """One step of gradient descent on the Huber loss.

        Returns:
            The temporal-difference errors ``[B]`` before it.
        """
        loss, errors = self._backpropagate(batch)
        norm = torch.linalg.vector_norm(self._parameters.grad)
        self.optimiser.step(divisor=(norm / self.max_grad_norm).clamp_(min=1.0))
        self.losses.append(loss)
        return errors

    def _backpropagate(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill in the parameters' gradients; the loss, and the errors ``[B]``."""
        targets = self._targets(batch)
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng)
        values = self.q_network(batch.observations)
        with torch.no_grad():
            taken = batch.actions[:, None]
            estimates = values.gather(1, taken).squeeze(1)
            errors = targets - estimates
            # The Huber loss's slope is the error, clipped. Autograd would take as long for the loss
            # as for the network.
            slopes = errors.clamp(-1, 1) / -len(errors)
            if batch.weights is None:
                loss = F.smooth_l1_loss(estimates, targets)
            else:
                slopes = batch.weights * slopes
                losses = F.smooth_l1_loss(estimates, targets, reduction="none")
                loss = (batch.weights * losses).mean()
            slopes = torch.zeros_like(values).scatter(1, taken, slopes[:, None])
        for parameter in self.q_network.parameters():
            parameter.grad.zero_()
        values.backward(slopes)
        return loss, errors

    @torch.no_grad()
    def _update_target(self) -> None:
        due = self.num_timesteps // self.target_update_interval
        if due > self._target_updates:
            self._target_updates = due
            self._target_parameters.lerp_(self._parameters, self.tau)

    def _noticed(self, observations: Any) -> dict[str, Any]:
        """Observations of an environment by key, and which kind of arrays it speaks."""
        parts = split(observations)
        first = next(iter(parts.values()))
        if isinstance(first, torch.Tensor):
            self._tensor_device = first.device
        return parts

    def _tensors(self, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Observations by key, in the space's dtypes on the device."""
        return {
            key: torch.as_tensor(observations[key], dtype=dtype, device=self.device)
            for key, dtype in self._dtypes.items()
        }

    def _with_final(
        self, following: dict[str, Any], final: Any, ended: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """``following``, but the last observations of the episodes that ended."""
        if isinstance(final, np.ndarray):  # of objects: one observation for each ended row
            parts = [split(observation) for observation in final[ended]]
            final = {key: np.stack([part[key] for part in parts]) for key in following}
        else:  # a batch of tensors
            final = {key: value[torch.from_numpy(ended)] for key, value in split(final).items()}
        reached = {key: value.clone() for key, value in self._tensors(following).items()}
        for key, value in self._tensors(final).items():
            reached[key][torch.from_numpy(ended)] = value
        return reached


_SAVED = (
    "num_timesteps",
    "exploration_rate",
    "_rounds",
    "_target_updates",
    "_span",
    "_ended",
    "_returns",
    "_observations",
)
"""What a checkpoint holds as it is."""

_NETWORKS = "q_network", "target_network"


def _traced_gradients() -> AbstractContextManager[None]:
    """Inside, `torch.compile` takes the backward pass into its graph."""
    from torch._dynamo import config  # slow to import

    if not hasattr(config, "trace_autograd_ops"):
        raise ValueError(f"compile is True; torch {torch.__version__} cannot compile gradients")
    return config.patch(trace_autograd_ops=True)


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _take(observations: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows of arrays or tensors."""
    return {key: value[rows] for key, value in observations.items()}


def _is_single(parts: Mapping[str, np.ndarray], space: spaces.Space) -> bool:
    """Whether it is one observation of ``space``, not a batch.

    Raises:
        ValueError: neither.
    """
    expected = boxes(space)
    if parts.keys() != expected.keys():
        raise ValueError(f"observation has the keys {list(parts)}; expected {list(expected)}")
    single = all(part.shape == expected[key].shape for key, part in parts.items())
    for key, part in parts.items():
        shape = expected[key].shape
        if not single and part.shape[1:] != shape:
            batch = f"(N, {', '.join(map(str, shape))})"
            name = f"observation[{key!r}]" if key else "observation"
            raise ValueError(f"{name} has shape {part.shape}; expected {shape} or {batch}")
    return single
