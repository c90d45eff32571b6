"""How an agent touches the core: what it may do, what it sees, and what it is paid.

An editing environment is the core behind one of these; single and vector environment share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gymnasium import spaces

from latentgym.core import COMPONENTS, EditCore, Rows
from latentgym.scores import LOG_FLOOR

Observation = torch.Tensor | dict[str, torch.Tensor]

NUDGE_KEYS = "qawsedrftgyhujikol1z2x3c4v5b6n7m"
"""One key per action: what raises a direction lies above what lowers it."""


# Actions ------------------------------------------------------------------------------------------


def nudge_space(core: EditCore) -> spaces.Discrete:
    """Up and down along each direction."""
    return spaces.Discrete(2 * len(core.directions))


def nudge(core: EditCore, actions: torch.Tensor) -> torch.Tensor:
    """Actions int64 ``[N]`` to latent moves ``[N, latent_dim]``."""
    return core.nudges[actions]


def nudge_keys(core: EditCore) -> dict[tuple[int, ...], int]:
    """Keys to actions, in the form that Gymnasium's ``play`` takes; as many as there are keys."""
    keys = NUDGE_KEYS[: 2 * len(core.directions)]
    return {(ord(key),): action for action, key in enumerate(keys)}


def blend_space(core: EditCore) -> spaces.Box:
    """How far along each direction, as a share of delta."""
    return spaces.Box(-1.0, 1.0, (len(core.directions),), np.float32)


def blend(core: EditCore, actions: torch.Tensor) -> torch.Tensor:
    """Actions float32 ``[N, K]`` to latent moves ``[N, latent_dim]``."""
    # In double precision, so that rounding does not depend on the company.
    return (core.task.delta * (actions.double() @ core.directions.double())).float()


# Observations -------------------------------------------------------------------------------------


def vector_space(core: EditCore, parts: tuple[str, ...] | None = None) -> spaces.Box:
    """The box of the task's observation parts, or of ``parts``."""
    size, bound, latent_dim = core.schema.size, core.task.latent_bound, core.backbone.latent_dim
    bound = math.sqrt(latent_dim) if bound == "sphere" else bound
    bounds = {
        "latent": (latent_dim, -bound, bound),
        "target": (size, 0.0, 1.0),
        "start": (size, 0.0, 1.0),
        "attributes": (size, LOG_FLOOR, 0.0),
        "realism": (2, 0.0, 1.0),
    }
    chosen = [bounds[name] for name in parts or core.task.observation]
    low = np.concatenate([np.full(length, low, np.float32) for length, low, _ in chosen])
    high = np.concatenate([np.full(length, high, np.float32) for length, _, high in chosen])
    return spaces.Box(low, high, dtype=np.float32)


def vector(core: EditCore, rows: Rows, parts: tuple[str, ...] | None = None) -> torch.Tensor:
    """The task's observation parts, or ``parts``, side by side: float32 ``[N, D]``."""
    shown = {
        "latent": lambda: core.latents[rows],
        "target": lambda: core.wanted[rows],
        "start": lambda: core.start_seen[rows],
        "attributes": lambda: core.attributes[rows],
        "realism": lambda: torch.sigmoid(
            torch.stack([core.realism[rows], core.start_realism[rows]], dim=1)
        ),
    }
    return torch.cat([shown[name]() for name in parts or core.task.observation], dim=1)


def picture_space(core: EditCore) -> spaces.Dict:
    """The image as ``[H, W, C]`` and the target."""
    channels, height, width = core.image_shape
    return spaces.Dict(
        {
            "image": spaces.Box(0, 255, (height, width, channels), np.uint8),
            "target": vector_space(core, ("target",)),
        }
    )


def picture(core: EditCore, rows: Rows) -> dict[str, torch.Tensor]:
    """The current images uint8 ``[N, H, W, C]`` and targets ``[N, V]``."""
    images = core.pictures[rows].permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    return {"image": images, "target": core.wanted[rows].clone()}


def goal_space(core: EditCore) -> spaces.Dict:
    """What is seen beside the goal, what was achieved, and what is desired."""
    goal = spaces.Box(0.0, 1.0, (core.schema.size + 1,), np.float32)
    return spaces.Dict(
        {
            "observation": vector_space(core, goal_free_parts(core)),
            "achieved_goal": goal,
            "desired_goal": goal,
        }
    )


def goal(core: EditCore, rows: Rows) -> dict[str, torch.Tensor]:
    """The observation parts but for the target, and the two goals."""
    return {
        "observation": vector(core, rows, goal_free_parts(core)),
        "achieved_goal": achieved_goal(core, rows),
        "desired_goal": desired_goal(core, rows),
    }


def achieved_goal(core: EditCore, rows: Rows) -> torch.Tensor:
    """Probabilities of all variants, and realism: ``[N, V + 1]``."""
    realism = torch.sigmoid(core.realism[rows])
    return torch.cat([core.attributes[rows].exp(), realism[:, None]], dim=1)


def desired_goal(core: EditCore, rows: Rows) -> torch.Tensor:
    """One-hot of the target, and the start's realism: ``[N, V + 1]``."""
    realism = torch.sigmoid(core.start_realism[rows])
    return torch.cat([core.wanted[rows], realism[:, None]], dim=1)


def goal_free_parts(core: EditCore) -> tuple[str, ...]:
    """The observation parts that do not say what is wanted."""
    return tuple(part for part in core.task.observation if part != "target")


# Rewards ------------------------------------------------------------------------------------------


def improvement(
    core: EditCore, rows: Rows, components: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The core's components as they are, and their sum."""
    return components.sum(dim=0), dict(zip(COMPONENTS, components.unbind(), strict=True))


def resting(core: EditCore, rows: Rows) -> torch.Tensor:
    """Whether the edits may rest where they are, bool ``[N]``."""
    return core.resting[rows]


def goal_reached(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """Whether every wanted variant is more likely than not, and realism no less than desired.

    Args:
        achieved: probabilities of all variants, and realism: ``[..., V + 1]``.
        desired: as achieved; a variant is wanted if it has more than a half. What was achieved
            once may therefore be desired, as hindsight relabelling does.

    Returns:
        Bool ``[...]``.
    """
    wanted = desired[..., :-1] > 0.5
    seen = (achieved[..., :-1] > 0.5) | ~wanted
    return seen.all(-1) & (achieved[..., -1] >= desired[..., -1])


def sparse_reward(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """0 where the goal is reached, else -1: ``[...]``."""
    return goal_reached(achieved, desired).float() - 1


def dense_reward(achieved: torch.Tensor, desired: torch.Tensor) -> torch.Tensor:
    """Minus the mean improbability of the wanted variants, and what realism lacks: ``[...]``."""
    wanted = (desired[..., :-1] > 0.5).float()
    lacking = (wanted * (1 - achieved[..., :-1])).sum(-1) / wanted.sum(-1).clamp(min=1)
    return -lacking - (desired[..., -1] - achieved[..., -1]).clamp(min=0)


GOAL_REWARDS = {"sparse": sparse_reward, "dense": dense_reward}


def _goal_paid(
    core: EditCore, rows: Rows, components: torch.Tensor, kind: str
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    reward = GOAL_REWARDS[kind](achieved_goal(core, rows), desired_goal(core, rows))
    return reward, {"goal": reward.clone()}


def _goal_resting(core: EditCore, rows: Rows) -> torch.Tensor:
    return goal_reached(achieved_goal(core, rows), desired_goal(core, rows))


# Interfaces ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interface:
    """What tells one editing environment from another.

    Attributes:
        action_space: of one row.
        moves: actions to latent moves ``[N, latent_dim]``.
        observation_space: of one row.
        observe: the rows' observations, batched; fresh memory.
        rewards: the rows, and the core's components ``[len(COMPONENTS), N]``, to the reward
            ``[N]`` and what it consists of.
        reached: where an edit that terminates on success ends, bool ``[N]``.
        keep_pictures: whether the observations need the images.
    """

    action_space: Callable[[EditCore], spaces.Space] = nudge_space
    moves: Callable[[EditCore, torch.Tensor], torch.Tensor] = nudge
    observation_space: Callable[[EditCore], spaces.Space] = vector_space
    observe: Callable[[EditCore, Rows], Observation] = vector
    rewards: Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]] = improvement
    reached: Callable[[EditCore, Rows], torch.Tensor] = resting
    keep_pictures: bool = False


DISCRETE = Interface()
CONTINUOUS = Interface(action_space=blend_space, moves=blend)
PIXELS = Interface(observation_space=picture_space, observe=picture, keep_pictures=True)


def goal_interface(reward: str) -> Interface:
    """Goal-conditioned, with a reward of `GOAL_REWARDS`.

    Raises:
        ValueError: an unknown reward.
    """
    if reward not in tuple(GOAL_REWARDS):
        raise ValueError(f"reward is {reward!r}; allowed: {', '.join(GOAL_REWARDS)}")
    return Interface(
        observation_space=goal_space,
        observe=goal,
        rewards=partial(_goal_paid, kind=reward),
        reached=_goal_resting,
    )
