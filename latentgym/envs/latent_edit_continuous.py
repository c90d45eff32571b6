"""`LatentEditContinuous-v0`: edit an image by moving its latent along all directions at once."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from latentgym.envs.edit_env import EditEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.envs.latent_edit import LatentEditRules


class LatentEditContinuousRules(LatentEditRules):
    """`LatentEdit-v0` with moves along all directions at once."""

    def make_action_space(self) -> spaces.Space:
        """Return `Box(-1, 1, (K,))`: the move along each direction, as a share of delta."""
        return spaces.Box(-1.0, 1.0, (len(self.core.directions),), np.float32)

    def latent_moves(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the moves float32 ``[N, latent_dim]`` of actions float32 ``[N, K]``."""
        # In double precision, so that rounding does not depend on the other rows.
        moves = self.core.task.delta * (actions.double() @ self.core.directions.double())
        return moves.float()


class LatentEditContinuousEnv(LatentEditContinuousRules, EditEnv):
    """## Description

    `LatentEdit-v0` with continuous actions: each step moves the latent along all directions at
    once, by up to `delta` each.

    ## Action Space

    `Box(-1, 1, (K,), float32)`: the latent moves by `delta` times the sum of the K directions, each
    times its action. With `directions="coordinates"` K is the latent's length. Values outside the
    box raise an error; they are not clipped.

    ## Observation Space, Rewards, Starting State, Episode End, Info, Arguments

    As in `LatentEdit-v0` (`latentgym.envs.LatentEditEnv`). The step limit is 20, as one step can
    move farther; a smaller `delta` makes gentler edits.

    ## Version History

    - v0: first version.
    """  # noqa: D415


class LatentEditContinuousVectorEnv(LatentEditContinuousRules, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditContinuousEnv` and `EditVectorEnv`."""
