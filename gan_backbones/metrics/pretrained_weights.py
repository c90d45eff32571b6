"""Pretrained weights on this disk: where they are looked for, and how they are checked.

Nothing here downloads. Weights that are missing are named, with where they are to be had.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

WEIGHTS_VARIABLE = "LATENTGYM_WEIGHTS_DIR"
"""Environment variable that names a folder of pretrained weights."""


class WeightsError(ValueError):
    """Pretrained weights are missing, damaged, or not those that were asked for."""


def cache_folder() -> Path:
    """Where torch keeps downloaded weights; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(names: tuple[str, ...], path: str | Path | None, advice: str) -> Path:
    """The first of ``names`` that is there.

    Args:
        names: file names, the preferred one first; may hold folders ("weights/alexnet.ckpt").
        path: the file itself or a folder to look in, and nowhere else. If None: the folder that
            ``LATENTGYM_WEIGHTS_DIR`` names, then torch's cache.
        advice: what to fetch, for the message.

    Raises:
        WeightsError: there is none.
    """
    if path is not None and Path(path).is_file():
        return Path(path)
    if path is not None:
        folders = [Path(path)]
    else:
        named = os.environ.get(WEIGHTS_VARIABLE)
        folders = [*([Path(named)] if named else []), cache_folder()]
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    places = " or ".join(str(folder) for folder in folders)
    raise WeightsError(
        f"{names[-1]} is not in {places}. {advice}, then name it as weights=, or put it into the "
        f"folder that {WEIGHTS_VARIABLE} names or into {cache_folder()}"
    )


def check_sha256(path: Path, data: bytes, expected: str) -> None:
    """Compare a file's content with the hash it must have.

    Raises:
        WeightsError: another hash.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise WeightsError(f"{path}: its SHA-256 is {found}; it must be {expected}")
