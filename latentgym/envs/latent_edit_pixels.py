"""`LatentEditPixels-v0`: edit an image, seeing the image instead of its latent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from latentgym.core import Rows
from latentgym.envs.edit_rules import Observation
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.envs.latent_edit import LatentEditRules, NudgeEnv


class LatentEditPixelsRules(LatentEditRules):
    """`LatentEdit-v0` with observations of the image and the target."""

    observes_pictures = True

    def __init__(self, *args: Any, **task: Any):
        if "observation" in task:
            raise ValueError(
                f"observation is {task['observation']!r}; it is no argument of pixel environments"
            )
        super().__init__(*args, **task)

    def make_observation_space(self) -> spaces.Space:
        """Return the space of the image ``[H, W, C]`` and the target."""
        channels, height, width = self.core.image_shape
        return spaces.Dict(
            {
                "image": spaces.Box(0, 255, (height, width, channels), np.uint8),
                "target": self.flat_space(("target",)),
            }
        )

    def observe(self, rows: Rows) -> Observation:
        """Return the current images uint8 ``[N, H, W, C]`` and targets float32 ``[N, V]``."""
        assert self.core.pictures is not None
        images = self.core.pictures[rows].permute(0, 2, 3, 1)
        return {
            "image": images.clone(memory_format=torch.contiguous_format),
            "target": self.core.wanted[rows].clone(),
        }


class LatentEditPixelsEnv(LatentEditPixelsRules, NudgeEnv):
    """## Description

    `LatentEdit-v0` as a person would play it: the agent sees the picture and the target, but
    neither the latent nor any score.

    ## Action Space

    `Discrete(2 * K)`: as in `LatentEdit-v0`.

    ## Observation Space

    A `Dict`:

    | Key | Space | Meaning |
    |---|---|---|
    | `image` | `Box(0, 255, (H, W, C), uint8)` | the current image; C is 1 (gray) or 3 (RGB) |
    | `target` | `Box(0, 1, (V,), float32)` | one-hot of the wanted variants; zero where free |

    ## Rewards, Starting State, Episode End, Info, Arguments

    As in `LatentEdit-v0` (`latentgym.envs.LatentEditEnv`), without the argument `observation`.

    ## Version History

    - v0: first version.
    """  # noqa: D415


class LatentEditPixelsVectorEnv(LatentEditPixelsRules, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditPixelsEnv` and `EditVectorEnv`."""
