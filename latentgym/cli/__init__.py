"""The command line: `latentgym demo | train | evaluate | plot | play | ... | benchmark ...`.

A command's module is imported when the command is called, since importing all takes seconds.
"""

from __future__ import annotations

import difflib
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    module: str
    function: str
    summary: str
    """First line of the function's docstring."""


COMMANDS = {
    "demo": Command(
        "demo",
        "demo",
        "Watch an agent learn to change faces: a few minutes on two cores, no GPU needed.",
    ),
    "train": Command(
        "train",
        "train",
        "Train an agent, keep the best of its networks, and test it on other starts.",
    ),
    "evaluate": Command(
        "evaluate",
        "evaluate",
        "Evaluate a trained agent greedily: means and 95 % bootstrap intervals.",
    ),
    "plot": Command(
        "plot",
        "plot",
        "Plot learning curves: the mean over seeds with a 95 % bootstrap band.",
    ),
    "play": Command(
        "play",
        "play",
        "Edit images by hand: choose a direction, move along it, undo, save.",
    ),
    "train-backbone": Command(
        "train_backbone",
        "train_backbone",
        "Train a generator, discriminator, classifier and judge on a folder of images.",
    ),
    "explore": Command(
        "explore",
        "explore",
        "Draw pictures of a generator's latent space: walks, sweeps, truncation, nearest images.",
    ),
}
BENCHMARKS = {
    "dqn-ablation": Command(
        "benchmarks.dqn_ablation",
        "benchmark_dqn_ablation",
        "Compare DQN without and with each of its parts: learning curve and final performance.",
    ),
    "agent-speed": Command(
        "benchmarks.agent_speed",
        "benchmark_agent_speed",
        "Time DQN's `learn` and the replay buffer against Stable-Baselines3's, on one thread.",
    ),
    "agents": Command(
        "benchmarks.agents",
        "benchmark_agents",
        "Compare agents over seeds: greedy returns, steps until solved, training returns, speed.",
    ),
    "backbone": Command(
        "benchmarks.backbone",
        "benchmark_backbone",
        "Measure a backbone on held-out images: accuracies, agreement, dropped modes, precision.",
    ),
    "env-ablation": Command(
        "benchmarks.env_ablation",
        "benchmark_env_ablation",
        "Compare settings of LatentEdit-v0: gradient reference, myopic gradient, random and DQN.",
    ),
    "gan-ablation": Command(
        "benchmarks.gan_ablation",
        "benchmark_gan_ablation",
        "Compare ways of training a GAN at equal budget, in the features of a judge of its own.",
    ),
    "gan-training": Command(
        "benchmarks.gan_training",
        "benchmark_gan_training",
        "Time the GAN trainer against a plain fp32 loop, in turns, on the CPU.",
    ),
    "throughput": Command(
        "benchmarks.throughput",
        "benchmark_throughput",
        "Measure LatentEdit-v0's speed, accuracy and memory, each as a ratio within this one run.",
    ),
}
DESCRIPTION = "Steering a frozen image generator as a reinforcement-learning task."
BENCHMARK = "benchmark"
BENCHMARK_SUMMARY = "Measure agents, a backbone, the task's settings, or the environments' speed."

# Of too little memory, or no GPU: torch raises errors of general classes.
TORCH_SAYS = (
    "CUDA out of memory",
    "DefaultCPUAllocator",
    "NVIDIA driver",
    "No CUDA GPUs",
    "Torch not compiled with CUDA",
    "invalid device ordinal",
)

INTERRUPTED, PIPE_CLOSED = 130, 141  # exit codes, as of programs that the signal ends


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; wrong input ends it with one line, not a traceback."""
    try:
        _replace_unprintable_characters()
        try:
            _run(list(sys.argv[1:] if args is None else args))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as in `latentgym --help | head -1`
        # What is still buffered would raise the error again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except KeyboardInterrupt:
        print("latentgym: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not _is_expected(error):
            raise
        sys.exit(f"latentgym: {_line(error)}")


def _run(args: list[str]) -> None:
    """Call the command that ``args`` names, or print the list of commands."""
    prog, description, commands = "latentgym", DESCRIPTION, COMMANDS
    summaries = {name: command.summary for name, command in commands.items()}
    summaries[BENCHMARK] = BENCHMARK_SUMMARY
    if args[:1] == [BENCHMARK]:
        prog, description, commands = f"latentgym {BENCHMARK}", BENCHMARK_SUMMARY, BENCHMARKS
        summaries = {name: command.summary for name, command in commands.items()}
        args = args[1:]
    if not args or args[0].startswith("-"):
        _list_parser(prog, description, summaries).parse_args(args or ["--help"])
        return
    name, *options = args
    if name not in commands:
        raise ValueError(f"unknown command {name!r}; {_suggestion(name, prog, summaries)}")
    _call(commands[name], f"{prog} {name}", options)


def _call(command: Command, prog: str, options: list[str]) -> None:
    import tyro  # not needed to list the commands

    module = import_module(f"latentgym.cli.{command.module}")
    tyro.cli(getattr(module, command.function), prog=prog, args=options)


def _list_parser(prog: str, description: str, summaries: Mapping[str, str]) -> ArgumentParser:
    """A parser whose help is the list of commands."""
    parser = ArgumentParser(
        prog, description=description, epilog=f"{prog} COMMAND --help explains a command."
    )
    parser.add_argument("--version", action="version", version=f"latentgym {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, summary in summaries.items():
        commands.add_parser(name, help=summary.replace("%", "%%"))
    return parser


def _suggestion(name: str, prog: str, summaries: Mapping[str, str]) -> str:
    if name in BENCHMARKS:
        return f"did you mean '{BENCHMARK} {name}'?"
    close = difflib.get_close_matches(name, summaries, n=1)
    return f"did you mean {close[0]!r}?" if close else f"{prog} --help lists all"


def _version() -> str:
    from importlib import metadata  # slow to import

    try:
        return metadata.version("latentgym")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _replace_unprintable_characters() -> None:
    """Print `?` for what the terminal cannot show, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in notebooks
            stream.reconfigure(errors="replace")


def _is_expected(error: Exception) -> bool:
    """Whether its message alone helps; others are faults of the program."""
    expected = (FloatingPointError, MemoryError, ModuleNotFoundError, OSError, ValueError)
    return isinstance(error, expected) or any(text in str(error) for text in TORCH_SAYS)


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or "not enough memory"  # a MemoryError has no text
