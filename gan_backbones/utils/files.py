"""Files a user can trust: written whole or not at all, checked, and read without running code."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

CHECKED = "+crc32"
"""Ends the format of a file that must hold a checksum. Older files have none and are still read."""


# Before the work ----------------------------------------------------------------------------------


def check_output_folder(folder: str | Path, argument: str = "out") -> None:
    """Make a folder for outputs and check that files can be written into it.

    Call it before the work, so that nothing is lost at its end.

    Args:
        folder: made if it is missing, with its parents.
        argument: name of the option, for the message.

    Raises:
        ValueError: it is a file, or cannot be made or written into.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{argument} is {folder}, which is a file; expected a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{argument} is {folder}, which cannot be written to ({reason})") from None


def check_output_file(file: str | Path, *endings: str, argument: str = "out") -> None:
    """Make the folder of an output file and check that the file can be written.

    Args:
        file: may exist already.
        endings: those allowed, such as ``".json"``; none allows all.
        argument: name of the option, for the message.

    Raises:
        ValueError: it is a folder, cannot be written, or has another ending.
    """
    file = Path(file)
    if endings and file.suffix.lower() not in endings:
        raise ValueError(f"{argument} is {file}; expected a file that ends in {', '.join(endings)}")
    if file.is_dir():
        raise ValueError(f"{argument} is {file}, which is a folder; expected a file")
    check_output_folder(file.parent, f"folder of {argument}")


# Writing ------------------------------------------------------------------------------------------


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to a temporary file in the same folder, then rename it.

    Raises:
        OSError: it could not be written; its ``filename`` is ``path``. An older file stays.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)  # mkstemp makes the file private to its owner
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_json(path: str | Path, data: Any, indent: int | None = 1) -> None:
    """Write JSON data atomically.

    Raises:
        OSError: as :func:`write_atomically`.
    """
    write_atomically(path, (json.dumps(data, indent=indent) + "\n").encode())


def write_safetensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors, metadata and a checksum of both to one safetensors file, atomically.

    Args:
        path: the file.
        tensors: contiguous, on the CPU; no two share memory.
        metadata: with the file's ``"format"``.

    Raises:
        OSError: as :func:`write_atomically`.
    """
    metadata = {**metadata, "format": metadata["format"] + CHECKED}
    metadata["checksum"] = _checksum(tensors, metadata)
    write_atomically(path, save(dict(tensors), metadata))


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make errors of the system name ``path``, where they name a temporary file or none."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


# Reading ------------------------------------------------------------------------------------------


def read_format(path: str | Path) -> str | None:
    """Return the format that a safetensors file names, without :data:`CHECKED`.

    Raises:
        ValueError: the file is missing or damaged.
    """
    metadata, _ = _read(path, with_tensors=False)
    return _format_of(metadata)


def read_safetensors(
    path: str | Path, kind: str, file_format: str
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return metadata and tensors of a file of :func:`write_safetensors`.

    Args:
        path: the file.
        kind: what it should hold, for the message: "backbone".
        file_format: the expected ``"format"`` in its metadata.

    Raises:
        ValueError: the file is missing, damaged, or of another format.
    """
    metadata, tensors = _read(path)
    if _format_of(metadata) != file_format:
        raise ValueError(
            f"{path}: not a {kind}; its format is {_format_of(metadata)!r}, "
            f"expected {file_format!r}"
        )
    if metadata["format"] != file_format:
        checksum = metadata.pop("checksum", None)
        if checksum != _checksum(tensors, metadata):
            raise ValueError(f"{path}: damaged; its content does not match its checksum")
    return metadata, tensors


def _read(
    path: str | Path, with_tensors: bool = True
) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if with_tensors else ()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or not a safetensors file ({error})") from None


def _format_of(metadata: Mapping[str, str]) -> str | None:
    return metadata["format"].removesuffix(CHECKED) if "format" in metadata else None


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of metadata and of the tensors' names, types, shapes and values."""
    total = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"
