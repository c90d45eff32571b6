"""Contents of agents' files: descriptions, weights, and states as nested dicts and lists.

Also the state of environments, which a resumed learner needs to continue its episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import nn

from agents.space_json import space_to_json

KINDS = {torch.Tensor: "tensor", np.ndarray: "array", np.generic: "number"}


def pack(state: Any, tensors: dict[str, torch.Tensor], name: str = "") -> Any:
    """Return the state as JSON data; its tensors, arrays and NumPy numbers go into ``tensors``.

    Args:
        state: nested dicts (with names as keys) and lists of them and of plain data.
        tensors: filled, named by the way that leads there: ``"buffer/links"``.
        name: the way so far.
    """
    if isinstance(state, Mapping):
        return {k: pack(v, tensors, f"{name}/{k}" if name else k) for k, v in state.items()}
    if isinstance(state, (list, tuple)):
        return [pack(value, tensors, f"{name}/{i}") for i, value in enumerate(state)]
    for kind, called in KINDS.items():
        if isinstance(state, kind):
            if kind is not torch.Tensor:
                state = torch.from_numpy(np.array(state))
            tensors[name] = state.detach().cpu().contiguous()
            return {f"${called}": name}
    return state


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`; tuples come back as lists.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(packed, list):
        return [unpack(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        ((key, name),) = packed.items()
        if key == "$tensor":
            return tensors[name]
        if key == "$array":
            return tensors[name].numpy()
        if key == "$number":
            return tensors[name].numpy()[()]
    return {key: unpack(value, tensors) for key, value in packed.items()}


def get_env_state(env: VectorEnv) -> dict[str, Any] | None:
    """Return the state of ``env``, or ``None`` if it has no ``get_state``.

    A plain `SyncVectorEnv` has a state if all its environments have ``get_state``, under no other
    wrappers than those that ``gym.make`` adds.
    """
    if hasattr(env, "get_state"):
        return {"vector": env.get_state()}
    if type(env) is not SyncVectorEnv:
        return None
    rows = [_row_state(row) for row in env.envs]
    if None in rows:
        return None
    return {"rows": rows, "ended": env._autoreset_envs.tolist()}


def set_env_state(env: VectorEnv, state: Mapping[str, Any]) -> None:
    """Set ``env`` to the state that `get_env_state` returned for one like it.

    Raises:
        ValueError: it is another environment.
    """
    if "vector" in state and hasattr(env, "set_state"):
        env.set_state(state["vector"])
        return
    if "rows" not in state or type(env) is not SyncVectorEnv:
        raise ValueError(f"the saved state is not one of {env}")
    env.reset()  # wrappers ask for it
    for row, saved in zip(env.envs, state["rows"], strict=True):
        limits, inner = _unwrapped(row)
        if inner is None or len(limits) != len(saved["elapsed"]):
            raise ValueError(f"the saved state is not one of {row}")
        for limit, elapsed in zip(limits, saved["elapsed"], strict=True):
            limit._elapsed_steps = elapsed
        inner.set_state(saved["state"])
    env._autoreset_envs[:] = state["ended"]


def _row_state(env: gym.Env) -> dict[str, Any] | None:
    limits, inner = _unwrapped(env)
    if inner is None:
        return None
    return {"elapsed": [limit._elapsed_steps for limit in limits], "state": inner.get_state()}


def _unwrapped(env: gym.Env) -> tuple[list[TimeLimit], Any]:
    """Return the step limits, and the inner environment, or ``None`` if it has no full state."""
    limits = []
    while isinstance(env, (TimeLimit, OrderEnforcing, PassiveEnvChecker)):
        if isinstance(env, TimeLimit):
            limits.append(env)
        env = env.env
    known = not isinstance(env, gym.Wrapper) and hasattr(env, "get_state")
    return limits, env if known else None


def describe(
    file_format: str,
    hyperparameters: Mapping[str, Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
) -> dict[str, str]:
    """Return the metadata of an agent's file."""
    return {
        "format": file_format,
        # NumPy's numbers are not JSON.
        "hyperparameters": json.dumps(hyperparameters, default=lambda number: number.item()),
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
    }


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ValueError for weights that are not finite: they must not replace a good file."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite; nothing was saved")


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Give a network the weights that a file holds.

    Raises:
        ValueError: they are another network's; the message names the file.
    """
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        message = " ".join(str(error).split())  # it has several lines
        raise ValueError(f"{path}: the weights do not fit the agent: {message}") from None
