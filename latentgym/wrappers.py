"""Wrappers for vector environments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper


class FlattenInfos(VectorWrapper):
    """Flatten nested infos: ``infos["scores/realism"]`` for ``infos["scores"]["realism"]``.

    Masks are flattened too: ``infos["_scores/realism"]``. ``final_info`` stays a dict, whose
    entries are flat.

    TorchRL 0.14 needs this: it cannot read nested infos of any vector environment in
    `AutoresetMode.SAME_STEP`.

    Example:
        >>> import gymnasium as gym
        >>> from latentgym.wrappers import FlattenInfos
        >>> env = gym.make_vec("LatentEdit-v0", num_envs=3, autoreset_mode="SameStep")
        >>> _, infos = FlattenInfos(env).reset(seed=0)
        >>> sorted(key for key in infos if not key.startswith("_"))
        ['scores/kept', 'scores/realism', 'scores/start_realism', 'scores/target', 'target']
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.autoreset_mode: AutoresetMode = env.metadata["autoreset_mode"]

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and flatten the infos."""
        observations, infos = self.env.reset(**options)
        return observations, _flat(infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and flatten the infos."""
        *returned, infos = self.env.step(actions)
        return *returned, _flat(infos)


def _flat(infos: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in infos.items():
        if key == "final_info":
            flat[key] = _flat(value)
        elif isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}/")
        elif not key.startswith("_"):
            flat[prefix + key] = value
        elif not isinstance(infos.get(key[1:]), Mapping) or key == "_final_info":
            flat[f"_{prefix}{key[1:]}"] = value
    return flat
