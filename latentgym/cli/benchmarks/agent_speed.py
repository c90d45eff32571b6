"""Benchmark of DQN's and its replay buffer's speed against Stable-Baselines3's, in one run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from agents import DQN
from agents.dqn import BATCHES_TOGETHER
from agents.hyperparameters import known_good
from agents.replay import ReplayBuffer
from gan_backbones.utils.files import check_output_file, write_json
from gan_backbones.utils.progress import ProgressBar
from latentgym.cli.arguments import check_seed
from latentgym.cli.benchmarks.timing import machine, print_table, race

ENV = "CartPole-v1"
TURN = 1024  # steps that each learns before the next one's turn
STORED = 100_000  # transitions in the replay buffers
DRAWN = 64
PEER = "Stable-Baselines3"

# Both explore and learn equally from the first turn to the last.
EVEN = dict(
    learning_starts=TURN, buffer_size=STORED, exploration_initial_eps=0.05,
    exploration_final_eps=0.05, exploration_fraction=0.0,
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "RL-Zoo's for CartPole": {**known_good("sb3-dqn", ENV), **EVEN},
    "Stable-Baselines3's defaults": dict(
        learning_rate=1e-4, batch_size=32, gamma=0.99, train_freq=4, gradient_steps=1,
        target_update_interval=10_000, net_arch=[64, 64], **EVEN,
    ),
}  # fmt: skip

Report = dict[str, dict[str, float]]


def benchmark_agent_speed(
    seconds: float = 30.0,
    seed: int = 0,
    out: Path = Path("runs/agent_speed.json"),
) -> None:
    """Time DQN's `learn` and the replay buffer against Stable-Baselines3's, on one thread.

    The same network, batch size, updates per step and plain (not double) target. Contenders take
    turns.

    Args:
        seconds: time to measure each contender, in turns with the others.
        seed: random seed of agents and environments.
        out: also write the figures to this JSON file, after each part.
    """
    check_seed(seed)
    check_output_file(out, ".json")
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Report]] = {
        f"learning, {name}, {count} environment{'s' * (count > 1)}": partial(
            compare_learning, hyperparameters, count, seconds, seed
        )
        for name, hyperparameters in SETTINGS.items()
        for count in (1, 16)
    }
    for size in (4, 64):
        parts[f"sampling {DRAWN} of {STORED}, observations of {size}"] = partial(
            compare_sampling, size, seconds, seed
        )
    report: dict[str, Any] = {"machine": machine(), "seed": seed}
    with ProgressBar(parts.items(), desc="speed") as progress:
        for name, measure in progress:
            progress.set_postfix_str(name)
            report[name] = measure()
            write_json(out, report)
            print_table(name, report[name])
    print(f"figures: {out}")


def compare_learning(
    hyperparameters: dict[str, Any], num_envs: int, seconds: float, seed: int
) -> Report:
    """Steps per second of whole `learn`, in each one's own kind of environment."""
    from stable_baselines3 import DQN as PeerDQN  # slow to import
    from stable_baselines3.common.env_util import make_vec_env

    shared = {
        **hyperparameters,
        "seed": seed,
        # Counted in steps of all environments together, so that updates per step stay the same.
        "train_freq": max(1, hyperparameters["train_freq"] // num_envs),
        "gradient_steps": max(
            hyperparameters["gradient_steps"],
            hyperparameters["gradient_steps"] * num_envs // hyperparameters["train_freq"],
        ),
    }

    def environment() -> Any:
        return gym.make_vec(ENV, num_envs) if num_envs > 1 else gym.make(ENV)

    agent = DQN(environment(), double_q=False, **shared)
    theirs = {name: value for name, value in shared.items() if name != "net_arch"}
    net_arch = {"net_arch": list(shared["net_arch"])}
    peer = PeerDQN("MlpPolicy", make_vec_env(ENV, num_envs), policy_kwargs=net_arch, **theirs)
    contenders: dict[str, Callable[[], Any]] = {
        "DQN": partial(agent.learn, TURN),
        PEER: partial(peer.learn, TURN, reset_num_timesteps=False),
    }
    return _rates(race(contenders, seconds), TURN, "steps/s")


def compare_sampling(size: int, seconds: float, seed: int) -> Report:
    """Batches per second that full replay buffers give, as tensors ready to learn from."""
    from stable_baselines3.common.buffers import ReplayBuffer as PeerBuffer

    space, actions, rows = spaces.Box(-1, 1, (size,)), spaces.Discrete(4), np.arange(100)
    rng = np.random.default_rng(seed)
    ours = ReplayBuffer(space, STORED, num_envs=len(rows))
    theirs = PeerBuffer(STORED, space, actions, device="cpu", n_envs=len(rows))
    never = np.zeros(len(rows), dtype=np.bool_)
    observations = rng.random((len(rows), size), dtype=np.float32)
    ours.begin(rows, {"": observations})
    for _ in range(STORED // len(rows)):
        following = rng.random((len(rows), size), dtype=np.float32)
        chosen, rewards = rng.integers(4, size=len(rows)), rng.random(len(rows))
        ours.add(rows, chosen, rewards, never, never, {"": following})
        theirs.add(observations, following, chosen, rewards, never, [{} for _ in rows])
        observations = following
    draw = torch.Generator().manual_seed(seed)
    together = f"ReplayBuffer, {BATCHES_TOGETHER} batches at once, as DQN draws them"
    contenders: dict[str, Callable[[], Any]] = {
        "ReplayBuffer": partial(ours.sample, DRAWN, draw),
        together: lambda: list(ours.sample(BATCHES_TOGETHER * DRAWN, draw).split(DRAWN)),
        PEER: partial(theirs.sample, DRAWN),
    }
    times = race(contenders, seconds / 10, calls=50)
    times[together] /= BATCHES_TOGETHER
    return _rates(times, 1, "batches/s")


def _rates(times: dict[str, float], count: int, unit: str) -> Report:
    return {
        name: {unit: count / spent, f"times as fast as {PEER}": times[PEER] / spent}
        for name, spent in times.items()
    }
