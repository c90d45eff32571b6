"""`LatentEditPixels-v0`: edit an image, seeing the image instead of its latent."""

from __future__ import annotations

from typing import Any

from latentgym.envs.edit_env import NudgeEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.interfaces import PIXELS


class _Pixels:
    """What makes an environment one of pixels."""

    interface = PIXELS

    def __init__(self, *args: Any, **task: Any):
        if "observation" in task:
            raise ValueError(
                f"observation is {task['observation']!r}; it is no argument of pixel environments"
            )
        super().__init__(*args, **task)


class LatentEditPixelsEnv(_Pixels, NudgeEnv):
    """## Description

    `LatentEdit-v0` as a person would play it: the agent sees the picture and what is asked for,
    neither the latent nor any score.

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


class LatentEditPixelsVectorEnv(_Pixels, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditPixelsEnv` and `EditVectorEnv`."""
