"""Runs of agents for the benchmarks: trained, tested, and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorEpisodeStatistics

import latentgym  # noqa: F401  (registers the environments)
from agents import EvalCallback, EvaluationResult, evaluate
from agents.environments import make_env
from agents.hyperparameters import Settings
from agents.registry import make_agent, make_training_env
from agents.training import train
from latentgym.cli.benchmarks.repeated_runs import Job, Row, Run, repeat_runs
from latentgym.cli.tasks import seeds_of, training_options

EVERY = 2000  # steps between evaluations


EVALUATION_EPISODES = 10


TEST_EPISODES = 100


def job_of(
    label: str,
    kind: str,
    env_id: str,
    seed: int,
    timesteps: int | None,
    options: dict[str, Any],
    known: Settings,
    changes: dict[str, Any],
) -> Job:
    """Describe one run: ``known`` settings, with ``changes`` to the hyper-parameters."""
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
    record: Any = (
        RecordVectorEpisodeStatistics if isinstance(env, VectorEnv) else RecordEpisodeStatistics
    )
    env = record(env, buffer_length=job["timesteps"] + 1)  # no episode is forgotten
    agent = make_agent(job["agent"], env, seed, **job["hyperparameters"])
    best = EvalCallback(
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


def run_benchmark(jobs: Sequence[Job], workers: int, out: Path, row: Row) -> None:
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
