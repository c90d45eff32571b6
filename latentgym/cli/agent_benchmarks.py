"""How well agents learn: beside each other, and each of DQN's parts; over seeds, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorEpisodeStatistics

import latentgym  # noqa: F401  (registers the environments)
from agents import EvaluationResult, KeepBest, evaluate
from agents.evaluation import bootstrap_interval
from agents.hyperparameters import Settings, settings
from agents.training import KINDS, check_kind, make_agent, make_env, make_training_env, train
from gan_backbones.files import check_output_file
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.repeated_runs import Job, Row, Run, repeat_runs
from latentgym.cli.tasks import Pairs, Target, parse_pairs, seeds_of, task_options, training_options

EVERY = 2000  # steps between evaluations
EVALUATION_EPISODES = 10
TEST_EPISODES = 100

# The textbook demand: an average over so many training episodes, within so many.
AVERAGED, WITHIN = 100, 1000

PLAIN = {"double_q": False, "dueling": False, "n_steps": 1, "prioritized_replay": False}
PARTS = {
    "double": {"double_q": True},
    "dueling": {"dueling": True},
    "n-step": {"n_steps": 3},
    "prioritised": {"prioritized_replay": True},
}
# Each part alone beside none and all of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    **{f"+ {name}": {**PLAIN, **part} for name, part in PARTS.items()},
    "all": {name: value for part in PARTS.values() for name, value in part.items()},
}


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

    Interrupted, the same command goes on.

    Args:
        env: environment they learn in.
        agents: their kinds: dqn, reinforce, sb3-dqn, sb3-ppo, ...
        seeds: how many runs of each.
        seed: the first.
        workers: processes, of one thread each, that work side by side.
        timesteps: of each run; by default the agent's known-good number.
        target: what the edited image shall show, in the environments that edit.
        env_args: arguments of the environment.
        out: the figures, as JSON, written after each run; a table in markdown beside it.
    """
    check_seed(seed)
    check_counts(seeds=seeds, workers=workers, timesteps=timesteps)
    check_output_file(out, ".json")
    if not agents:
        raise ValueError(f"agents is empty; allowed: {', '.join(KINDS)}")
    options = task_options(env, target, env_args)
    known = {kind: settings(check_kind(kind), env) for kind in agents}
    jobs = [
        _job(kind, kind, env, number, timesteps, options, known[kind], {})
        for number in range(seed, seed + seeds)
        for kind in agents
    ]
    _benchmark(jobs, workers, out, _agent_row)


def benchmark_ablation(
    env: str = "CartPole-v1",
    seeds: int = 5,
    seed: int = 0,
    workers: int = 2,
    timesteps: int | None = None,
    target: Target = (),
    env_args: Pairs = (),
    hyperparameters: Pairs = (),
    out: Path = Path("runs/ablation.json"),
) -> None:
    """Compare DQN without and with each of its parts: learning curve and final performance.

    Interrupted, the same command goes on.

    Args:
        env: environment they learn in.
        seeds: how many runs of each.
        seed: the first.
        workers: processes, of one thread each, that work side by side.
        timesteps: of each run; by default DQN's known-good number.
        target: what the edited image shall show, in the environments that edit.
        env_args: arguments of the environment.
        hyperparameters: of all variants, instead of the known-good ones.
        out: the figures, as JSON, written after each run; a table in markdown beside it.
    """
    check_seed(seed)
    check_counts(seeds=seeds, workers=workers, timesteps=timesteps)
    check_output_file(out, ".json")
    options = task_options(env, target, env_args)
    common = parse_pairs(hyperparameters, "hyperparameters")
    known = settings("dqn", env)
    jobs = [
        _job(label, "dqn", env, number, timesteps, options, known, {**common, **variant})
        for number in range(seed, seed + seeds)
        for label, variant in VARIANTS.items()
    ]
    _benchmark(jobs, workers, out, _variant_row)


# Running ------------------------------------------------------------------------------------------


def _job(
    label: str,
    kind: str,
    env_id: str,
    seed: int,
    timesteps: int | None,
    options: dict[str, Any],
    known: Settings,
    changes: dict[str, Any],
) -> Job:
    return {
        "label": label,
        "agent": kind,
        "env": env_id,
        "env_options": options,
        "seed": seed,
        "timesteps": timesteps or known.timesteps,
        "num_envs": known.num_envs,
        "hyperparameters": {**known.hyperparameters, **changes},
    }


def run_job(job: Job) -> Run:
    """Train and test one agent; all that a table could want to know of it."""
    torch.set_num_threads(1)
    env_id, seed, options = job["env"], job["seed"], job["env_options"]
    selection_seed, test_seed = seeds_of(seed)
    env = make_training_env(
        job["agent"], env_id, job["num_envs"], **training_options(env_id, options)
    )
    record = (
        RecordVectorEpisodeStatistics if isinstance(env, VectorEnv) else RecordEpisodeStatistics
    )
    env = record(env, buffer_length=job["timesteps"] + 1)  # no episode is forgotten
    agent = make_agent(job["agent"], env, seed, **job["hyperparameters"])
    best = KeepBest(
        make_env(env_id, EVALUATION_EPISODES, **options), EVERY, EVALUATION_EPISODES, selection_seed
    )
    training = train(agent, job["timesteps"], best)
    test = make_env(env_id, TEST_EPISODES, **options)
    last = _means(evaluate(agent, test, TEST_EPISODES, test_seed))
    best.restore(agent)
    return {
        "job": job,
        "history": best.history,
        "training_returns": [round(float(value), 3) for value in env.return_queue],
        "seconds": round(training.seconds, 2),
        "steps": training.steps,
        "last": last,
        "best": _means(evaluate(agent, test, TEST_EPISODES, test_seed)),
    }


def _benchmark(jobs: Sequence[Job], workers: int, out: Path, row: Row) -> None:
    """Run what ``out`` does not hold yet, writing after each; print and write the table."""
    for job in jobs[: len({job["label"] for job in jobs})]:  # errors now, not in a worker
        make_agent(job["agent"], _training_env(job), job["seed"], **job["hyperparameters"])
    repeat_runs(
        jobs, run_job, workers, out, jobs[0]["env"], row, lambda run: f"{run['last']['return']:.1f}"
    )


def _training_env(job: Job) -> gym.Env | VectorEnv:
    return make_training_env(job["agent"], job["env"], job["num_envs"], **job["env_options"])


def _means(result: EvaluationResult) -> dict[str, float]:
    return {name: result.mean(name) for name in result.values}


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


def steps_until(history: list[dict[str, float]], threshold: float) -> float:
    """Steps until the first evaluation that reaches the threshold; infinite if none does."""
    return next((p["timesteps"] for p in history if p["return"] >= threshold), np.inf)


def best_average(returns: Sequence[float]) -> float:
    """The best mean of `AVERAGED` episodes in a row among the first `WITHIN`; NaN for fewer."""
    returns = np.array(returns[:WITHIN])
    if len(returns) < AVERAGED:
        return np.nan
    sums = np.cumsum(np.insert(returns, 0, 0.0))
    return float((sums[AVERAGED:] - sums[:-AVERAGED]).max() / AVERAGED)


def _steps(steps: float) -> str:
    return f"{steps:.0f}" if np.isfinite(steps) else "never"
