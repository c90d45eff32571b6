"""The rules that an editing environment adds to its core: actions, observations, rewards, ends.

The single and the vector environment of one id share one subclass of :class:`Editing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces

from latentgym.core import COMPONENTS, EditCore, Rows
from latentgym.scores import LOG_FLOOR


class Editing:
    """`LatentEdit-v0`: nudges, a flat observation, and rewards for what a nudge improved.

    Attributes:
        core: the rows of edits; `Rows` are those to act on.
        needs_images: whether observations show the images, which the core then keeps.
    """

    core: EditCore
    needs_images: ClassVar[bool] = False

    def make_action_space(self) -> spaces.Space:
        """Return the action space of one row: up and down along each direction."""
        return spaces.Discrete(2 * len(self.core.directions))

    def to_moves(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the latent moves ``[N, latent_dim]`` of a batch of actions."""
        return self.core.nudges[actions]

    def make_observation_space(self) -> spaces.Space:
        """Return the observation space of one row."""
        return vector_space(self.core, self.core.task.observation)

    def observe(self, rows: Rows) -> Any:
        """Return the rows' observations, a tensor ``[N, D]`` or a dict of tensors; new memory."""
        return vector(self.core, rows, self.core.task.observation)

    def to_rewards(
        self, rows: Rows, components: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the rewards ``[N]``, and their parts by name.

        Args:
            rows: the rows that moved.
            components: what the core's scores improved, ``[len(COMPONENTS), N]``.
        """
        return components.sum(dim=0), dict(zip(COMPONENTS, components.unbind(), strict=True))

    def should_terminate(self, rows: Rows) -> torch.Tensor:
        """Return where an edit ends if ``terminate_on_success`` is set, bool ``[N]``."""
        return self.core.goal_reached[rows]


def vector_space(core: EditCore, parts: Sequence[str]) -> spaces.Box:
    """Return the box of some parts of the observation, in this order."""
    size, bound, latent_dim = core.schema.size, core.task.latent_bound, core.backbone.latent_dim
    limit = math.sqrt(latent_dim) if isinstance(bound, str) else bound
    bounds = {
        "latent": (latent_dim, -limit, limit),
        "target": (size, 0.0, 1.0),
        "start": (size, 0.0, 1.0),
        "attributes": (size, LOG_FLOOR, 0.0),
        "realism": (2, 0.0, 1.0),
    }
    chosen = [bounds[name] for name in parts]
    low = np.concatenate([np.full(length, low, np.float32) for length, low, _ in chosen])
    high = np.concatenate([np.full(length, high, np.float32) for length, _, high in chosen])
    return spaces.Box(low, high, dtype=np.float32)


def vector(core: EditCore, rows: Rows, parts: Sequence[str]) -> torch.Tensor:
    """Return some parts of the observation as one vector per row, float32 ``[N, D]``."""
    values = {
        "latent": lambda: core.latents[rows],
        "target": lambda: core.wanted[rows],
        "start": lambda: core.start_seen[rows],
        "attributes": lambda: core.attributes[rows],
        "realism": lambda: torch.sigmoid(
            torch.stack([core.realism[rows], core.start_realism[rows]], dim=1)
        ),
    }
    return torch.cat([values[name]() for name in parts], dim=1)
