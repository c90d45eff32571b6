"""Backbones whose networks are graph files: one alone, or several that a JSON manifest names."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

from gan_backbones.backbone import ROLES, Backbone, BackboneError
from gan_backbones.loading.graphs import latent_shape, read_network
from gan_backbones.loading.wrapping import wrap

KEYS = tuple(inspect.signature(wrap).parameters)


def read_manifest(path: str | Path) -> Backbone:
    """Read a backbone that a JSON file describes: the arguments of `wrap`, with files for networks.

    For example::

        {
            "generator": "digits.onnx",
            "latent_dim": 8,
            "value_range": [0, 1],
            "classifier": "classifier.ts",
            "schema": {"digit": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}
        }

    Files are relative to the manifest; see `read_network` for what they may be, and for whose to
    trust. ``latent_dim`` may be left out where the generator tells the shape of its latents.

    Raises:
        BackboneError: the file is missing or no such JSON, or one that it names is wrong.
    """
    path = Path(path)
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BackboneError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(arguments, dict) or arguments.get("generator") is None:
        raise BackboneError(f"{path}: not a manifest; expected a JSON object with a generator")
    return _wrap(path, arguments)


def files_of_manifest(path: str | Path) -> list[Path]:
    """Return the files that a manifest names, or none if it cannot be read."""
    path = Path(path)
    try:
        arguments = json.loads(path.read_text(encoding="utf-8"))
        return [path.parent / arguments[role] for role in ROLES if arguments.get(role)]
    except (AttributeError, OSError, TypeError, ValueError):
        return []


def read_generator(path: str | Path) -> Backbone:
    """Read one graph file as a backbone that has a generator alone, of images in [-1, 1].

    Raises:
        BackboneError: the file is missing or damaged, or does not tell the shape of its latents.
    """
    return _wrap(Path(path), {"generator": Path(path).name})


def _wrap(path: Path, arguments: dict[str, Any]) -> Backbone:
    unknown = sorted(set(arguments) - set(KEYS))
    if unknown:
        raise BackboneError(f"{path}: unknown key {unknown[0]!r}; allowed: {', '.join(KEYS)}")
    networks = {}
    for role in ROLES:
        if (file := arguments.get(role)) is None:
            continue
        if not isinstance(file, str):
            raise BackboneError(f"{path}: {role} is {file!r}; expected a file's path")
        networks[role] = read_network(path.parent / file)
    try:
        if "latent_dim" not in arguments:
            shape = latent_shape(networks["generator"])
            if shape is None:
                raise BackboneError(
                    f"{arguments['generator']} does not tell the shape of its latents; "
                    "name latent_dim in a manifest"
                )
            arguments = {"latent_dim": math.prod(shape), "latent_shape": shape, **arguments}
        return wrap(**{"name": path.stem, **arguments, **networks})
    except (TypeError, ValueError) as error:
        raise BackboneError(f"{path}: {error}") from None
