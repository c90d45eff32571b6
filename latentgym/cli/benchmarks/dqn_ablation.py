"""Benchmark of DQN's parts: each alone, none and all, over seeds, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import latentgym  # noqa: F401  (registers the environments)
from agents.evaluation import bootstrap_interval
from agents.hyperparameters import settings
from gan_backbones.utils.files import check_output_file
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.benchmarks.agent_runs import job_of, run_benchmark
from latentgym.cli.benchmarks.repeated_runs import Run
from latentgym.cli.tasks import Pairs, Target, parse_pairs, task_options

PLAIN = {"double_q": False, "dueling": False, "n_steps": 1, "prioritized_replay": False}


PARTS: dict[str, dict[str, Any]] = {
    "double": {"double_q": True},
    "dueling": {"dueling": True},
    "n-step": {"n_steps": 3},
    "prioritised": {"prioritized_replay": True},
}


# None of the parts, each alone, and all.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    **{f"+ {name}": {**PLAIN, **part} for name, part in PARTS.items()},
    "all": {name: value for part in PARTS.values() for name, value in part.items()},
}


def benchmark_dqn_ablation(
    env: str = "CartPole-v1",
    seeds: int = 5,
    seed: int = 0,
    workers: int = 2,
    timesteps: int | None = None,
    target: Target = (),
    env_args: Pairs = (),
    hyperparameters: Pairs = (),
    out: Path = Path("runs/dqn-ablation.json"),
) -> None:
    """Compare DQN without and with each of its parts: learning curve and final performance.

    After an interrupt, run the same command again to resume.

    Args:
        env: environment to learn in.
        seeds: number of runs per variant.
        seed: random seed of the first run.
        workers: number of single-threaded parallel workers.
        timesteps: number of steps per run; by default DQN's known-good number.
        target: what the edited image should show, in the environments that edit.
        env_args: arguments of the environment.
        hyperparameters: hyper-parameters of all variants, instead of the known-good ones.
        out: JSON file of the figures, written after each run; a markdown table goes next to it.
    """
    check_seed(seed)
    check_counts(seeds=seeds, workers=workers, timesteps=timesteps)
    check_output_file(out, ".json")
    options = task_options(env, target, env_args)
    common = parse_pairs(hyperparameters, "hyperparameters")
    known = settings("dqn", env)
    jobs = [
        job_of(label, "dqn", env, number, timesteps, options, known, {**common, **variant})
        for number in range(seed, seed + seeds)
        for label, variant in VARIANTS.items()
    ]
    run_benchmark(jobs, workers, out, _variant_row)


def _variant_row(runs: list[Run]) -> dict[str, str]:
    """Means over seeds with 95 % bootstrap intervals."""
    figures = {
        "area under the learning curve": [area(run["history"]) for run in runs],
        "final return": [run["last"]["return"] for run in runs],
        "return of the best network": [run["best"]["return"] for run in runs],
    }
    for name, label in {"is_success": "final success", "kept": "final kept"}.items():
        if name in runs[0]["last"]:
            figures[label] = [run["last"][name] for run in runs]
    row = {"seeds": str(len(runs))}
    for label, values in figures.items():
        digits = 1 if max(map(abs, values)) >= 10 else 3
        low, high = bootstrap_interval(np.array(values))
        row[label] = f"{np.mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return row


def area(history: list[dict[str, float]], metric: str = "return") -> float:
    """Area under the learning curve, divided by its length: the mean over evaluations."""
    return float(np.mean([point[metric] for point in history])) if history else np.nan
