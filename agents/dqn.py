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
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from safetensors.torch import save
from torch.nn import functional as F
from tqdm import tqdm

from agents.callbacks import Checkpoint
from agents.checks import check_hyperparameters
from agents.environments import as_vector_env, autoreset_mode, check_rewards
from agents.networks import QNetwork, as_one_vector
from agents.observations import boxes, shapes, split
from agents.replay import Batch, ReplayBuffer
from agents.schedules import linear
from agents.spaces_json import space_from_json, space_to_json
from agents.states import get_env_state, load_weights, pack, set_env_state, unpack
from gan_backbones.files import read_safetensors, write_atomically

FORMAT = "latentgym-dqn-2"
CHECKPOINT_FORMAT = "latentgym-dqn-checkpoint-1"

UPDATES_TOGETHER = 16
"""Updates whose batches are drawn, and valued by the target network, in one go."""

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
        batch = self._tensors({k: v[None] if single else v for k, v in parts.items()})
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
        with tqdm(total=total - first, initial=done, disable=not progress_bar, unit="step") as bar:
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
        self._observations: dict[str, torch.Tensor] | None = None
        self._tensor_device: torch.device | None = None  # of an environment that speaks tensors
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
        write_atomically(path, save(tensors, metadata))

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
            "optimiser": self.optimiser.state_dict()["state"].get(0),
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
        write_atomically(path, save(tensors, metadata))

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
        if state["optimiser"] is not None:
            optimiser = {**self.optimiser.state_dict(), "state": {0: state["optimiser"]}}
            self.optimiser.load_state_dict(optimiser)
        self.buffer.set_state(state["buffer"])
        self._rng.bit_generator.state = state["rng"]
        self._sampling_rng.set_state(state["sampling_rng"])
        self.episode_returns.extend(state["episode_returns"])
        if state["losses"] is not None:
            self.losses.extend(state["losses"].to(self.device))
        self._observations = {k: v.to(self.device) for k, v in self._observations.items()}
        self._callback_states = [tuple(saved) for saved in state["callbacks"]]
        if state["env"] is not None:
            set_env_state(self.env, state["env"])
        else:
            logger.warning("the environment's state was not saved: new episodes begin")
            self._env_seed = int(self._rng.integers(2**31))
            self._ended[:], self._returns[:] = False, 0.0
            self._observations = None

    def _description(self, file_format: str) -> dict[str, str]:
        return {
            "format": file_format,
            # NumPy's numbers are not JSON.
            "hyperparameters": json.dumps(self.hyperparameters, default=lambda n: n.item()),
            "observation_space": space_to_json(self.observation_space),
            "action_space": space_to_json(self.action_space),
        }

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
        self._parameters.grad = torch.zeros_like(self._parameters)
        self.optimiser = torch.optim.Adam([self._parameters], self.learning_rate, fused=True)

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
        self._observations = self._tensors(split(observations))
        self.buffer.begin(np.arange(self.env.num_envs), self._observations)

    @torch.no_grad()
    def _act(
        self, observations: dict[str, torch.Tensor], epsilon: float, noisy: bool
    ) -> np.ndarray:
        """Epsilon-greedy actions int64 ``[N]``."""
        count = len(next(iter(observations.values())))
        start = int(self.action_space.start)
        explore = self._rng.random(count) < epsilon if epsilon else np.zeros(count, dtype=np.bool_)
        if explore.all() and epsilon:
            return start + self._rng.integers(self.action_space.n, size=count)
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng if noisy else None)
        actions = self.q_network(observations).argmax(dim=1).cpu().numpy()
        if explore.any():
            actions[explore] = self._rng.integers(self.action_space.n, size=int(explore.sum()))
        return start + actions

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
        following = self._tensors(split(following))
        ended = terminated | truncated
        rows, began = np.arange(len(ended)), ended
        if self._mode == AutoresetMode.NEXT_STEP:
            # A step after an end is a reset: its action was ignored.
            rows, began = np.flatnonzero(~self._ended), self._ended
        reached = following  # what the actions led to, before any reset
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            reached = self._with_final(following, infos["final_obs"], ended)
        self.buffer.add(
            rows,
            actions[rows] - int(self.action_space.start),
            rewards[rows],
            terminated[rows],
            truncated[rows],
            _take(reached, rows),
        )
        self._returns[rows] += rewards[rows]
        self.episode_returns.extend(self._returns[ended].tolist())
        self._returns[ended] = 0.0
        if self._mode == AutoresetMode.DISABLED and ended.any():
            following, _ = self.env.reset(options={"reset_mask": ended.copy()})
            following = self._tensors(split(following))
        if began.any():
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
            rate = linear(self.learning_rate, self.final_learning_rate, 1.0, progress)
            self.optimiser.param_groups[0]["lr"] = rate
        beta = linear(self.prioritized_replay_beta0, 1.0, 1.0, progress)
        # Priorities change with each update, and noise is drawn for each.
        together = 1 if self.prioritized_replay or self.noisy else UPDATES_TOGETHER
        for done in range(0, self.gradient_steps, together):
            count = min(together, self.gradient_steps - done)
            batch = self.buffer.sample(count * self.batch_size, self._sampling_rng, beta)
            values = self._next_values(batch)
            parts = batch.split(self.batch_size), values.split(self.batch_size)
            for part, part_values in zip(*parts, strict=True):
                errors = self._update(part, part_values)
                if self.prioritized_replay:
                    self.buffer.update_priorities(part.rows, errors)

    @torch.no_grad()
    def _next_values(self, batch: Batch) -> torch.Tensor:
        """Action values of the next observations by the target network, ``[B, actions]``."""
        if self.noisy:
            self.target_network.draw_noise(self._sampling_rng)
        return self.target_network(batch.next_observations)

    @torch.no_grad()
    def _targets(self, batch: Batch, values: torch.Tensor) -> torch.Tensor:
        """What the batch's action values should be, ``[B]``."""
        if self.double_q:
            if self.noisy:
                self.q_network.draw_noise(self._sampling_rng)
            best = self.q_network(batch.next_observations).argmax(dim=1, keepdim=True)
            value = values.gather(1, best).squeeze(1)
        else:
            value = values.amax(dim=1)
        return batch.rewards + batch.discounts * value

    def _update(self, batch: Batch, values: torch.Tensor) -> torch.Tensor:
        """One step of gradient descent.

        Args:
            batch: transitions.
            values: of their next observations, by the target network.

        Returns:
            The temporal-difference errors ``[B]`` before it.
        """
        targets = self._targets(batch, values)
        loss, errors = self._backpropagate(batch, targets)
        gradient = self._parameters.grad
        norm = torch.linalg.vector_norm(gradient)
        gradient *= (self.max_grad_norm / norm).clamp_(max=1.0)
        self.optimiser.step()
        self.losses.append(loss)
        return errors

    def _backpropagate(
        self, batch: Batch, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill in the gradient of the Huber loss; the loss and the errors."""
        if self.noisy:
            self.q_network.draw_noise(self._sampling_rng)
        estimates = self.q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
        losses = F.smooth_l1_loss(estimates, targets, reduction="none")
        loss = (losses if batch.weights is None else batch.weights * losses).mean()
        gradients = torch.autograd.grad(loss, list(self.q_network.parameters()))
        torch.cat([part.flatten() for part in gradients], out=self._parameters.grad)
        return loss.detach(), targets - estimates.detach()

    @torch.no_grad()
    def _update_target(self) -> None:
        due = self.num_timesteps // self.target_update_interval
        if due > self._target_updates:
            self._target_updates = due
            self._target_parameters.lerp_(self._parameters, self.tau)

    def _tensors(self, observations: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Observations of an environment, by key, in the space's dtypes on the device."""
        first = next(iter(observations.values()))
        if isinstance(first, torch.Tensor):
            self._tensor_device = first.device
        return {
            key: torch.as_tensor(observations[key], dtype=dtype, device=self.device)
            for key, dtype in self._dtypes.items()
        }

    def _with_final(
        self, following: dict[str, torch.Tensor], final: Any, ended: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """``following``, but the last observations of the episodes that ended."""
        if isinstance(final, np.ndarray):  # of objects: one observation for each ended row
            parts = [split(observation) for observation in final[ended]]
            final = {key: np.stack([part[key] for part in parts]) for key in following}
        else:  # a batch of tensors
            final = {key: value[torch.from_numpy(ended)] for key, value in split(final).items()}
        reached = {key: value.clone() for key, value in following.items()}
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


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _take(observations: dict[str, torch.Tensor], rows: np.ndarray) -> dict[str, torch.Tensor]:
    if len(rows) == len(next(iter(observations.values()))):
        return observations
    return {key: value[torch.from_numpy(rows)] for key, value in observations.items()}


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
