"""`LatentEditGoal-v0`: edits towards goals, for agents that learn from what they missed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gan_backbones.utils.devices import plain_mode
from latentgym.envs.edit_env import NudgeEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.interfaces import GOAL_REWARDS, goal_interface, goal_reached
from latentgym.task import REWARD_ARGUMENTS


class _GoalRewards:
    """What makes an environment a goal environment: rewards of any pairs of goals, in batches."""

    def __init__(self, *args: Any, reward: str = "sparse", **task: Any):
        for name in REWARD_ARGUMENTS:
            if name in task:
                raise ValueError(
                    f"{name} is {task[name]!r}; it is no argument of goal environments, "
                    f"whose reward is one of: {', '.join(GOAL_REWARDS)}"
                )
        parts = task.get("observation")
        if parts in (["target"], ("target",)):
            raise ValueError(
                f"observation is {parts!r}; the target is in desired_goal: name another part"
            )
        self.interface = goal_interface(reward)
        self._goal_reward = GOAL_REWARDS[reward]
        super().__init__(*args, **task)

    def compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> float | np.ndarray:
        """The reward of having achieved one goal while another was desired.

        Args:
            achieved_goal: float32 ``[V + 1]``, or a batch of them ``[N, V + 1]``.
            desired_goal: of the same shape.
            info: not used; there for hindsight replay buffers.

        Returns:
            A float, or an array float32 ``[N]``.
        """
        return _on_arrays(self._goal_reward, achieved_goal, desired_goal)

    def compute_terminated(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> bool | np.ndarray:
        """Whether the edit ends there: where the goal is reached, with `terminate_on_success`."""
        reached = _on_arrays(goal_reached, achieved_goal, desired_goal)
        return reached & self.core.task.terminate_on_success

    def compute_truncated(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> bool | np.ndarray:
        """False: goals do not truncate an edit."""
        return _on_arrays(goal_reached, achieved_goal, desired_goal) & False


@plain_mode()
def _on_arrays(function: Any, achieved: np.ndarray, desired: np.ndarray) -> Any:
    """``function``, which is written for tensors, of arrays: a Python number for a single pair."""
    goals = [torch.from_numpy(np.array(goal, np.float32)) for goal in (achieved, desired)]
    result = function(*goals)
    return result.item() if result.ndim == 0 else result.numpy()


class LatentEditGoalEnv(_GoalRewards, NudgeEnv):
    """## Description

    `LatentEdit-v0` as a goal environment: the reward is a function of what was achieved and what
    was desired alone, so that hindsight replay (Andrychowicz et al. 2017) can ask what an edit
    that missed its goal would have been right for. The interface is Gymnasium-Robotics'.

    ## Action Space

    `Discrete(2 * K)`: as in `LatentEdit-v0`.

    ## Observation Space

    A `Dict` of float32 boxes (V: number of variants of all attributes):

    | Key | Length | Meaning |
    |---|---|---|
    | `observation` | | the parts named by `observation`, as in `LatentEdit-v0`, but for `target` |
    | `achieved_goal` | V + 1 | probabilities the classifier gives the current image, and realism |
    | `desired_goal` | V + 1 | one-hot of the wanted variants, and the start image's realism |

    The goal is reached where every variant that is desired with more than a half is achieved with
    more than a half, and realism is not below the one desired. What was achieved at any time can be
    desired: it then asks for all attributes at once.

    ## Rewards

    `reward="sparse"`: 0 where the goal is reached, else -1. `"dense"`: minus the mean improbability
    of the wanted variants, minus what realism lacks. `env.unwrapped.compute_reward(achieved_goal,
    desired_goal, info)` gives it for single pairs and batches; `info["rewards"]` has it as `goal`.

    ## Starting State

    As in `LatentEdit-v0`.

    ## Episode End

    Truncated by the step limit (40 by default). With `terminate_on_success` terminated where the
    goal is reached.

    ## Info

    As in `LatentEdit-v0`.

    ## Arguments

    `reward` (see above), and those of `LatentEdit-v0` that do not shape the reward.

    ## Version History

    - v0: first version.
    """  # noqa: D415


class LatentEditGoalVectorEnv(_GoalRewards, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditGoalEnv` and `EditVectorEnv`."""
