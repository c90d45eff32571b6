"""The command that plots learning curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from gan_backbones.utils.files import check_output_file
from latentgym.cli.arguments import check_seed
from latentgym.cli.pictures import save_curves
from latentgym.cli.runs import Run, read_history, read_run


def plot(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    metric: str = "return",
    seed: int = 0,
    out: Path = Path("runs/curve.png"),
) -> None:
    """Plot learning curves: the mean over seeds with a 95 % bootstrap band.

    Runs that differ in nothing but the seed are one curve.

    Args:
        runs: folders that `latentgym train` wrote.
        metric: quantity to plot: return, length, is_success, ...
        seed: random seed of the bootstrap.
        out: file of the picture.
    """
    if not runs:
        raise ValueError("runs is empty; expected folders that latentgym train wrote")
    check_seed(seed)
    check_output_file(out, ".png", ".jpg", ".pdf", ".svg")
    found = [(read_run(run), read_history(run)) for run in runs]
    for folder, (_, history) in zip(runs, found, strict=True):
        names = [name for name in history[0] if name != "timesteps"]
        if metric not in names:
            raise ValueError(f"{folder}: unknown metric {metric!r}; allowed: {', '.join(names)}")
    save_curves(out, *curves_of(found, metric, seed))
    print(out)


def curves_of(
    runs: Sequence[tuple[Run, list[dict[str, float]]]], metric: str, seed: int
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], str, str, int]:
    """Arguments of `save_curves`: by label the steps ``[T]`` and values ``[seeds, T]``, and more.

    Seeds may have been evaluated at slightly different steps: they are interpolated to those of
    the first, as far as all of them go.
    """
    groups: dict[str, list[tuple[Run, list[dict[str, float]]]]] = {}
    for run, history in runs:
        groups.setdefault(json.dumps(_settings(run), sort_keys=True), []).append((run, history))
    told = [json.loads(group) for group in groups]
    curves = {}
    for mine, members in zip(told, groups.values(), strict=True):
        steps = [np.array([p["timesteps"] for p in history]) for _, history in members]
        values = [np.array([p[metric] for p in history]) for _, history in members]
        common = steps[0][steps[0] <= min(s[-1] for s in steps)]
        rows = [np.interp(common, s, v) for s, v in zip(steps, values, strict=True)]
        count = f"{len(rows)} seeds" if len(rows) > 1 else f"seed {members[0][0]['seed']}"
        curves[f"{_label(mine, told)} ({count})"] = common, np.stack(rows)
    envs = dict.fromkeys(run["env"] for run, _ in runs)
    return curves, metric, ", ".join(envs), seed


def _settings(run: Run) -> dict[str, Any]:
    """What makes two runs repetitions of each other, flat."""
    kept = {name: run[name] for name in ("agent", "env", "timesteps", "num_envs")}
    return {**kept, **run["env_options"], **run["hyperparameters"]}


def _label(mine: dict[str, Any], all_settings: list[dict[str, Any]]) -> str:
    """Agent, and what of its settings sets it apart from the same agent's other curves."""
    peers = [other for other in all_settings if other["agent"] == mine["agent"]]
    parts = [mine["agent"]]
    for name in dict.fromkeys(name for peer in peers for name in peer):
        if any(peer.get(name) != mine.get(name) for peer in peers):
            parts.append(f"{name}={mine.get(name, 'default')}")
    return ", ".join(parts)
