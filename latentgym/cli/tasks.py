"""What commands that train agents have in common: tasks, their arguments, and streams of seeds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import tyro

from agents.environments import registered_id
from gan_backbones.utils.devices import computes_in_bf16

# Streams of seeds that never meet: training, choosing the best network, and the final test.
SELECTION_SEED, TEST_SEED = 1_000_000, 2_000_000

PYTHON_WORDS = {"True": True, "False": False, "None": None}

ENV = "LatentEdit-v0"
DEFAULT_TARGET = ("hairColor=a55728",)

Target = Annotated[
    tuple[str, ...],
    tyro.conf.arg(metavar="ATTRIBUTE=VARIANT", help="what the edited image should show"),
]
Pairs = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=JSON ...")]


def seeds_of(seed: int) -> tuple[int, int]:
    """Return the seeds of the environments for model selection and for the test."""
    return SELECTION_SEED + 1000 * seed, TEST_SEED + 1000 * seed


def parse_target(target: tuple[str, ...], argument: str = "target") -> dict[str, str]:
    """``("hairColor=a55728",)`` to ``{"hairColor": "a55728"}``."""
    pairs = [item.partition("=") for item in target]
    for item, (name, equals, variant) in zip(target, pairs, strict=True):
        if not (name and equals and variant):
            raise ValueError(f"{argument} is {item!r}; expected ATTRIBUTE=VARIANT")
    return {name: variant for name, _, variant in pairs}


def parse_pairs(pairs: tuple[str, ...], argument: str) -> dict[str, Any]:
    """``("gamma=0.9", "net_arch=[64, 64]")`` to a dict.

    Values are JSON or Python's ``True``, ``False`` and ``None``; all else is text.

    Args:
        pairs: names and values.
        argument: the option they belong to, for the message.
    """
    values: dict[str, Any] = {}
    for item in pairs:
        name, equals, text = item.partition("=")
        if not (name and equals):
            raise ValueError(f"{argument} is {item!r}; expected NAME=JSON")
        try:
            values[name] = PYTHON_WORDS[text] if text in PYTHON_WORDS else json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def is_edit(env_id: str) -> bool:
    """Whether it is one of the environments that edit images."""
    return registered_id(env_id).startswith("LatentEdit")


def task_options(env_id: str, target: tuple[str, ...], env_args: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of an environment: for edits, a target, and an end at success."""
    given = parse_pairs(env_args, "env_args")
    if is_edit(env_id):
        wanted = parse_target(target or DEFAULT_TARGET)
        return {"target": wanted, "terminate_on_success": True, **given}
    if target:
        raise ValueError(f"target is {' '.join(target)}; {env_id} has none")
    return given


def training_options(env_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """The same for learning, where speed counts more than the last digit of a score."""
    bf16 = computes_in_bf16(torch.device("cpu"))
    return {"bf16": bf16, **options} if is_edit(env_id) else options
