"""`LatentEditPixels-v0`: edit an image, seeing the image instead of its latent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from latentgym.core import Rows
from latentgym.envs.edit_env import NudgeEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.envs.editing import Editing, vector_space


class _PixelEditing(Editing):
    """Observes the image and the target."""

    needs_images = True

    def __init__(self, *args: Any, **task: Any):
        if "observation" in task:
            raise ValueError(
                f"observation is {task['observation']!r}; it is no argument of pixel environments"
            )
        super().__init__(*args, **task)

    def make_observation_space(self) -> spaces.Dict:
        """Return the space of an image ``[H, W, C]`` and the target."""
        channels, height, width = self.core.image_shape
        return spaces.Dict(
            {
                "image": spaces.Box(0, 255, (height, width, channels), np.uint8),
                "target": vector_space(self.core, ("target",)),
            }
        )

    def observe(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Return the current images uint8 ``[N, H, W, C]`` and targets ``[N, V]``."""
        assert self.core.pictures is not None
        images = self.core.pictures[rows].permute(0, 2, 3, 1)
        return {
            "image": images.clone(memory_format=torch.contiguous_format),
            "target": self.core.wanted[rows].clone(),
        }


class LatentEditPixelsEnv(_PixelEditing, NudgeEnv):
    """## Description

    `LatentEdit-v0` as a person would play it: the agent sees the image and the target, but neither
    the latent nor any score.

    ## Action Space

    `Discrete(2 * K)`: as in `LatentEdit-v0`.

    ## Observation Space

    A `Dict`:

    | Key | Space | Meaning |
    |---|---|---|
    | `image` | `Box(0, 255, (H, W, C), uint8)` | the current image; C is 1 (grey) or 3 (RGB) |
    | `target` | `Box(0, 1, (V,), float32)` | one-hot of the wanted variants; zero where free |

    ## Rewards, Starting State, Episode End, Info, Arguments

    As in `LatentEdit-v0` (`latentgym.envs.LatentEditEnv`), but for `observation`, which is not an
    argument here.

    ## Version History

    - v0: first version.
    """  # noqa: D415


class LatentEditPixelsVectorEnv(_PixelEditing, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditPixelsEnv` and `EditVectorEnv`."""
