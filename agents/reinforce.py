"""REINFORCE from scratch: the policy gradient by whole episodes.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; Sutton and Barto 2018, "Reinforcement learning", sections 13.3 and 13.4.
"""

from __future__ import annotations

import inspect
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn import functional as F

from agents.base import BaseAgent
from agents.environments import (
    as_vector_env,
    autoreset_mode,
    check_rewards,
    interruptible,
    to_numpy,
)
from agents.networks import (
    FLOAT32,
    building,
    check_computes,
    check_learns,
    clip_gradients,
    multilayer_perceptron,
)
from agents.observations import (
    as_batch,
    check_values,
    encode,
    encoded_size,
    is_image,
    layout,
    split,
    subspaces,
    take,
)
from agents.saving import check_finite, describe, load_weights
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

FORMAT = "latentgym-reinforce-1"

Callback = Callable[["Reinforce"], object]


class Reinforce(BaseAgent):
    """A policy-gradient agent for `Discrete` or `Box` actions.

    Observations are `Box`, `Discrete`, `MultiBinary`, `MultiDiscrete`, or a `Dict` or `Tuple` of
    these, but no images. Boxes are flattened, and choices are one-hot encoded.

    Each update plays whole episodes by the current policy and takes one step along

        mean over steps of  (G_t - b(s_t)) * grad log pi(a_t | s_t)

    where the return G_t is what the episode paid from that step on, and the baseline b(s_t) what
    could be expected. Each environment plays a fixed share of the episodes, since to take those
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
        gamma: discount.
        n_episodes: episodes played for each update.
        reward_to_go: if false, each step is credited with the whole episode's return: the same
            gradient on average, with a higher variance.
        discount_states: weight step t of an episode with ``gamma ** t``, as the gradient of the
            discounted return has it (Sutton and Barto); mostly left out, since late steps then
            hardly count. The whole episode's return needs no such weight.
        baseline: learn a state value and subtract it from the return.
        baseline_learning_rate: step size of the state value's Adam.
        baseline_steps: gradient steps on each batch of episodes to fit the state value.
        normalize_advantage: subtract the batch's mean and divide by its standard deviation.
        ent_coef: weight of the policy's entropy, which is maximised besides.
        max_grad_norm: each network's gradient is scaled down to this norm.
        net_arch: widths of the hidden layers of policy and state value.
        seed: random seed of weights, actions and the environment; ``None`` draws one.
        device: where the networks are.

    Attributes:
        policy: maps observations to the distribution of actions.
        baseline_network: maps observations to values; ``None`` without a baseline.
        optimizer: `torch.optim.Adam` of `policy`.
        baseline_optimizer: that of `baseline_network`; ``None`` without a baseline.
        num_timesteps: steps so far.
        episode_returns: returns of the last 100 training episodes.

    Raises:
        ValueError: spaces it cannot handle, a hyper-parameter of the wrong type or out of range, or
            a device that torch cannot use.

    Example:
        >>> agent = Reinforce(gym.make("CartPole-v1"), seed=0)
        >>> agent = agent.learn(500)
        >>> action, _ = agent.predict(np.zeros(4, np.float32))
    """

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
        self.learning_rate = number("learning_rate", learning_rate, above=0)
        self.final_learning_rate = final_learning_rate
        if final_learning_rate is not None:
            self.final_learning_rate = number("final_learning_rate", final_learning_rate, least=0)
        self.gamma = fraction("gamma", gamma)
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
        self.max_grad_norm = number("max_grad_norm", max_grad_norm, above=0, finite=False)
        self.net_arch = layer_widths("net_arch", net_arch)
        self.seed = checked_seed(seed)
        self.device = usable_device(device)
        seed = self.seed
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._env_seed: int | None = seed  # used for the first reset, then None
        self._rng = torch.Generator("cpu").manual_seed(seed)
        self.num_timesteps = 0
        self.episode_returns: deque[float] = deque(maxlen=100)
        self.env: VectorEnv | None = None
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
        """Return the likeliest action for one observation or a batch of them.

        Args:
            observation: arrays, tensors on any device, or numbers: ``[*shape]`` or
                ``[N, *shape]``; a dict or tuple of such for a Dict or Tuple space.
            state: passed through; the agent has no memory.
            episode_start: ignored; here for Stable-Baselines3's `evaluate_policy`.
            deterministic: if false, draw the actions from the policy.

        Returns:
            Actions as a NumPy array, a single one or N of them (`Discrete`: int64; `Box`: within
            its bounds, of its shape and dtype), and ``state``.

        Raises:
            ValueError: observations of another shape, outside their space or not finite, or a
                network that was moved to another dtype or device.
        """
        deterministic = boolean("deterministic", deterministic)
        batch, single = as_batch(self.observation_space, observation)
        try:
            actions = self._act(self._encode(batch), deterministic)
        except RuntimeError:
            check_computes(self._networks, self.device)
            raise
        actions = self._for_env(actions)
        return (actions[0] if single else actions), state

    @torch.inference_mode(False)
    @torch.enable_grad()
    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] | None = (),
        progress_bar: bool = False,
    ) -> Reinforce:
        """Play and learn for ``total_timesteps`` more steps, and until the last episodes are over.

        Each update plays new episodes, so the environment may be used in between, and a call that
        was interrupted can simply be followed by another.

        Args:
            total_timesteps: steps, counted over all environments; 0 does nothing.
            callback: one or several functions called with the agent after each update.
            progress_bar: show one, with the mean return of recent episodes.

        Returns:
            The agent itself.

        Raises:
            ValueError: no environment, an argument of the wrong type or out of range, an
                environment that returns rewards or observations that are not finite, or networks
                that cannot learn (frozen, or moved to another dtype).
            FloatingPointError: the networks diverged; they stay as they were before the update
                whose gradient was not finite.
        """
        if self.env is None:
            raise ValueError("the agent has no environment; pass env to load(), or call set_env()")
        total_timesteps = integer("total_timesteps", total_timesteps, 0)
        callbacks = callables(callback)
        check_computes(self._networks, self.device)
        check_learns("policy", self.policy, self.optimizer)
        if self.baseline:
            check_learns("baseline_network", self.baseline_network, self.baseline_optimizer)
        first, total = self.num_timesteps, self.num_timesteps + total_timesteps
        shown = time.monotonic()
        bar = ProgressBar(total=total_timesteps, disable=not progress_bar, unit="step")
        with bar, interruptible(self.env):
            while self.num_timesteps < total:
                self._set_learning_rate((self.num_timesteps - first) / total_timesteps)
                self._update(self._play())
                for function in callbacks:
                    function(self)
                bar.update(min(self.num_timesteps - first, total_timesteps) - bar.n)
                if time.monotonic() - shown > 0.5:
                    shown = time.monotonic()
                    bar.set_postfix(mean_return=f"{np.mean(self.episode_returns):.2f}")
        return self

    def set_env(self, env: gym.Env | VectorEnv) -> None:
        """Learn in ``env`` from now on.

        Raises:
            ValueError: spaces it cannot handle, or other than those the agent was made for.
        """
        env = as_vector_env(env)
        observations, actions = env.single_observation_space, env.single_action_space
        continuous = isinstance(actions, spaces.Box) and np.issubdtype(actions.dtype, np.floating)
        if not isinstance(actions, spaces.Discrete) and not continuous:
            raise ValueError(f"action space is {actions}; REINFORCE needs Discrete or a float Box")
        if any(map(is_image, subspaces(observations).values())):
            raise ValueError(f"observation space is {observations}; REINFORCE takes no images")
        if self.n_episodes < env.num_envs:
            raise ValueError(
                f"n_episodes is {self.n_episodes}; it must be at least the number of "
                f"environments, {env.num_envs}"
            )
        if not hasattr(self, "policy"):
            self._build(observations, actions, self._env_seed)
        given, mine = layout(observations), layout(self.observation_space)
        if given != mine or actions != self.action_space:
            raise ValueError(
                f"the environment has observations {given} and actions {actions}; "
                f"the agent was made for {mine} and {self.action_space}"
            )
        if self._env_seed is None:  # the seed decides in the next environment, too
            self._env_seed = int(torch.randint(2**31, (), generator=self._rng, device="cpu"))
        self.env = env
        self._mode = autoreset_mode(env)

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """The parameters of policy and baseline: not copies."""
        return {name: network.state_dict() for name, network in self._networks.items()}

    def set_parameters(self, parameters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over what :meth:`get_parameters` gave."""
        for name, network in self._networks.items():
            network.load_state_dict(parameters[name])

    def save(self, path: str | Path) -> None:
        """Write networks and hyper-parameters to one safetensors file, atomically.

        Raises:
            ValueError: weights that are not finite.
        """
        spaces_of = self.observation_space, self.action_space
        metadata = describe(FORMAT, self.hyperparameters, *spaces_of)
        metadata["num_timesteps"] = str(self.num_timesteps)
        tensors = {k: v.cpu().contiguous() for k, v in self._networks.state_dict().items()}
        check_finite(tensors)
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(
        cls, path: str | Path, env: gym.Env | VectorEnv | None = None, device: str = "cpu"
    ) -> Reinforce:
        """Read an agent that :meth:`save` wrote; with ``env`` it can go on learning.

        Raises:
            ValueError: a missing or damaged file, or one that holds no REINFORCE agent.
        """
        metadata, tensors = read_safetensors(path, "REINFORCE agent", FORMAT)
        device = usable_device(device)
        try:
            agent = cls(None, device=device, **json.loads(metadata["hyperparameters"]))
            agent._build(
                space_from_json(metadata["observation_space"]),
                space_from_json(metadata["action_space"]),
                0,
            )
            agent.num_timesteps = int(metadata["num_timesteps"])
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: its description is damaged ({error!r})") from None
        load_weights(agent._networks, tensors, path)
        if env is not None:
            agent.set_env(env)
        return agent

    # Learning -----------------------------------------------------------------------------------

    def _build(
        self, observations: spaces.Space, actions: spaces.Discrete | spaces.Box, seed: int
    ) -> None:
        self.observation_space, self.action_space = observations, actions
        self._subspaces = subspaces(observations)
        size = sum(map(encoded_size, self._subspaces.values()))
        self.baseline_network = self.baseline_optimizer = None
        with building(seed):
            self.policy = Policy(size, actions, self.net_arch)
            self._networks = nn.ModuleDict({"policy": self.policy})
            if self.baseline:
                self.baseline_network = multilayer_perceptron(size, 1, self.net_arch)
                self._networks["baseline"] = self.baseline_network
            self._networks.to(self.device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), self.learning_rate, fused=True)
        if self.baseline:
            self.baseline_optimizer = torch.optim.Adam(
                self.baseline_network.parameters(), self.baseline_learning_rate, fused=True
            )

    def _play(self) -> Episodes:
        """Play ``n_episodes`` by the current policy."""
        env = self.env
        missing = (self.n_episodes + np.arange(env.num_envs)) // env.num_envs  # of each row
        ages, returns = np.zeros(env.num_envs, dtype=np.int64), np.zeros(env.num_envs)
        resetting = np.zeros(env.num_envs, dtype=np.bool_)
        steps = []
        next_obs, _ = env.reset(seed=self._env_seed)
        self._env_seed = None
        while missing.any():
            observations = self._encode(split(self.observation_space, next_obs))
            actions = self._act(observations)
            env_actions = self._for_env(actions)
            device = _device_of(next_obs)
            if device is not None:
                env_actions = torch.from_numpy(env_actions).to(device)
            next_obs, rewards, terminated, truncated, infos = env.step(env_actions)
            rewards, terminated, truncated = map(to_numpy, (rewards, terminated, truncated))
            check_rewards(rewards)
            ended, counted = terminated | truncated, ~resetting & (missing > 0)
            beyond = self._values_beyond(truncated & ~terminated & counted, next_obs, infos)
            columns = rewards.astype(np.float32), ended, beyond, ages, counted
            steps.append((observations, actions, *columns))
            self.num_timesteps += int((~resetting).sum())
            returns = np.where(resetting, 0.0, returns + rewards)
            self.episode_returns.extend(returns[ended & counted].tolist())
            missing -= ended & counted
            returns = np.where(ended, 0.0, returns)
            ages = np.where(ended | resetting, 0, ages + 1)
            if self._mode == AutoresetMode.NEXT_STEP:
                resetting = ended  # the coming step's action is ignored
            elif self._mode == AutoresetMode.DISABLED and ended.any():
                next_obs, _ = env.reset(options={"reset_mask": ended.copy()})
        columns = (
            torch.stack([torch.as_tensor(x, device=self.device) for x in column])
            for column in zip(*steps, strict=True)
        )
        return Episodes(*columns)

    @torch.no_grad()
    def _values_beyond(
        self, truncated: np.ndarray, next_obs: Any, infos: dict[str, Any]
    ) -> torch.Tensor:
        """What is still to be expected where an episode was cut off, else 0; float32 ``[N]``."""
        values = torch.zeros(len(truncated), device=self.device, **FLOAT32)
        if truncated.any() and self.baseline and self.reward_to_go:
            last = next_obs
            if self._mode == AutoresetMode.SAME_STEP:
                last = infos["final_obs"]
            rows = self._encode(take(self.observation_space, last, truncated))
            values[torch.from_numpy(truncated)] = self._values(rows)
        return values

    def _update(self, episodes: Episodes) -> None:
        """One step of the policy along its gradient; then fit the baseline."""
        observations = episodes.observations[episodes.counted]
        returns = self._returns(episodes)[episodes.counted]
        loss = self._policy_loss(episodes, returns)
        self._optimizer_step(self.policy, self.optimizer, loss)
        # Only now: a baseline that has seen these returns would bias the gradient.
        for _ in range(self.baseline_steps if self.baseline else 0):
            loss = F.mse_loss(self._values(observations), returns)
            self._optimizer_step(self.baseline_network, self.baseline_optimizer, loss)

    def _optimizer_step(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor
    ) -> None:
        optimizer.zero_grad()
        loss.backward()
        norm = clip_gradients(network, self.max_grad_norm)
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"REINFORCE diverged: the gradient's norm is {norm} after {self.num_timesteps} "
                "steps; lower the learning rates, or the rewards' scale"
            )
        optimizer.step()

    def _policy_loss(self, episodes: Episodes, returns: torch.Tensor) -> torch.Tensor:
        """Its gradient is minus the policy gradient, as a mean over the counted steps."""
        counted, advantages = episodes.counted, returns
        observations = episodes.observations[counted]
        if self.baseline:
            with torch.no_grad():
                advantages = advantages - self._values(observations)
        if self.normalize_advantage:
            deviation = advantages.std(correction=0)
            advantages = (advantages - advantages.mean()) / (deviation + 1e-8)
        if self.discount_states and self.reward_to_go:
            advantages = advantages * self.gamma ** episodes.ages[counted].float()
        distribution = self.policy(observations)
        log_probs = distribution.log_prob(episodes.actions[counted])
        return -(log_probs * advantages).mean() - self.ent_coef * distribution.entropy().mean()

    def _returns(self, episodes: Episodes) -> torch.Tensor:
        """What each step is credited with, float32 ``[T, N]``."""
        to_go = rewards_to_go(episodes.rewards, episodes.ended, episodes.beyond, self.gamma)
        return to_go if self.reward_to_go else whole_returns(to_go, episodes.ages)

    def _values(self, observations: torch.Tensor) -> torch.Tensor:
        return self.baseline_network(observations).squeeze(1)

    @torch.no_grad()
    def _act(self, observations: torch.Tensor, deterministic: bool = False) -> torch.Tensor:
        """The policy's actions on the CPU: int64 ``[N]`` from 0, or float32 ``[N, A]``."""
        distribution = self.policy(observations)
        if deterministic:
            return distribution.mode.cpu()
        # torch.distributions would draw from the global random state.
        if isinstance(distribution, Categorical):
            return torch.multinomial(distribution.probs.cpu(), 1, generator=self._rng).squeeze(1)
        mean, deviation = distribution.mean.cpu(), distribution.stddev.cpu()
        noise = torch.randn(mean.shape, generator=self._rng, device="cpu", **FLOAT32)
        return mean + deviation * noise

    def _for_env(self, actions: torch.Tensor) -> np.ndarray:
        """The policy's actions as the environment takes them."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return int(space.start) + actions.numpy()
        middle, half = _centre(space)
        actions = middle + half * actions.numpy().reshape(-1, *space.shape)
        return np.clip(actions, space.low, space.high).astype(space.dtype)

    def _set_learning_rate(self, progress: float) -> None:
        if self.final_learning_rate is not None:
            rate = linear(self.learning_rate, self.final_learning_rate, 1.0, progress)
            self.optimizer.param_groups[0]["lr"] = rate

    def _encode(self, parts: Mapping[str, Any]) -> torch.Tensor:
        """Observations by key as float32 rows ``[N, D]`` on the device, if they are valid."""
        check_values(self._subspaces, parts)
        rows = [
            encode(space, torch.as_tensor(parts[key], device=self.device))
            for key, space in self._subspaces.items()
        ]
        return torch.cat(rows, dim=1)  # a copy: an environment may use its array again


class Policy(nn.Module):
    """The distribution of actions given observations, by a multi-layer perceptron.

    Args:
        inputs: length of a flat observation.
        actions: `Discrete` gives a `Categorical` distribution, `Box` independent `Normal` ones.
        net_arch: widths of the hidden layers.

    Maps float32 ``[N, inputs]`` to a distribution of N actions.
    """

    def __init__(self, inputs: int, actions: spaces.Discrete | spaces.Box, net_arch: Sequence[int]):
        super().__init__()
        discrete = isinstance(actions, spaces.Discrete)
        size = int(actions.n) if discrete else int(np.prod(actions.shape))
        self.net = multilayer_perceptron(inputs, size, net_arch)
        self.log_std = None if discrete else nn.Parameter(torch.zeros(size, **FLOAT32))
        with torch.no_grad():  # begin almost indifferent to the observation
            self.net[-1].weight.mul_(0.01)
            self.net[-1].bias.zero_()

    def forward(self, observations: torch.Tensor) -> Distribution:
        outputs = self.net(observations)
        if self.log_std is None:
            return Categorical(logits=outputs, validate_args=False)
        normal = Normal(outputs, self.log_std.exp(), validate_args=False)
        return Independent(normal, 1, validate_args=False)


@dataclass
class Episodes:
    """Episodes that N environments played side by side for T steps.

    Attributes:
        observations: float32 ``[T, N, D]``.
        actions: int64 ``[T, N]`` from 0, or float32 ``[T, N, A]``, not clipped.
        rewards: float32 ``[T, N]``.
        ended: bool ``[T, N]``, the last steps of episodes.
        beyond: float32 ``[T, N]``: what was still to be expected when an episode ended.
        ages: int64 ``[T, N]``: how many steps the episode had before.
        counted: bool ``[T, N]``: false where a step is not to be learned from.
    """

    observations: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    ended: torch.Tensor
    beyond: torch.Tensor
    ages: torch.Tensor
    counted: torch.Tensor


def rewards_to_go(
    rewards: torch.Tensor, ended: torch.Tensor, beyond: torch.Tensor, gamma: float
) -> torch.Tensor:
    """The discounted sum of an episode's rewards from each step on.

    Args:
        rewards: float32 ``[T, N]``, as all others.
        ended: bool, the last steps of episodes.
        beyond: the value of what comes after these.
        gamma: discount.
    """
    returns = torch.empty_like(rewards)
    after = torch.zeros_like(rewards[0])
    for step in reversed(range(len(rewards))):
        after = rewards[step] + gamma * torch.where(ended[step], beyond[step], after)
        returns[step] = after
    return returns


def whole_returns(to_go: torch.Tensor, ages: torch.Tensor) -> torch.Tensor:
    """Each step's episode's return: the rewards to go from where ``ages`` is 0; ``[T, N]``."""
    returns = to_go.clone()
    for step in range(1, len(returns)):
        returns[step] = torch.where(ages[step] == 0, to_go[step], returns[step - 1])
    return returns


def _device_of(observations: Any) -> torch.device | None:
    """The device of an environment that uses tensors; ``None`` if it uses NumPy."""
    while isinstance(observations, (Mapping, tuple)):
        values = observations.values() if isinstance(observations, Mapping) else observations
        observations = next(iter(values))
    return observations.device if isinstance(observations, torch.Tensor) else None


def _centre(box: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of a box; 0 and 1 where it has no finite width."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = (box.high - box.low) / 2
        middle = box.low + half
    finite = np.isfinite(half)
    return np.where(finite, middle, 0), np.where(finite, half, 1)


_HYPERPARAMETERS = [
    name for name in inspect.signature(Reinforce).parameters if name not in ("env", "device")
]
