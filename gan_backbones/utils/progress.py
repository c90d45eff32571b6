"""Progress bars for terminals, notebooks and log files."""

from __future__ import annotations

import sys
from threading import RLock
from typing import Any, TextIO

from tqdm import tqdm

INTERVAL = 30.0
"""Seconds between two lines in a log file."""


class ProgressBar(tqdm):
    """A tqdm bar that prints plain lines where a line cannot be overwritten, as in a log file.

    It prints one every :data:`INTERVAL` seconds and one at the end. On terminals and in notebooks
    it is tqdm's own bar.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._redraws = _can_redraw(kwargs.get("file") or sys.stderr)
        self._printed_at = 0.0  # seconds after the start
        if not self._redraws:
            # `gui` leaves the printing to this class; without columns there is only the text;
            # without smoothing the rate is that of the whole time.
            kwargs |= {"gui": True, "ncols": 0, "smoothing": 0}
        super().__init__(*args, **kwargs)

    def display(self, *args: Any, **kwargs: Any) -> None:
        if self._redraws:
            super().display(*args, **kwargs)
        elif self.format_dict["elapsed"] - self._printed_at >= INTERVAL:
            self._print_line()

    def clear(self, *args: Any, **kwargs: Any) -> None:
        if self._redraws:
            super().clear(*args, **kwargs)

    def close(self) -> None:
        shown = not self.disable and self.format_dict["elapsed"] >= self.delay
        prints_last_line = shown and not self._redraws
        super().close()
        if prints_last_line:
            self._print_line()

    def _print_line(self) -> None:
        self._printed_at = self.format_dict["elapsed"]
        self.fp.write(f"{self}\n")
        self.fp.flush()


# tqdm's own lock takes a semaphore of the system, which a killed process would leave behind.
ProgressBar.set_lock(RLock())


def _can_redraw(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal or a notebook."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")
