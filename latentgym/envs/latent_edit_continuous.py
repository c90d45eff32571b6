"""`LatentEditContinuous-v0`: edit an image by moving its latent along all directions at once."""

from __future__ import annotations

from latentgym.envs.edit_env import EditEnv
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.interfaces import CONTINUOUS


class LatentEditContinuousEnv(EditEnv):
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

    interface = CONTINUOUS


class LatentEditContinuousVectorEnv(EditVectorEnv):
    """Many edits at once: see :class:`LatentEditContinuousEnv` and `EditVectorEnv`."""

    interface = CONTINUOUS
