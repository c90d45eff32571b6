"""Timing of contenders against each other in one run, because machines are noisy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gan_backbones.utils.progress import ProgressBar


def race(
    contenders: dict[str, Callable[[], Any]],
    seconds: float,
    calls: int = 1,
    progress: str | None = None,
) -> dict[str, float]:
    """Seconds per call: the median over rounds of ``calls``, interleaved, so noise affects all.

    Args:
        contenders: functions by name; each is first called twice.
        seconds: approximate time of each contender's rounds; there is at least one round.
        calls: number of calls per round.
        progress: title of a progress bar; None: no bar.
    """
    for call in contenders.values():
        call()
        call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    total, start = seconds * len(contenders), time.perf_counter()
    with ProgressBar(total=100, desc=progress, unit="%", disable=progress is None) as bar:
        while (elapsed := time.perf_counter() - start) < total or not any(times.values()):
            bar.update(int(100 * min(elapsed / max(total, 1e-9), 1)) - bar.n)
            for name, call in contenders.items():
                began = time.perf_counter()
                for _ in range(calls):
                    call()
                times[name].append((time.perf_counter() - began) / calls)
        bar.update(100 - bar.n)
    return {name: float(np.median(spent)) for name, spent in times.items()}


def print_table(name: str, rows: dict[str, dict[str, float]]) -> None:
    """One row a contender, in markdown, past a progress bar."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    ProgressBar.write(f"\n| {name} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for label, row in rows.items():
        cells = [f"{row[key]:.4g}" if key in row else "" for key in columns]
        ProgressBar.write(f"| {label} | {' | '.join(cells)} |")


def machine() -> str:
    """What the figures were measured on, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {device}, torch {torch.__version__}"
