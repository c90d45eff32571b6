"""Results that take long to compute from networks, kept on disk for later processes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from gan_backbones.utils.files import read_safetensors, write_safetensors

FORMAT = "latentgym-cache-1"
VARIABLE = "LATENTGYM_CACHE"
"""The environment variable that moves the cache."""

TOLERANCE = 1e-3
"""How far outputs may lie apart: other processors and numbers of threads round differently."""


def cache_folder() -> Path:
    """Return the folder of the cache: ``LATENTGYM_CACHE``, or ``latentgym`` in the user's own."""
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentgym"


def cached(
    name: str,
    networks: Sequence[nn.Module],
    settings: Mapping[str, Any],
    outputs: torch.Tensor,
    compute: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Return what ``compute`` returned before for the same networks and settings, or call it.

    An entry is found by the networks' weights and the settings. It is used only if ``outputs`` are
    those it was made with, since weights do not tell what the code around them does. Of several
    processes one computes and the others wait for it. A damaged entry is computed again; without a
    folder to write to nothing is kept.

    Args:
        name: what is computed: the beginning of the file's name.
        networks: what the result depends on.
        settings: what else it depends on; plain JSON data.
        outputs: what the networks return for a few fixed inputs, on the CPU.
        compute: called without arguments.

    Returns:
        The tensor, on the CPU.
    """
    file = cache_folder() / f"{name}-{_key(networks, settings)}.safetensors"
    found = _read(file, outputs)
    if found is None:
        with _lock(file):
            found = _read(file, outputs)  # another process may have been first
            if found is None:
                found = compute()
                with contextlib.suppress(OSError):
                    tensors = {"result": found.contiguous(), "outputs": outputs.contiguous()}
                    write_safetensors(file, tensors, {"format": FORMAT})
    return found


def _read(file: Path, outputs: torch.Tensor) -> torch.Tensor | None:
    if not file.exists():
        return None
    try:
        _, tensors = read_safetensors(file, "cached result", FORMAT)
        result, known = tensors["result"], tensors["outputs"]
    except (KeyError, OSError, ValueError):  # damaged, or of another version
        return None
    same = known.shape == outputs.shape and torch.allclose(known, outputs, TOLERANCE, TOLERANCE)
    return result if same else None


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Let one process after the other run the block, where files can be locked."""
    lock = FileLock(f"{file}.lock")
    with contextlib.suppress(NotImplementedError, OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()  # does nothing if it is not held


def _key(networks: Sequence[nn.Module], settings: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for network in networks:
        for name, tensor in network.state_dict().items():
            values = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy())
    return digest.hexdigest()
