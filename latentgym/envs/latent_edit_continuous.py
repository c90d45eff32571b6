"""`LatentEditContinuous-v0`: edit an image by moving its latent along all directions at once."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from latentgym.envs.edit_env import EditEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.envs.editing import Editing


class _ContinuousEditing(Editing):
    """Moves along all directions at once."""

    def make_action_space(self) -> spaces.Box:
        """Return the box of moves along each direction, as shares of delta."""
        return spaces.Box(-1.0, 1.0, (len(self.core.directions),), np.float32)

    def to_moves(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the latent moves ``[N, latent_dim]`` of actions float32 ``[N, K]``."""
        # In double precision, so that rounding does not depend on the other rows.
        directions = self.core.directions.double()
        return (self.core.task.delta * (actions.double() @ directions)).float()


class LatentEditContinuousEnv(_ContinuousEditing, EditEnv):
    """## Description

    `LatentEdit-v0` with continuous actions: each step moves the latent along all directions at
    once, each as far as the agent likes up to `delta`.

    ## Action Space

    `Box(-1, 1, (K,), float32)`: the latent moves by `delta` times the sum of the K directions, each
    times its action. With `directions="coordinates"` K is the latent's length. Values outside the
    box are refused, not clipped.

    ## Observation Space, Rewards, Starting State, Episode End, Info, Arguments

    As in `LatentEdit-v0` (`latentgym.envs.LatentEditEnv`). The step limit is 20, as a step can go
    farther; a smaller `delta` makes gentler edits.

    ## Version History

    - v0: first version.
    """  # noqa: D415


class LatentEditContinuousVectorEnv(_ContinuousEditing, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditContinuousEnv` and `EditVectorEnv`."""
