"""The methods by which one editing environment differs from another."""

from __future__ import annotations

import torch
from gymnasium import spaces

from latentgym.core import EditCore, Rows

Observation = torch.Tensor | dict[str, torch.Tensor]


class EditRules:
    """Actions, observations, rewards and ends of an editing environment, on top of the core.

    Single and vector environment of one id inherit the same subclass, so its rules are written
    once. Everything is batched: ``rows`` are those of the core.

    Attributes:
        core: the core of the environment.
        observes_pictures: whether observations need the images.
    """

    core: EditCore
    observes_pictures: bool = False

    def make_action_space(self) -> spaces.Space:
        """Return the action space of one row."""
        raise NotImplementedError

    def latent_moves(self, actions: torch.Tensor) -> torch.Tensor:
        """Return what actions ``[N, ...]`` add to the latents: float32 ``[N, latent_dim]``."""
        raise NotImplementedError

    def make_observation_space(self) -> spaces.Space:
        """Return the observation space of one row."""
        raise NotImplementedError

    def observe(self, rows: Rows) -> Observation:
        """Return the rows' observations, in memory of their own."""
        raise NotImplementedError

    def reward(
        self, rows: Rows, components: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the reward ``[N]`` of a step, and its components by name for the infos.

        Args:
            rows: rows that were moved.
            components: float32 ``[len(COMPONENTS), N]`` from `EditCore.step`.
        """
        raise NotImplementedError

    def should_terminate(self, rows: Rows) -> torch.Tensor:
        """Return where an edit ends with ``terminate_on_success``, bool ``[N]``."""
        raise NotImplementedError
