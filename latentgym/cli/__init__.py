"""The command line: `latentgym demo | train | train-backbone | benchmark`."""

from __future__ import annotations

import sys

import tyro

from gan_backbones import BackboneError
from gan_backbones.datasets import DatasetError
from latentgym.cli.backbones import benchmark, train_backbone
from latentgym.cli.edits import demo, train

COMMANDS = {
    "demo": demo,
    "train": train,
    "train-backbone": train_backbone,
    "benchmark": benchmark,
}


def main(args: list[str] | None = None) -> None:
    """Run one command; a wrong input ends it with one line, not a traceback."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="latentgym",
            description="Steering a frozen image generator as a reinforcement-learning task.",
            args=args,
        )
    except (BackboneError, DatasetError, ModuleNotFoundError, ValueError) as error:
        sys.exit(f"latentgym: {error}")
    except KeyboardInterrupt:
        sys.exit("latentgym: interrupted")
