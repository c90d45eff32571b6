"""The command line: `latentgym demo | train | evaluate | plot | play | ... | benchmark ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from latentgym.cli.agent_benchmarks import benchmark_ablation, benchmark_agents
from latentgym.cli.agent_speed import benchmark_agent_speed
from latentgym.cli.backbones import benchmark_backbone, train_backbone
from latentgym.cli.choices import benchmark_choices
from latentgym.cli.edits import demo
from latentgym.cli.explore import explore
from latentgym.cli.gan_ablation import benchmark_gan_ablation
from latentgym.cli.gan_speed import benchmark_gan_training
from latentgym.cli.play import play
from latentgym.cli.throughput import benchmark_throughput
from latentgym.cli.training import evaluate, plot, train

COMMANDS = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "plot": plot,
    "play": play,
    "train-backbone": train_backbone,
    "explore": explore,
}
BENCHMARKS = {
    "ablation": benchmark_ablation,
    "agent-speed": benchmark_agent_speed,
    "agents": benchmark_agents,
    "backbone": benchmark_backbone,
    "choices": benchmark_choices,
    "gan-ablation": benchmark_gan_ablation,
    "gan-training": benchmark_gan_training,
    "throughput": benchmark_throughput,
}

DESCRIPTION = f"""Steering a frozen image generator as a reinforcement-learning task.

Besides the subcommands below: latentgym benchmark {{{",".join(BENCHMARKS)}}} measures."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; a wrong input ends it with one line, not a traceback."""
    args = list(sys.argv[1:] if args is None else args)
    commands, prog, description = COMMANDS, "latentgym", DESCRIPTION
    if args[:1] == ["benchmark"]:
        commands, prog, args = BENCHMARKS, "latentgym benchmark", args[1:]
        description = "Measure agents, a backbone, the task's settings, or the environments' speed."
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, description=description, args=args
        )
    except (FloatingPointError, ModuleNotFoundError, OSError, ValueError) as error:
        sys.exit(f"latentgym: {error}")
    except KeyboardInterrupt:
        sys.exit("latentgym: interrupted")
