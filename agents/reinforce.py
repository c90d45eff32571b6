"""REINFORCE from scratch: the policy gradient by whole episodes.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; Sutton and Barto 2018, "Reinforcement learning", sections 13.3 and 13.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn import functional as F

from agents.base import BaseAgent, LearningBar
from agents.callbacks import as_callbacks
from agents.collector import Step
from agents.environments import interruptible
from agents.networks import building, multilayer_perceptron
from agents.observations import encode, encoded_size, is_image, subspaces
from gan_backbones.utils.validation import boolean, integer, number

Callback = Callable[["Reinforce"], object]


class Reinforce(BaseAgent):
    """A policy-gradient agent for `Discrete` or `Box` actions.

    Observations are `Box`, `Discrete`, `MultiBinary`, `MultiDiscrete`, or a `Dict` or `Tuple` of
    these, but no images. Boxes are flattened, and choices are one-hot encoded.

    Each update plays whole episodes by the current policy and takes one step along

        mean over steps of  (G_t - b(s_t)) * grad log pi(a_t | s_t)

    where the return G_t is the sum of the rewards from that step on, and the baseline b(s_t) is its
    expected value. Each environment plays a fixed share of the episodes, since to take those
    that are done first would favour short ones. It goes on, unused, until the others have played
    theirs; those steps are counted in `num_timesteps` none the less.

    An episode that is truncated was not over: with a baseline (and ``reward_to_go``) its return
    goes on with the baseline's value of the last observation, otherwise it is cut there.

    `Box` actions are drawn from a Gaussian whose mean is a network's output and whose standard
    deviation is learned, the same everywhere; -1 and 1 are the box's bounds, and what lies beyond
    is clipped. Without finite bounds they are the environment's units.

    Hyper-parameters are named as in Stable-Baselines3 where it has them; a value of another type is
    converted if nothing is lost. Steps are counted over all environments.

    Copies and unpickled agents learn on by themselves; see `agents.base.BaseAgent`.

    Args:
        env: a Gymnasium environment or vector environment, in any autoreset mode, whose episodes
            end.
        learning_rate: step size of the policy's Adam; falls linearly to ``final_learning_rate``.
        final_learning_rate: step size at the end of learning; constant by default.
        gamma: discount factor.
        n_episodes: number of episodes for each update.
        reward_to_go: if false, each step is credited with the whole episode's return: the same
            gradient on average, with a higher variance.
        discount_states: weight step t of an episode with ``gamma ** t``, as the gradient of the
            discounted return has it (Sutton and Barto); mostly left out, since late steps then
            hardly count. The whole episode's return needs no such weight.
        baseline: learn a state value and subtract it from the return.
        baseline_learning_rate: step size of the state value's Adam.
        baseline_steps: gradient steps on each batch of episodes to fit the state value.
        normalize_advantage: subtract the batch's mean and divide by its standard deviation.
        ent_coef: weight of an entropy bonus.
        max_grad_norm: each network's gradient is scaled down to this norm.
        net_arch: widths of the hidden layers of policy and state value.
        seed: random seed of weights, actions and the environment; ``None`` draws one.
        device: device of the networks.

    Attributes:
        policy: maps observations to the distribution of actions.
        baseline_network: maps observations to values; ``None`` without a baseline.
        optimizer: `torch.optim.Adam` of `policy`.
        baseline_optimizer: optimizer of `baseline_network`; ``None`` without a baseline.
        num_timesteps: number of steps so far.
        episode_returns: returns of the last 100 training episodes.

    Raises:
        ValueError: spaces it cannot handle, a hyper-parameter of the wrong type or out of range, or
            a device that torch cannot use.

    Example:
        >>> agent = Reinforce(gym.make("CartPole-v1"), seed=0)
        >>> agent = agent.learn(500)
        >>> action, _ = agent.predict(np.zeros(4, np.float32))
    """

    baseline_network: nn.Module | None = None
    baseline_optimizer: torch.optim.Optimizer | None = None
    name = "REINFORCE"
    file_format = "latentgym-reinforce-2"

    def __init__(
        self,
        env: gym.Env | VectorEnv | None,
        learning_rate: float = 3e-3,
        final_learning_rate: float | None = None,
        gamma: float = 0.99,
        n_episodes: int = 16,
        reward_to_go: bool = True,
        discount_states: bool = False,
        baseline: bool = True,
        baseline_learning_rate: float = 1e-2,
        baseline_steps: int = 10,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        max_grad_norm: float = 0.5,
        net_arch: Sequence[int] = (64, 64),
        seed: int | None = None,
        device: str = "cpu",
    ):
        super().__init__(
            learning_rate, final_learning_rate, gamma, max_grad_norm, net_arch, seed, device
        )
        self.n_episodes = integer("n_episodes", n_episodes, 1)
        self.reward_to_go = boolean("reward_to_go", reward_to_go)
        self.discount_states = boolean("discount_states", discount_states)
        self.baseline = boolean("baseline", baseline)
        self.baseline_learning_rate = number(
            "baseline_learning_rate", baseline_learning_rate, above=0
        )
        self.baseline_steps = integer("baseline_steps", baseline_steps, 1)
        self.normalize_advantage = boolean("normalize_advantage", normalize_advantage)
        self.ent_coef = number("ent_coef", ent_coef, least=0)
        self._rng = torch.Generator("cpu").manual_seed(self._seed)
        if env is not None:
            self.set_env(env)

    # Learning -----------------------------------------------------------------------------------

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = (),
        progress_bar: bool = False,
    ) -> Reinforce:
        """Play and learn for ``total_timesteps`` more steps, and until the last episodes are over.

        Each update plays new episodes. So the environment may be used in between, and after an
        interrupt you can simply call `learn` again.

        Args:
            total_timesteps: number of steps over all environments; 0 does nothing.
            callback: one or several functions called with the agent after each update.
            progress_bar: show a progress bar with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, an argument of the wrong type or out of range, an
                environment that returns rewards or observations that are not finite, or networks
                that cannot learn (frozen, or moved to another dtype).
            FloatingPointError: the networks diverged; they stay as they were before the update
                whose gradient was not finite.
        """
        env = self._check_can_learn()
        total_timesteps = integer("total_timesteps", total_timesteps, 0)
        callbacks = as_callbacks(callback)
        first, last = self.num_timesteps, self.num_timesteps + total_timesteps
        bar = LearningBar(self, total_timesteps, first, progress_bar)
        with bar, interruptible(env):
            while self.num_timesteps < last:
                self._schedule_learning_rate((self.num_timesteps - first) / total_timesteps)
                self._update(self._play())
                for function in callbacks:
                    function(self)
                bar.update()
        return self

    def _play(self) -> Episodes:
        """Play ``n_episodes`` episodes by the current policy."""
        collector, num_envs = self._collector, self._collector.env.num_envs
        remaining = (self.n_episodes + np.arange(num_envs)) // num_envs  # episodes of each row
        steps = []
        collector.reset(seed=self._env_seed)
        self._env_seed = None
        while remaining.any():
            observations = self._encode(self._by_key(collector.obs))
            actions = self._act(observations)
            step = collector.step(self._for_env(actions))
            mask = step.mask & (remaining > 0)
            bootstrap_values = self._bootstrap_values(step, mask)
            timesteps = np.maximum(collector.lengths - 1, 0)
            rewards = step.rewards.astype(np.float32)
            steps.append(
                (observations, actions, rewards, step.dones, bootstrap_values, timesteps, mask)
            )
            self.num_timesteps += int(step.mask.sum())
            self.episode_returns.extend(collector.returns[step.dones & mask].tolist())
            remaining -= step.dones & mask
        columns = (
            torch.stack([torch.as_tensor(x, device=self.device) for x in column])
            for column in zip(*steps, strict=True)
        )
        return Episodes(*columns)

    @torch.no_grad()
    def _bootstrap_values(self, step: Step, mask: np.ndarray) -> torch.Tensor:
        """Return the values of the last observations of truncated episodes, else 0; ``[N]``."""
        values = torch.zeros(len(mask), device=self.device, dtype=torch.float32)
        truncated = step.truncated & ~step.terminated & mask
        if truncated.any() and self.baseline and self.reward_to_go:
            rows = self._encode(self._last_observations(step, truncated))
            values[torch.from_numpy(truncated)] = self._values(rows)
        return values

    def _update(self, episodes: Episodes) -> None:
        """Take one step along the policy gradient, then fit the baseline."""
        observations = episodes.observations[episodes.mask]
        returns = self._returns(episodes)[episodes.mask]
        loss = self._policy_loss(episodes, returns)
        self._gradient_step(self.policy, self.optimizer, loss)
        # Only now: a baseline that has seen these returns would bias the gradient.
        if self.baseline_network is not None and self.baseline_optimizer is not None:
            for _ in range(self.baseline_steps):
                loss = F.mse_loss(self._values(observations), returns)
                self._gradient_step(self.baseline_network, self.baseline_optimizer, loss)

    def _policy_loss(self, episodes: Episodes, returns: torch.Tensor) -> torch.Tensor:
        """Return the loss whose gradient is minus the policy gradient, a mean over steps."""
        mask, advantages = episodes.mask, returns
        observations = episodes.observations[mask]
        if self.baseline:
            with torch.no_grad():
                advantages = advantages - self._values(observations)
        if self.normalize_advantage:
            deviation = advantages.std(correction=0)
            advantages = (advantages - advantages.mean()) / (deviation + 1e-8)
        if self.discount_states and self.reward_to_go:
            advantages = advantages * self.gamma ** episodes.timesteps[mask].float()
        distribution = self.policy(observations)
        log_probs = distribution.log_prob(episodes.actions[mask])
        return -(log_probs * advantages).mean() - self.ent_coef * distribution.entropy().mean()

    def _returns(self, episodes: Episodes) -> torch.Tensor:
        """Return the return that each step is credited with, float32 ``[T, N]``."""
        to_go = rewards_to_go(
            episodes.rewards, episodes.dones, episodes.bootstrap_values, self.gamma
        )
        return to_go if self.reward_to_go else whole_returns(to_go, episodes.timesteps)

    def _values(self, observations: torch.Tensor) -> torch.Tensor:
        assert self.baseline_network is not None
        return self.baseline_network(observations).squeeze(1)

    # Acting -------------------------------------------------------------------------------------

    def _greedy_or_random(self, observations: dict[str, Any], deterministic: bool) -> np.ndarray:
        return self._for_env(self._act(self._encode(observations), deterministic))

    @torch.no_grad()
    def _act(self, observations: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """Return the policy's actions on the CPU: int64 ``[N]`` from 0, or float32 ``[N, A]``."""
        distribution = self.policy(observations)
        if deterministic:
            return distribution.mode.cpu()
        # torch.distributions would draw from the global random state.
        if isinstance(distribution, Categorical):
            return torch.multinomial(distribution.probs.cpu(), 1, generator=self._rng).squeeze(1)
        mean, deviation = distribution.mean.cpu(), distribution.stddev.cpu()
        noise = torch.randn(mean.shape, generator=self._rng, device="cpu", dtype=torch.float32)
        return mean + deviation * noise

    def _for_env(self, actions: torch.Tensor) -> np.ndarray:
        """Return the policy's actions as the environment takes them."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + actions.numpy()
        middle, half = _center(space)
        actions = middle + half * actions.numpy().reshape(-1, *space.shape)
        return np.clip(actions, space.low, space.high).astype(space.dtype)

    def _encode(self, observations: Mapping[str, Any]) -> torch.Tensor:
        """Return observations by key as float32 rows ``[N, D]`` on the device."""
        rows = [
            encode(space, torch.as_tensor(observations[key], device=self.device))
            for key, space in self._subspaces.items()
        ]
        return torch.cat(rows, dim=1)  # a copy: an environment may use its array again

    # Setting up ---------------------------------------------------------------------------------

    def _check_spaces(
        self, observations: spaces.Space, actions: spaces.Space, num_envs: int
    ) -> None:
        is_continuous = isinstance(actions, spaces.Box) and np.issubdtype(
            actions.dtype, np.floating
        )
        if not isinstance(actions, spaces.Discrete) and not is_continuous:
            raise ValueError(f"action space is {actions}; REINFORCE needs Discrete or a float Box")
        if any(map(is_image, subspaces(observations).values())):
            raise ValueError(f"observation space is {observations}; REINFORCE takes no images")
        if self.n_episodes < num_envs:
            raise ValueError(
                f"n_episodes is {self.n_episodes}; it must be at least the number of "
                f"environments, {num_envs}"
            )

    def _build(self, seed: int) -> None:
        size = sum(map(encoded_size, self._subspaces.values()))
        with building(seed):
            self.policy = Policy(size, self.action_space, self.net_arch).to(self.device)
            if self.baseline:
                network = multilayer_perceptron(size, 1, self.net_arch)
                self.baseline_network = network.to(self.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), self.learning_rate, fused=True)
        if self.baseline_network is not None:
            self.baseline_optimizer = torch.optim.Adam(
                self.baseline_network.parameters(), self.baseline_learning_rate, fused=True
            )

    def _networks(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"policy": self.policy}
        if self.baseline_network is not None:
            networks["baseline_network"] = self.baseline_network
        return networks

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers = {"policy": self.optimizer}
        if self.baseline_optimizer is not None:
            optimizers["baseline_network"] = self.baseline_optimizer
        return optimizers

    def _saved_network(self) -> nn.Module:
        return nn.ModuleDict(self._networks())

    def _draw_seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self._rng, device="cpu"))


class Policy(nn.Module):
    """The distribution of actions given observations, by a multi-layer perceptron.

    Args:
        inputs: length of a flat observation.
        actions: `Discrete` gives a `Categorical` distribution, `Box` independent `Normal` ones.
        net_arch: widths of the hidden layers.

    Maps float32 ``[N, inputs]`` to a distribution of N actions.
    """

    log_std: nn.Parameter | None

    def __init__(self, inputs: int, actions: Any, net_arch: Sequence[int]):
        super().__init__()
        is_discrete = isinstance(actions, spaces.Discrete)
        size = int(actions.n) if is_discrete else math.prod(actions.shape)
        self.net = multilayer_perceptron(inputs, size, net_arch)
        log_std = None if is_discrete else nn.Parameter(torch.zeros(size, dtype=torch.float32))
        self.register_parameter("log_std", log_std)
        with torch.no_grad():  # begin almost indifferent to the observation
            for parameter, scale in zip(self.net[-1].parameters(), (0.01, 0.0), strict=True):
                parameter.mul_(scale)

    def forward(self, observations: torch.Tensor) -> Distribution:
        outputs = self.net(observations)
        if self.log_std is None:
            return Categorical(logits=outputs, validate_args=False)
        normal = Normal(outputs, self.log_std.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)


@dataclass
class Episodes:
    """Episodes that N environments played together for T steps.

    Attributes:
        observations: float32 ``[T, N, D]``.
        actions: int64 ``[T, N]`` from 0, or float32 ``[T, N, A]``, not clipped.
        rewards: float32 ``[T, N]``.
        dones: bool ``[T, N]``: last steps of episodes.
        bootstrap_values: float32 ``[T, N]``: values of truncated episodes' last observations.
        timesteps: int64 ``[T, N]``: number of steps that the episode had before.
        mask: bool ``[T, N]``: false for steps that are not learned from.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    dones: torch.Tensor
    bootstrap_values: torch.Tensor
    timesteps: torch.Tensor
    mask: torch.Tensor


def rewards_to_go(
    rewards: torch.Tensor, dones: torch.Tensor, bootstrap_values: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Return the discounted sum of an episode's rewards from each step on.

    Args:
        rewards: float32 ``[T, N]``, as all others.
        dones: bool, last steps of episodes.
        bootstrap_values: values of what comes after these.
        gamma: discount factor.
    """
    returns = torch.empty_like(rewards)
    after = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        after = rewards[step] + gamma * torch.where(dones[step], bootstrap_values[step], after)
        returns[step] = after
    return returns


def whole_returns(to_go: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Return the return of each step's whole episode, float32 ``[T, N]``."""
    returns = to_go.clone()
    for step in range(1, len(returns)):
        returns[step] = torch.where(timesteps[step] == 0, to_go[step], returns[step - 1])
    return returns


def _center(box: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and half width of a box; 0 and 1 where it has no finite width."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = (box.high - box.low) / 2
        middle = box.low + half
    finite = np.isfinite(half)
    return np.where(finite, middle, 0), np.where(finite, half, 1)
