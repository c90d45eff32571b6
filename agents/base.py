"""What `DQN` and `Reinforce` share as Python objects: they can be copied and pickled."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gymnasium.vector import AsyncVectorEnv, VectorEnv

logger = logging.getLogger("agents")


class Agent(Protocol):
    """What agents of all kinds have: ours and Stable-Baselines3's; see `agents.DQN`."""

    num_timesteps: int

    def learn(self, total_timesteps: Any, callback: Any = (), progress_bar: bool = False) -> Agent:
        """Learn for so many more steps."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
    ) -> tuple[Any, Any]:
        """Return actions for observations."""

    def get_parameters(self) -> dict[str, Any]:
        """Return the networks' parameters."""

    def set_parameters(self, parameters: Any) -> None:
        """Take over what :meth:`get_parameters` returned."""

    def save(self, path: str | Path) -> None:
        """Write the agent to one file, for `agents.registry.load_agent`."""


class BaseAgent:
    """An agent whose copies learn on by themselves, exactly as it would.

    ``copy.deepcopy`` and ``pickle`` take networks, optimizers, replay, random states and the
    environment along. An environment that cannot be copied or pickled is left out, and a warning
    says so: give the copy another by ``set_env``. Callbacks are never taken along.
    """

    env: VectorEnv | None = None
    _callbacks: list[Any]

    def __getstate__(self) -> dict[str, Any]:
        return self._state(pickle.dumps)

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseAgent:
        copied = memo[id(self)] = object.__new__(type(self))
        state = self._state(functools.partial(copy.deepcopy, memo=memo))
        vars(copied).update(copy.deepcopy(state, memo))
        return copied

    def _state(self, copy_env: Callable[[VectorEnv], Any]) -> dict[str, Any]:
        """All attributes, with the environment if ``copy_env`` does not fail."""
        state = {**vars(self), "_callbacks": []}
        try:
            if self.env is not None and isinstance(self.env.unwrapped, AsyncVectorEnv):
                # To try would close the pipes to its processes.
                raise TypeError("it has processes of its own")
            copy_env(self.env)
        except Exception as error:  # whatever an environment raises
            reason = " ".join(str(error).split())
            logger.warning(
                "the copy has no environment, as it cannot be copied (%s); call set_env", reason
            )
            state["env"] = None
        return state
