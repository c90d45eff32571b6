"""The command that evaluates a trained agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

import latentgym  # noqa: F401  (registers the environments)
from agents import EvaluationResult
from agents import evaluate as run_evaluation
from agents.environments import make_env
from agents.registry import Agent, load_agent
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.runs import AGENT, read_run
from latentgym.cli.tasks import (
    Pairs,
    parse_pairs,
    seeds_of,
)

TEST_EPISODES = 100


def evaluate(
    run: tyro.conf.Positional[Path],
    episodes: int = TEST_EPISODES,
    seed: int | None = None,
    env: str | None = None,
    env_args: Pairs = (),
    render: bool = False,
) -> None:
    """Evaluate a trained agent greedily: means and 95 % bootstrap intervals.

    Args:
        run: folder that `latentgym train` wrote.
        episodes: number of episodes.
        seed: random seed of the environments; by default the run's own test seed.
        env: environment to evaluate in; by default the one it was trained in.
        env_args: arguments of the environment that differ from training.
        render: also show one episode in a window.
    """
    check_counts(episodes=episodes)
    if seed is not None:
        check_seed(seed)
    described = read_run(run)
    learner = load_agent(run / AGENT)
    env_id = env or described["env"]
    options = {**described["env_options"], **parse_pairs(env_args, "env_args")}
    if seed is None:
        _, seed = seeds_of(described["seed"])
    rows = make_env(env_id, min(episodes, TEST_EPISODES), **options)
    print(f"{described['agent']} in {env_id}: {episodes} episodes")
    print(format_intervals(run_evaluation(learner, rows, episodes, seed)))
    if render:
        _show(learner, make_env(env_id, render_mode="human", **options), seed)


def format_intervals(result: EvaluationResult) -> str:
    """Return a table of means and 95 % bootstrap intervals."""
    lines = [f"{'':24s}{'mean':>12s}   95 % interval"]
    for name in result.values:
        low, high = result.interval(name)
        lines.append(f"{name:24s}{result.mean(name):12.3f}   {low:.3f} to {high:.3f}")
    return "\n".join(lines)


def _show(agent: Agent, env: Any, seed: int) -> None:
    """Play one episode in a window."""
    observation, _ = env.reset(seed=seed)
    over = False
    while not over:
        action, _ = agent.predict(observation, deterministic=True)
        observation, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
    env.close()
