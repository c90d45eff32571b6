"""The folder of a run, as `latentgym train` writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# In the folder of a run.
AGENT, RUN, HISTORY = "agent.safetensors", "run.json", "history.json"


Run = dict[str, Any]


RUN_KEYS = ("agent", "env", "env_options", "seed", "timesteps", "num_envs", "hyperparameters")


def read_run(folder: Path) -> Run:
    """Return what `train` wrote about a run.

    Raises:
        ValueError: the folder holds no run, or the file is damaged.
    """
    run = _read(folder, RUN)
    missing = [key for key in RUN_KEYS if not isinstance(run, dict) or key not in run]
    if missing:
        raise ValueError(f"{folder / RUN}: damaged (it lacks {', '.join(missing)})")
    return run


def read_history(folder: Path) -> list[dict[str, float]]:
    """Return a run's evaluations.

    Raises:
        ValueError: the folder holds no finished run, or the file is damaged.
    """
    history = _read(folder, HISTORY)
    is_list = isinstance(history, list) and all(isinstance(entry, dict) for entry in history)
    if not (is_list and history and all("timesteps" in entry for entry in history)):
        raise ValueError(f"{folder / HISTORY}: damaged; expected a list of evaluations")
    return history


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder}: no {name}; expected a folder of latentgym train") from None
    except ValueError as error:
        raise ValueError(f"{folder / name}: damaged ({error})") from None
