"""Deep Q-learning from scratch: replay, target network, Double DQN.

Mnih et al. 2015, "Human-level control through deep reinforcement learning"; van Hasselt et al.
2016, "Deep reinforcement learning with double Q-learning".
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from safetensors.torch import save
from torch.nn import functional as F
from tqdm import tqdm

from agents.networks import QNetwork
from agents.replay import Batch, ReplayBuffer
from agents.schedules import linear
from gan_backbones.files import read_safetensors, write_atomically

FORMAT = "latentgym-dqn-1"

Callback = Callable[["DQN"], object]


class DQN:
    """A deep Q-network agent for `Discrete` actions and flat `Box` observations.

    Hyper-parameters bear Stable-Baselines3's names. Steps are counted over all environments.

    Args:
        env: a Gymnasium environment or vector environment, in any autoreset mode.
        learning_rate: of Adam; falls linearly to ``final_learning_rate``.
        final_learning_rate: by default the same: constant.
        buffer_size: transitions kept for replay.
        learning_starts: transitions stored before the first update; actions are random until then.
        batch_size: transitions per update.
        gamma: discount.
        train_freq: environment steps (of all environments together as one) between updates.
        gradient_steps: updates each time.
        target_update_interval: steps between updates of the target network.
        tau: how far each moves it: 1 copies the network, less averages (Polyak).
        double_q: choose the next action by the network, value it by the target network.
        dueling: separate state value and advantages.
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
        episode_returns: returns of the last 100 training episodes.
        losses: the last 100 updates' losses.

    Raises:
        ValueError: spaces it cannot handle, or a hyper-parameter out of range.

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
        train_freq: int = 1,
        gradient_steps: int = 1,
        target_update_interval: int = 500,
        tau: float = 1.0,
        double_q: bool = True,
        dueling: bool = False,
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
        _check(self.hyperparameters)
        vars(self).update(self.hyperparameters)
        self.device = torch.device(device)
        seed = int(np.random.SeedSequence().generate_state(1)[0] if seed is None else seed)
        self._env_seed: int | None = seed  # used for the first reset, then None
        self._rng = np.random.default_rng(seed)
        self._sampling_rng = torch.Generator().manual_seed(seed)
        self.num_timesteps = 0
        self.episode_returns: deque[float] = deque(maxlen=100)
        self.losses: deque[float] = deque(maxlen=100)
        self.env: VectorEnv | None = None
        if env is not None:
            self.set_env(env)

    # Using --------------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """The best action for one observation or a batch of them.

        Args:
            observation: ``[*shape]`` or ``[N, *shape]``.
            state: passed through; the agent has no memory.
            episode_start: ignored; here for Stable-Baselines3's `evaluate_policy`.
            deterministic: if false, explore with ``exploration_final_eps``.

        Returns:
            Actions int64, a scalar array or ``[N]``, and ``state``.

        Raises:
            ValueError: observations of another shape.
        """
        observation = np.asarray(observation)
        shape = self.observation_space.shape
        single = observation.shape == shape
        if not single and observation.shape[1:] != shape:
            raise ValueError(
                f"observation has shape {observation.shape}; expected {shape} or (N, {shape[0]})"
            )
        batch = observation[None] if single else observation
        epsilon = 0.0 if deterministic else self.exploration_final_eps
        actions = self._act(batch, epsilon)
        return (actions[0] if single else actions), state

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] = (),
        progress_bar: bool = False,
    ) -> DQN:
        """Interact and learn for ``total_timesteps`` more steps.

        Args:
            total_timesteps: steps, counted over all environments.
            callback: one or several functions called with the agent after each round of steps.
            progress_bar: show one, with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, or an environment that returns a reward that is not finite.
        """
        if self.env is None:
            raise ValueError("the agent has no environment; pass env to load(), or call set_env()")
        callbacks = [callback] if callable(callback) else list(callback)
        first, total = self.num_timesteps, self.num_timesteps + total_timesteps
        shown = time.monotonic()
        if self._observations is None:
            self._observations, _ = self.env.reset(seed=self._env_seed)
            self._env_seed = None
        with tqdm(total=total_timesteps, disable=not progress_bar, unit="step") as bar:
            while self.num_timesteps < total:
                progress = (self.num_timesteps - first) / total_timesteps
                self._collect(progress)
                self._rounds += 1
                if self._has_enough and self._rounds % self.train_freq == 0:
                    self._set_learning_rate(progress)
                    for _ in range(self.gradient_steps):
                        self._update(self.buffer.sample(self.batch_size, self._sampling_rng))
                self._update_target()
                for function in callbacks:
                    function(self)
                bar.update(min(self.num_timesteps - first, total_timesteps) - bar.n)
                if self.episode_returns and time.monotonic() - shown > 0.5:
                    shown = time.monotonic()
                    bar.set_postfix(mean_return=f"{np.mean(self.episode_returns):.2f}")
        return self

    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        if not isinstance(env, VectorEnv):
            env = SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.SAME_STEP)
        observations, actions = env.single_observation_space, env.single_action_space
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(f"action space is {actions}; DQN needs Discrete")
        if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
            raise ValueError(f"observation space is {observations}; DQN needs a flat Box")
        if self.buffer_size < env.num_envs:
            raise ValueError(
                f"buffer_size is {self.buffer_size}; it must be at least the number of "
                f"environments, {env.num_envs}"
            )
        if not hasattr(self, "q_network"):
            self._build(observations, actions, self._env_seed)
        mine = self.observation_space.shape, self.action_space
        if (observations.shape, actions.n, actions.start) != (mine[0], mine[1].n, mine[1].start):
            raise ValueError(
                f"the environment has observations {observations.shape} and actions {actions}; "
                f"the agent was made for {mine[0]} and {mine[1]}"
            )
        self.env = env
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._observations: np.ndarray | None = None
        self._ended = np.zeros(env.num_envs, dtype=np.bool_)
        self._returns = np.zeros(env.num_envs)

    def save(self, path: str | Path) -> None:
        """Write networks and hyper-parameters to one safetensors file, atomically."""
        metadata = {
            "format": FORMAT,
            # NumPy's numbers are not JSON.
            "hyperparameters": json.dumps(self.hyperparameters, default=lambda n: n.item()),
            "observation_space": json.dumps(
                {
                    "low": self.observation_space.low.tolist(),
                    "high": self.observation_space.high.tolist(),
                    "dtype": str(self.observation_space.dtype),
                }
            ),
            "action_space": json.dumps(
                {"n": int(self.action_space.n), "start": int(self.action_space.start)}
            ),
            "num_timesteps": str(self.num_timesteps),
        }
        tensors = {k: v.cpu().contiguous() for k, v in self.q_network.state_dict().items()}
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
        try:
            agent = cls(None, device=device, **json.loads(metadata["hyperparameters"]))
            box, discrete = (
                json.loads(metadata[f"{kind}_space"]) for kind in ("observation", "action")
            )
            dtype = np.dtype(box["dtype"])
            agent._build(
                spaces.Box(np.array(box["low"], dtype), np.array(box["high"], dtype), dtype=dtype),
                spaces.Discrete(discrete["n"], start=discrete["start"]),
                0,
            )
            agent.num_timesteps = int(metadata["num_timesteps"])
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        try:
            agent.q_network.load_state_dict(tensors)
        except RuntimeError as error:
            message = " ".join(str(error).split())  # it has several lines
            raise ValueError(f"{path}: the weights do not fit the agent: {message}") from None
        agent.target_network.load_state_dict(tensors)
        if env is not None:
            agent.set_env(env)
        return agent

    # Learning -----------------------------------------------------------------------------------

    def _build(self, observations: spaces.Box, actions: spaces.Discrete, seed: int) -> None:
        self.observation_space, self.action_space = observations, actions
        size = int(np.prod(observations.shape))
        with torch.random.fork_rng(devices=[]):  # leave the global random state untouched
            torch.manual_seed(seed)
            self.q_network = QNetwork(size, int(actions.n), self.net_arch, self.dueling)
        self.q_network.to(self.device)
        with torch.random.fork_rng(devices=[]):
            self.target_network = QNetwork(size, int(actions.n), self.net_arch, self.dueling)
        self.target_network.to(self.device).requires_grad_(False)
        self.target_network.load_state_dict(self.q_network.state_dict())
        self.optimiser = torch.optim.Adam(
            self.q_network.parameters(), self.learning_rate, fused=True
        )
        self.buffer = ReplayBuffer(self.buffer_size, size, self.device)
        self._rounds = 0
        self._target_updates = 0

    @torch.no_grad()
    def _act(self, observations: np.ndarray, epsilon: float) -> np.ndarray:
        """Epsilon-greedy actions int64 ``[N]``."""
        count, start = len(observations), int(self.action_space.start)
        explore = self._rng.random(count) < epsilon if epsilon else np.zeros(count, dtype=np.bool_)
        if explore.all() and epsilon:
            return start + self._rng.integers(self.action_space.n, size=count)
        values = self.q_network(self._tensor(observations))
        actions = values.argmax(dim=1).cpu().numpy()
        if explore.any():
            actions[explore] = self._rng.integers(self.action_space.n, size=int(explore.sum()))
        return start + actions

    def _collect(self, progress: float) -> None:
        """One step of every environment, stored unless it was a mere reset."""
        if not self._has_enough:
            epsilon = 1.0
        else:
            epsilon = linear(
                self.exploration_initial_eps,
                self.exploration_final_eps,
                self.exploration_fraction,
                progress,
            )
        observations = self._observations
        actions = self._act(observations, epsilon)
        following, rewards, terminated, truncated, infos = self.env.step(actions)
        if not np.isfinite(rewards).all():
            bad = rewards[~np.isfinite(rewards)][0]
            raise ValueError(f"the environment returned the reward {bad}; it must be finite")
        ended = terminated | truncated
        reached = following  # what the actions led to, before any reset
        if self._mode == AutoresetMode.SAME_STEP and ended.any():
            reached = following.copy()
            reached[ended] = np.stack(list(infos["final_obs"][ended]))
        # In NEXT_STEP mode a step after an end is a reset: its action was ignored.
        real = ~self._ended if self._mode == AutoresetMode.NEXT_STEP else np.ones_like(ended)
        self.buffer.add(
            observations[real],
            reached[real],
            actions[real] - int(self.action_space.start),
            np.asarray(rewards)[real],
            # Termination ends all value; truncation does not: the value goes on beyond it.
            self.gamma * ~terminated[real],
        )
        self._returns[real] += rewards[real]
        self.episode_returns.extend(self._returns[ended & real].tolist())
        self._returns[ended] = 0.0
        if self._mode == AutoresetMode.DISABLED and ended.any():
            following, _ = self.env.reset(options={"reset_mask": ended.copy()})
        self._observations = following
        self._ended = ended
        self.num_timesteps += int(real.sum())

    @property
    def _has_enough(self) -> bool:
        """Whether there is enough to replay, which a loaded agent must gather anew."""
        return len(self.buffer) >= min(self.learning_starts, self.buffer_size)

    def _update(self, batch: Batch) -> None:
        with torch.no_grad():
            values = self.target_network(batch.next_observations)
            if self.double_q:
                best = self.q_network(batch.next_observations).argmax(dim=1, keepdim=True)
                value = values.gather(1, best).squeeze(1)
            else:
                value = values.max(dim=1).values
            targets = batch.rewards + batch.discounts * value
        estimates = self.q_network(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
        loss = F.smooth_l1_loss(estimates, targets)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.q_network.parameters(), self.max_grad_norm)
        self.optimiser.step()
        self.losses.append(loss.detach())

    @torch.no_grad()
    def _update_target(self) -> None:
        due = self.num_timesteps // self.target_update_interval
        if due > self._target_updates:
            self._target_updates = due
            pairs = zip(self.target_network.parameters(), self.q_network.parameters(), strict=True)
            for target, source in pairs:
                target.lerp_(source, self.tau)

    def _set_learning_rate(self, progress: float) -> None:
        if self.final_learning_rate is not None:
            rate = linear(self.learning_rate, self.final_learning_rate, 1.0, progress)
            self.optimiser.param_groups[0]["lr"] = rate

    def _tensor(self, observations: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(observations, dtype=torch.float32, device=self.device)


def _check(hyperparameters: dict[str, Any]) -> None:
    """Raise a ValueError that names the first hyper-parameter out of range."""
    at_least = {
        0: ("learning_starts", "final_learning_rate", "seed"),
        1: ["buffer_size", "batch_size", "train_freq", "gradient_steps", "target_update_interval"],
    }
    for least, names in at_least.items():
        for name in names:
            value = hyperparameters[name]
            if value is not None and not value >= least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
    for name in (
        "gamma",
        "tau",
        "exploration_fraction",
        "exploration_initial_eps",
        "exploration_final_eps",
    ):
        if not 0 <= hyperparameters[name] <= 1:
            raise ValueError(f"{name} is {hyperparameters[name]}; it must be from 0 to 1")
    for name in ("learning_rate", "max_grad_norm"):
        if not hyperparameters[name] > 0:
            raise ValueError(f"{name} is {hyperparameters[name]}; it must be above 0")
    if not all(width >= 1 for width in hyperparameters["net_arch"]):
        raise ValueError(
            f"net_arch is {hyperparameters['net_arch']}; each width must be at least 1"
        )
