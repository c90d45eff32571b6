"""Benchmark of agents over seeds: greedy returns, steps until solved, training returns, speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np

import latentgym  # noqa: F401  (registers the environments)
from agents.hyperparameters import settings
from agents.registry import KINDS, check_kind
from gan_backbones.utils.files import check_output_file
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.benchmarks.agent_runs import job_of, run_benchmark
from latentgym.cli.benchmarks.repeated_runs import Run
from latentgym.cli.tasks import Pairs, Target, task_options

# The textbook demand: an average over so many training episodes, within so many.
AVERAGED, WITHIN = 100, 1000


def benchmark_agents(
    env: str = "CartPole-v1",
    agents: tuple[str, ...] = ("dqn", "sb3-dqn"),
    seeds: int = 10,
    seed: int = 0,
    workers: int = 2,
    timesteps: int | None = None,
    target: Target = (),
    env_args: Pairs = (),
    out: Path = Path("runs/agents.json"),
) -> None:
    """Compare agents over seeds: greedy returns, steps until solved, training returns, speed.

    After an interrupt, run the same command again to resume.

    Args:
        env: environment to learn in.
        agents: kinds of agents: dqn, reinforce, sb3-dqn, sb3-ppo, ...
        seeds: number of runs per agent.
        seed: random seed of the first run.
        workers: number of single-threaded parallel workers.
        timesteps: number of steps per run; by default the agent's known-good number.
        target: what the edited image should show, in the environments that edit.
        env_args: arguments of the environment.
        out: JSON file of the figures, written after each run; a markdown table goes next to it.
    """
    check_seed(seed)
    check_counts(seeds=seeds, workers=workers, timesteps=timesteps)
    check_output_file(out, ".json")
    if not agents:
        raise ValueError(f"agents is empty; allowed: {', '.join(KINDS)}")
    options = task_options(env, target, env_args)
    known = {kind: settings(check_kind(kind), env) for kind in agents}
    jobs = [
        job_of(kind, kind, env, number, timesteps, options, known[kind], {})
        for number in range(seed, seed + seeds)
        for kind in agents
    ]
    run_benchmark(jobs, workers, out, _agent_row)


# Running ------------------------------------------------------------------------------------------


# Tables -------------------------------------------------------------------------------------------


def _agent_row(runs: list[Run]) -> dict[str, str]:
    last, best = ([run[which]["return"] for run in runs] for which in ("last", "best"))
    row = {
        "seeds": str(len(runs)),
        "last network, mean": f"{np.mean(last):.1f}",
        "worst seed": f"{min(last):.1f}",
        "best network, mean": f"{np.mean(best):.1f}",
        "worst seed ": f"{min(best):.1f}",
    }
    threshold = gym.spec(runs[0]["job"]["env"]).reward_threshold
    if threshold is not None:
        solved = [steps_until(run["history"], threshold) for run in runs]
        row[f"steps to {threshold:g}, median"] = _steps(np.median(solved))
        row["worst"] = _steps(max(solved))
    averages = [best_average(run["training_returns"]) for run in runs]
    row[f"best {AVERAGED}-episode training average within {WITHIN} episodes, median"] = (
        f"{np.median(averages):.1f}"
    )
    row["worst "] = f"{min(averages):.1f}"
    speeds = [run["steps"] / run["seconds"] for run in runs]
    row["steps/s, median"] = f"{np.median(speeds):.0f}"
    row["seconds, median"] = f"{np.median([run['seconds'] for run in runs]):.0f}"
    return row


def steps_until(history: list[dict[str, float]], threshold: float) -> float:
    """Steps until the first evaluation that reaches the threshold; infinite if none does."""
    return next((p["timesteps"] for p in history if p["return"] >= threshold), np.inf)


def best_average(returns: Sequence[float]) -> float:
    """The best mean of `AVERAGED` episodes in a row among the first `WITHIN`; NaN for fewer."""
    first = np.array(returns[:WITHIN])
    if len(first) < AVERAGED:
        return np.nan
    sums = np.cumsum(np.insert(first, 0, 0.0))
    return float((sums[AVERAGED:] - sums[:-AVERAGED]).max() / AVERAGED)


def _steps(steps: float) -> str:
    return f"{steps:.0f}" if np.isfinite(steps) else "never"
