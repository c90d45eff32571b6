"""`LatentEditGoal-v0`: edits towards goals, for agents with hindsight experience replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from gan_backbones.utils.devices import plain_mode
from gan_backbones.utils.validation import check_choice
from latentgym.core import Rows
from latentgym.envs.edit_rules import Observation
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.envs.latent_edit import LatentEditRules, NudgeEnv
from latentgym.task import REWARD_ARGUMENTS


def goal_reached(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """Return whether every wanted variant is likely, and realism is at least the desired one.

    Args:
        achieved: probabilities of all variants, and realism: ``[..., V + 1]``.
        desired: as ``achieved``; a variant is wanted if it has more than a half. Any achieved goal
            can therefore be desired, as in hindsight relabelling.

    Returns:
        Bool ``[...]``.
    """
    is_wanted = desired[..., :-1] > 0.5
    is_met = (achieved[..., :-1] > 0.5) | ~is_wanted
    return is_met.all(-1) & (achieved[..., -1] >= desired[..., -1])


def sparse_reward(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """Return 0 where the goal is reached, else -1: ``[...]``."""
    return goal_reached(achieved, desired).float() - 1


def dense_reward(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """Return minus the wanted variants' mean ``1 - p``, minus the missing realism: ``[...]``."""
    is_wanted = (desired[..., :-1] > 0.5).float()
    lacking = (is_wanted * (1 - achieved[..., :-1])).sum(-1) / is_wanted.sum(-1).clamp(min=1)
    return -lacking - (desired[..., -1] - achieved[..., -1]).clamp(min=0)


GOAL_REWARDS = {"sparse": sparse_reward, "dense": dense_reward}


class LatentEditGoalRules(LatentEditRules):
    """`LatentEdit-v0` with observed goals, and rewards that are a function of two goals alone."""

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
        check_choice("reward", reward, GOAL_REWARDS)
        self._goal_reward = GOAL_REWARDS[reward]
        super().__init__(*args, **task)

    def make_observation_space(self) -> spaces.Space:
        """Return the space of the observation parts without the target, and of both goals."""
        goal = spaces.Box(0.0, 1.0, (self.core.schema.size + 1,), np.float32)
        return spaces.Dict(
            {
                "observation": self.flat_space(self._parts_without_target()),
                "achieved_goal": goal,
                "desired_goal": goal,
            }
        )

    def observe(self, rows: Rows) -> Observation:
        """Return the observation parts without the target, and both goals."""
        return {
            "observation": self.flat_observation(rows, self._parts_without_target()),
            "achieved_goal": self._achieved_goal(rows),
            "desired_goal": self._desired_goal(rows),
        }

    def reward(
        self, rows: Rows, components: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the reward of the goal achieved now; the core's components do not matter."""
        reward = self._goal_reward(self._achieved_goal(rows), self._desired_goal(rows))
        return reward, {"goal": reward.clone()}

    def should_terminate(self, rows: Rows) -> torch.Tensor:
        """Return where the goal is reached, see :func:`goal_reached`."""
        return goal_reached(self._achieved_goal(rows), self._desired_goal(rows))

    def compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> float | np.ndarray:
        """Return the reward of having achieved one goal while another was desired.

        Args:
            achieved_goal: float32 ``[V + 1]``, or a batch of them ``[N, V + 1]``.
            desired_goal: the same shape.
            info: ignored; hindsight replay buffers pass it.

        Returns:
            A float, or an array float32 ``[N]``.
        """
        return _on_arrays(self._goal_reward, achieved_goal, desired_goal)

    def compute_terminated(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> bool | np.ndarray:
        """Return whether the edit ends: if the goal is reached, with `terminate_on_success`."""
        is_reached = _on_arrays(goal_reached, achieved_goal, desired_goal)
        return is_reached & self.core.task.terminate_on_success

    def compute_truncated(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any = None
    ) -> bool | np.ndarray:
        """Return False: goals do not truncate an edit."""
        return _on_arrays(goal_reached, achieved_goal, desired_goal) & False

    def _achieved_goal(self, rows: Rows) -> torch.Tensor:
        """Return the probabilities of all variants, and realism: ``[N, V + 1]``."""
        realism = torch.sigmoid(self.core.realism[rows])
        return torch.cat([self.core.attributes[rows].exp(), realism[:, None]], dim=1)

    def _desired_goal(self, rows: Rows) -> torch.Tensor:
        """Return the one-hot target, and the start's realism: ``[N, V + 1]``."""
        realism = torch.sigmoid(self.core.start_realism[rows])
        return torch.cat([self.core.wanted[rows], realism[:, None]], dim=1)

    def _parts_without_target(self) -> list[str]:
        return [part for part in self.core.task.observation if part != "target"]


@plain_mode()
def _on_arrays(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    achieved: np.ndarray,
    desired: np.ndarray,
) -> Any:
    """Apply a function of tensors to arrays; a single pair gives a Python number."""
    result = function(
        torch.from_numpy(np.array(achieved, np.float32)),
        torch.from_numpy(np.array(desired, np.float32)),
    )
    return result.item() if result.ndim == 0 else result.numpy()


class LatentEditGoalEnv(LatentEditGoalRules, NudgeEnv):
    """## Description

    `LatentEdit-v0` as a goal environment: the reward depends only on the achieved and the desired
    goal. Hindsight experience replay (Andrychowicz et al. 2017) can therefore learn from an edit
    that missed its goal, as if it had aimed at what it achieved. The interface is that of
    Gymnasium-Robotics.

    ## Action Space

    `Discrete(2 * K)`: as in `LatentEdit-v0`.

    ## Observation Space

    A `Dict` of float32 boxes (V: number of variants of all attributes):

    | Key | Length | Meaning |
    |---|---|---|
    | `observation` | | the parts named by `observation`, as in `LatentEdit-v0`, without `target` |
    | `achieved_goal` | V + 1 | probabilities the classifier gives the current image, and realism |
    | `desired_goal` | V + 1 | one-hot of the wanted variants, and the start image's realism |

    The goal is reached if every variant that is desired with more than a half is achieved with
    more than a half, and realism is not below the desired one. Any achieved goal can be desired:
    it then asks for all attributes at once.

    ## Rewards

    `reward="sparse"`: 0 where the goal is reached, else -1. `"dense"`: minus the mean of `1 - p` of
    the wanted variants, minus what realism lacks. `env.unwrapped.compute_reward(achieved_goal,
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


class LatentEditGoalVectorEnv(LatentEditGoalRules, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditGoalEnv` and `EditVectorEnv`."""
