"""Benchmarks of many runs: in parallel, saved after each run, resumable."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from gan_backbones.utils.files import write_atomically, write_json
from gan_backbones.utils.progress import ProgressBar
from latentgym.cli.benchmarks.timing import machine

Job = dict[str, Any]
"""All that a run depends on, as JSON can hold it; with ``label`` and ``seed``."""

Run = dict[str, Any]
"""What came of it: its ``job``, and figures."""

Row = Callable[[list[Run]], dict[str, str]]
"""The runs of one label to their cells of the table, by column."""


def find_runs(jobs: Sequence[Job], out: Path) -> dict[tuple[str, int], Run]:
    """The runs that an interrupted benchmark left in ``out``, by label and seed.

    Raises:
        ValueError: another kind of file, or one of ``jobs`` was run with other settings.
    """
    if not out.exists():
        return {}
    try:
        runs = json.loads(out.read_text())["runs"]
        found = {(run["job"]["label"], run["job"]["seed"]): run for run in runs}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{out}: not the figures of a benchmark of runs") from None
    for job in json.loads(json.dumps(jobs)):  # as the file has it: lists for tuples
        run = found.get((job["label"], job["seed"]))
        if run is not None and run["job"] != job:
            other = [name for name in job if run["job"].get(name) != job[name]]
            raise ValueError(
                f"{out}: holds a run of {job['label']} with seed {job['seed']}, but with other "
                f"{' and '.join(other)}; choose another out"
            )
    return found


def repeat_runs(
    jobs: Sequence[Job],
    run_job: Callable[[Job], Run],
    workers: int,
    out: Path,
    title: str,
    row: Row,
    brief: Callable[[Run], str],
) -> None:
    """Run what ``out`` does not hold yet, writing after each; print and write the table.

    Args:
        jobs: descriptions of the runs.
        run_job: function that does one run, on one thread; it must be picklable for several
            workers.
        workers: number of runs at once.
        out: JSON file of the figures; a markdown table goes next to it.
        title: the table's first column's heading.
        row: a row of the table.
        brief: a run in a word, for the bar.

    Raises:
        ValueError: no worker, or as :func:`find_runs`.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    runs = find_runs(jobs, out)
    missing = [job for job in jobs if (job["label"], job["seed"]) not in runs]
    with ProgressBar(total=len(jobs), initial=len(jobs) - len(missing), unit="run") as bar:
        for run in _run_all(missing, run_job, workers):
            job = run["job"]
            runs[job["label"], job["seed"]] = run
            _write(out, list(runs.values()), title, row)
            bar.set_postfix_str(f"{job['label']}, seed {job['seed']}: {brief(run)}")
            bar.update()
    print(_write(out, list(runs.values()), title, row))
    print(f"figures: {out}")


def _run_all(jobs: Sequence[Job], run_job: Callable[[Job], Run], workers: int) -> Iterator[Run]:
    if workers == 1 or not jobs:
        yield from map(run_job, jobs)
        return
    # Spawned: processes forked from here would inherit torch's threads in an undefined state.
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn"))
    try:
        with _ignored_interrupts():  # inherited by the workers, which this process ends
            futures = [pool.submit(run_job, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        for worker in active_children():
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _write(out: Path, runs: list[Run], title: str, row: Row) -> str:
    """Figures and table into their files; the table."""
    labels = dict.fromkeys(run["job"]["label"] for run in runs)
    rows = {label: row([run for run in runs if run["job"]["label"] == label]) for label in labels}
    columns = list(next(iter(rows.values())))
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(cells.values())} |" for label, cells in rows.items()]
    table = "\n".join(lines)
    report = {"machine": machine(), "summary": rows, "runs": runs}
    write_json(out, report, indent=None)
    write_atomically(out.with_suffix(".md"), (table + "\n").encode())
    return table
