"""One training a folder: a lock that the operating system releases, however a process ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from gan_backbones.utils.files import write_atomically

LOCK, HOLDER = ".lock", ".lock.json"
"""The locked file, and what its holder says about itself: opening a lock may empty the file."""


class FolderInUseError(OSError):
    """Another process or thread writes to the folder; the message says which and since when."""


@contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Keep every other process and thread from running this block for the same folder.

    Nested calls of one thread pass. The lock ends with the process, even if it crashes or is
    killed. The folder is created if it is missing.

    Args:
        folder: where results are written.

    Raises:
        FolderInUseError: the lock is held elsewhere.
        OSError: the folder cannot be created or written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # A singleton by path, so that nested calls find the lock that they hold.
        acquired = FileLock(str(folder.resolve() / LOCK), is_singleton=True).acquire(timeout=0)
    except Timeout:
        raise FolderInUseError(f"{folder} is in use by {_holder(folder)}") from None
    with acquired as lock:
        if lock.lock_counter == 1:  # the outermost call
            holder = {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now().astimezone().isoformat(" ", "seconds"),
            }
            write_atomically(folder / HOLDER, json.dumps(holder).encode())
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                (folder / HOLDER).unlink(missing_ok=True)


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):  # it has only just begun
        return "another process"
