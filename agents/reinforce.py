"""REINFORCE from scratch: the policy gradient by whole episodes.

Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning"; Sutton and Barto 2018, "Reinforcement learning", sections 13.3 and 13.4.
"""

from __future__ import annotations

import json
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

from agents.checks import check_hyperparameters
from agents.environments import as_vector_env, autoreset_mode, check_rewards
from agents.schedules import linear
from agents.spaces_json import space_from_json
from agents.states import describe, load_weights
from gan_backbones.files import read_safetensors, write_safetensors
from gan_backbones.progress import ProgressBar

FORMAT = "latentgym-reinforce-1"

Callback = Callable[["Reinforce"], object]


class Reinforce:
    """A policy-gradient agent for `Discrete` or `Box` actions and flat `Box` observations.

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

    Hyper-parameters bear Stable-Baselines3's names where it has them. Steps are counted over all
    environments.

    Args:
        env: a Gymnasium environment or vector environment, in any autoreset mode, whose episodes
            end.
        learning_rate: of the policy (Adam); falls linearly to ``final_learning_rate``.
        final_learning_rate: by default the same: constant.
        gamma: discount.
        n_episodes: played for each update.
        reward_to_go: if false, each step is credited with the whole episode's return: the same
            gradient on average, with a higher variance.
        discount_states: weight step t of an episode with ``gamma ** t``, as the gradient of the
            discounted return has it (Sutton and Barto); mostly left out, since late steps then
            hardly count. The whole episode's return needs no such weight.
        baseline: learn a state value and subtract it from the return.
        baseline_learning_rate: of the state value (Adam).
        baseline_steps: gradient steps on each batch of episodes to fit the state value.
        normalize_advantage: subtract the batch's mean and divide by its standard deviation.
        ent_coef: weight of the policy's entropy, which is maximised besides.
        max_grad_norm: each network's gradient is scaled down to this norm.
        net_arch: widths of the hidden layers of policy and state value.
        seed: of weights, actions and the environment; ``None`` draws one.
        device: where the networks lie.

    Attributes:
        policy: maps observations to the distribution of actions.
        baseline_network: maps observations to values; ``None`` without a baseline.
        num_timesteps: steps so far.
        episode_returns: returns of the last 100 training episodes.

    Raises:
        ValueError: spaces it cannot handle, or a hyper-parameter out of range.

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
        self.hyperparameters: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "env", "device")
        }
        self.hyperparameters["net_arch"] = list(net_arch)
        check_hyperparameters(
            self.hyperparameters,
            at_least={
                0: ("final_learning_rate", "ent_coef", "seed"),
                1: ("n_episodes", "baseline_steps"),
            },
            from_0_to_1=("gamma",),
            above_0=("learning_rate", "baseline_learning_rate", "max_grad_norm"),
        )
        vars(self).update(self.hyperparameters)
        self.device = torch.device(device)
        seed = int(np.random.SeedSequence().generate_state(1)[0] if seed is None else seed)
        self._env_seed: int | None = seed  # used for the first reset, then None
        self._rng = torch.Generator().manual_seed(seed)
        self.num_timesteps = 0
        self.episode_returns: deque[float] = deque(maxlen=100)
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
        """The likeliest action for one observation or a batch of them.

        Args:
            observation: ``[D]`` or ``[N, D]``.
            state: passed through; the agent has no memory.
            episode_start: ignored; here for Stable-Baselines3's `evaluate_policy`.
            deterministic: if false, draw the actions from the policy.

        Returns:
            Actions, a single one or N of them (`Discrete`: int64; `Box`: within its bounds, of
            its shape and dtype), and ``state``.

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
        actions = self._act(
            self._tensor(observation[None] if single else observation), deterministic
        )
        actions = self._for_env(actions)
        return (actions[0] if single else actions), state

    def learn(
        self,
        total_timesteps: int,
        callback: Callback | Sequence[Callback] = (),
        progress_bar: bool = False,
    ) -> Reinforce:
        """Play and learn for ``total_timesteps`` more steps, and until the last episodes are over.

        Args:
            total_timesteps: steps, counted over all environments.
            callback: one or several functions called with the agent after each update.
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
        with ProgressBar(total=total_timesteps, disable=not progress_bar, unit="step") as bar:
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
        if not isinstance(observations, spaces.Box) or len(observations.shape) != 1:
            raise ValueError(f"observation space is {observations}; REINFORCE needs a flat Box")
        if self.n_episodes < env.num_envs:
            raise ValueError(
                f"n_episodes is {self.n_episodes}; it must be at least the number of "
                f"environments, {env.num_envs}"
            )
        if not hasattr(self, "policy"):
            self._build(observations, actions, self._env_seed)
        mine = self.observation_space.shape, self.action_space
        if (observations.shape, actions) != mine:
            raise ValueError(
                f"the environment has observations {observations.shape} and actions {actions}; "
                f"the agent was made for {mine[0]} and {mine[1]}"
            )
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
        """Write networks and hyper-parameters to one safetensors file, atomically."""
        spaces_of = self.observation_space, self.action_space
        metadata = describe(FORMAT, self.hyperparameters, *spaces_of)
        metadata["num_timesteps"] = str(self.num_timesteps)
        tensors = {k: v.cpu().contiguous() for k, v in self._networks.state_dict().items()}
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
        self, observations: spaces.Box, actions: spaces.Discrete | spaces.Box, seed: int
    ) -> None:
        self.observation_space, self.action_space = observations, actions
        size = int(np.prod(observations.shape))
        with torch.random.fork_rng(devices=[]):  # leave the global random state untouched
            torch.manual_seed(seed)
            self.policy = Policy(size, actions, self.net_arch)
            self.baseline_network = _mlp(size, 1, self.net_arch) if self.baseline else None
        self._networks = nn.ModuleDict({"policy": self.policy})
        self._optimiser = torch.optim.Adam(self.policy.parameters(), self.learning_rate)
        if self.baseline:
            self._networks["baseline"] = self.baseline_network
            self._baseline_optimiser = torch.optim.Adam(
                self.baseline_network.parameters(), self.baseline_learning_rate
            )
        self._networks.to(self.device)

    def _play(self) -> Episodes:
        """Play ``n_episodes`` by the current policy."""
        env = self.env
        missing = (self.n_episodes + np.arange(env.num_envs)) // env.num_envs  # of each row
        ages, returns = np.zeros(env.num_envs, dtype=np.int64), np.zeros(env.num_envs)
        resetting = np.zeros(env.num_envs, dtype=np.bool_)
        steps = []
        following, _ = env.reset(seed=self._env_seed)
        self._env_seed = None
        while missing.any():
            observations = self._tensor(following)
            actions = self._act(observations)
            following, rewards, terminated, truncated, infos = env.step(self._for_env(actions))
            check_rewards(rewards)
            ended, counted = terminated | truncated, ~resetting & (missing > 0)
            beyond = self._values_beyond(truncated & ~terminated & counted, following, infos)
            paid = torch.tensor(rewards, dtype=torch.float32)
            steps.append((observations, actions, paid, ended, beyond, ages, counted))
            self.num_timesteps += int((~resetting).sum())
            returns = np.where(resetting, 0.0, returns + rewards)
            self.episode_returns.extend(returns[ended & counted].tolist())
            missing -= ended & counted
            returns = np.where(ended, 0.0, returns)
            ages = np.where(ended | resetting, 0, ages + 1)
            if self._mode == AutoresetMode.NEXT_STEP:
                resetting = ended  # the coming step's action is ignored
            elif self._mode == AutoresetMode.DISABLED and ended.any():
                following, _ = env.reset(options={"reset_mask": ended.copy()})
        columns = [torch.stack([torch.as_tensor(x) for x in c]) for c in zip(*steps, strict=True)]
        return Episodes(*(column.to(self.device) for column in columns))

    @torch.no_grad()
    def _values_beyond(
        self, truncated: np.ndarray, following: np.ndarray, infos: dict[str, Any]
    ) -> torch.Tensor:
        """What is still to be expected where an episode was cut off, else 0; float32 ``[N]``."""
        values = torch.zeros(len(truncated))
        if truncated.any() and self.baseline and self.reward_to_go:
            last = following[truncated]
            if self._mode == AutoresetMode.SAME_STEP:
                last = np.stack(list(infos["final_obs"][truncated]))
            values[torch.from_numpy(truncated)] = self._values(self._tensor(last)).cpu()
        return values

    def _update(self, episodes: Episodes) -> None:
        """One step of the policy along its gradient; then fit the baseline."""
        observations = episodes.observations[episodes.counted]
        returns = self._returns(episodes)[episodes.counted]
        loss = self._policy_loss(episodes, returns)
        _descend(self._optimiser, loss, self.max_grad_norm)
        # Only now: a baseline that has seen these returns would bias the gradient.
        for _ in range(self.baseline_steps if self.baseline else 0):
            loss = F.mse_loss(self._values(observations), returns)
            _descend(self._baseline_optimiser, loss, self.max_grad_norm)

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
            advantages = advantages * self.gamma ** episodes.ages[counted]
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
        return mean + deviation * torch.randn(mean.shape, generator=self._rng)

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
            self._optimiser.param_groups[0]["lr"] = rate

    def _tensor(self, observations: np.ndarray) -> torch.Tensor:
        # A copy: an environment may use its array again.
        return torch.tensor(observations, dtype=torch.float32, device=self.device)


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
        self.net = _mlp(inputs, size, net_arch)
        self.log_std = None if discrete else nn.Parameter(torch.zeros(size))
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


def _descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, max_norm: float) -> None:
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], max_norm)
    optimiser.step()


def _mlp(inputs: int, outputs: int, net_arch: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _centre(box: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of a box; 0 and 1 where it has no finite width."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = (box.high - box.low) / 2
        middle = box.low + half
    finite = np.isfinite(half)
    return np.where(finite, middle, 0), np.where(finite, half, 1)
