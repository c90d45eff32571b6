"""What `DQN` and `Reinforce` share as Python objects: they can be copied and pickled."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

from gymnasium.vector import VectorEnv

logger = logging.getLogger("agents")


class BaseAgent:
    """An agent whose copies learn on by themselves, exactly as it would.

    ``copy.deepcopy`` and ``pickle`` take networks, optimizers, replay, random states and the
    environment along. An environment that cannot be copied or pickled is left out, and a warning
    says so: give the copy another by ``set_env``. Callbacks are never taken along.
    """

    env: VectorEnv | None = None
    _callbacks: list[Any]

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_callbacks": []}
        try:
            pickle.dumps(self.env)
        except Exception as error:  # pickle lets through whatever an environment raises
            state["env"] = _left_out(error)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseAgent:
        copied = memo[id(self)] = object.__new__(type(self))
        state = {**vars(self), "_callbacks": []}
        try:
            copy.deepcopy(self.env, memo)
        except Exception as error:  # likewise
            state["env"] = _left_out(error)
        vars(copied).update(copy.deepcopy(state, memo))
        return copied


def _left_out(error: Exception) -> None:
    reason = " ".join(str(error).split())
    logger.warning("the copy has no environment, as it cannot be copied (%s); call set_env", reason)
