"""The command that shows an agent learn to edit."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym

import latentgym  # noqa: F401  (registers the environments)
from agents import EvalCallback
from agents.hyperparameters import settings
from agents.registry import make_agent
from agents.training import train
from gan_backbones.utils.files import check_output_folder
from gan_backbones.utils.locks import folder_lock
from latentgym.cli.arguments import check_seed
from latentgym.cli.edit_report import describe_target, report_edits
from latentgym.cli.tasks import (
    DEFAULT_TARGET,
    ENV,
    Target,
    seeds_of,
    task_options,
    training_options,
)

DEMO_TIMESTEPS = 120_000
EVALUATIONS = 10


def demo(target: Target = DEFAULT_TARGET, seed: int = 0, out: Path = Path("runs/demo")) -> None:
    """Watch an agent learn to change faces: a few minutes on two cores, no GPU needed.

    Args:
        target: what the edited image should show.
        seed: random seed.
        out: folder for the pictures and figures.
    """
    check_seed(seed)
    check_output_folder(out)
    with folder_lock(out):
        _demo(target, seed, out)


def _demo(target: tuple[str, ...], seed: int, out: Path) -> None:
    known, options = settings("dqn", ENV), task_options(ENV, target, ())
    count, fast = known.num_envs, training_options(ENV, options)
    print(f"{ENV}: edit faces towards {describe_target(options['target'])}")
    agent = make_agent("dqn", gym.make_vec(ENV, count, **fast), seed, **known.hyperparameters)
    selection_seed, _ = seeds_of(seed)
    best = EvalCallback(
        gym.make_vec(ENV, count, **fast), DEMO_TIMESTEPS // EVALUATIONS, count, selection_seed
    )
    training = train(agent, DEMO_TIMESTEPS, best, progress_bar=True)
    best.restore(agent)
    agent.save(out / "agent.safetensors")
    run = {
        "env_options": options,
        "seed": seed,
        "timesteps": DEMO_TIMESTEPS,
        "hyperparameters": known.hyperparameters,
    }
    for name in [
        *report_edits(agent, best.history, run, training.seconds, out),
        "learning_curve.png",
        "agent.safetensors",
    ]:
        print(out / name)
