"""`latentgym/CartPolePixels-v1`: CartPole observed as the difference of two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from latentgym.envs.cartpole import START_BOUND, CartPoleEnv, CartPoleVectorEnv, Drawing
from latentgym.envs.interrupts import Undo
from latentgym.rendering.frame import load_pygame

# The rows of Gymnasium's picture that show cart and pole, counted from the lower edge.
STRIP_BOTTOM, STRIP_HEIGHT = 80, 160
BLOCK = 4
SHAPE = (STRIP_HEIGHT // BLOCK, 600 // BLOCK, 1)
NO_CHANGE = 128


class CartPolePixelsEnv(CartPoleEnv):
    """## Description

    The cart-pole of :class:`CartPoleEnv`, observed from pixels: the agent sees how the picture
    changed in the last step, and has to infer from it where cart and pole are and how they move. A
    classic exercise for convolutional networks.

    ## Action Space

    `Discrete(2)`: 0 pushes the cart to the left, 1 to the right.

    ## Observation Space

    A uint8 `Box` of shape `(40, 150, 1)`, height, width and one gray channel, as convolutional
    policies such as Stable-Baselines3's `CnnPolicy` expect. A pixel is

        128 + (now - before) // 2

    where `now` and `before` are its gray values, 0 to 255, in the pictures after and before the
    last step: 128 where nothing changed, more where it became lighter, less where it became
    darker. After `reset` all pixels are 128.

    The pictures are Gymnasium's, 600 x 400, cropped to rows 160 to 319, which show cart and pole,
    and reduced to the mean, rounded down, of each block of 4 x 4 pixels. Gray is the green channel:
    255 for the background, 152 for the pole, 0 for the cart. Gymnasium draws at whole pixels (a
    pixel is 0.008 units of position), so smaller movements are invisible.

    ## Rewards

    As in :class:`CartPoleEnv`: `reward="classic"` or `"shaped"`.

    ## Starting State

    As in :class:`CartPoleEnv`.

    ## Episode End

    As in :class:`CartPoleEnv`; the step limit is 500 by default.

    ## Info

    As in :class:`CartPoleEnv`.

    ## Arguments

    As in :class:`CartPoleEnv`. `render` shows Gymnasium's whole picture.

    ## Version History

    - v1: first version.
    """  # noqa: D415

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.observation_space = observation_space()
        self._camera = Camera()
        self._picture = np.zeros(SHAPE, dtype=np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode; see :meth:`CartPoleEnv.reset`."""
        with self._undo() as undo:
            if self._np_random is not None:
                undo.remember([self._np_random])
            _, info = super().reset(seed=seed, options=options)
            self._picture = self._camera.picture(self, self.state)
            return difference(self._picture, self._picture), info

    def step(
        self, action: int | np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the cart; see :meth:`CartPoleEnv.step`."""
        with self._undo():
            _, reward, terminated, truncated, info = super().step(action)
            before, self._picture = self._picture, self._camera.picture(self, self.state)
            return difference(before, self._picture), reward, terminated, truncated, info

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue a saved episode; see :meth:`CartPoleEnv.set_state`."""
        super().set_state(state)
        self._picture = self._camera.picture(self, self.state)

    def _undo(self) -> Undo:
        return super()._undo().add(self, ("_picture",))


class CartPolePixelsVectorEnv(CartPoleVectorEnv):
    """Many cart-poles observed from pixels: see :class:`CartPolePixelsEnv`.

    Arguments and rows are as in :class:`CartPoleVectorEnv`: row ``i`` equals a single environment
    exactly.
    """

    def __init__(self, num_envs: int = 1, **options: Any):
        super().__init__(num_envs, **options)
        self.single_observation_space = observation_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._camera = Camera()
        self._pictures_now = np.zeros((num_envs, *SHAPE), dtype=np.uint8)
        self._differences = np.zeros((num_envs, *SHAPE), dtype=np.uint8)

    def get_state(self) -> dict[str, Any]:
        """Return all that the future depends on; see :meth:`CartPoleVectorEnv.get_state`."""
        return super().get_state() | {"observations": self._differences.copy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue saved episodes; see :meth:`CartPoleVectorEnv.set_state`."""
        super().set_state(state)
        for row in range(self.num_envs):
            self._pictures_now[row] = self._camera.picture(self, self.state[:, row])
        self._differences = state["observations"].copy()

    def _move(
        self, actions: np.ndarray, moved: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outcomes = super()._move(actions, moved)
        self._pictures_now, self._differences = self._pictures_now.copy(), self._differences.copy()
        for row in np.flatnonzero(moved):
            picture = self._camera.picture(self, self.state[:, row])
            self._differences[row] = difference(self._pictures_now[row], picture)
            self._pictures_now[row] = picture
        return outcomes

    def _reset_rows(
        self,
        mask: np.ndarray,
        undo: Undo,
        low: float = -START_BOUND,
        high: float = START_BOUND,
    ) -> None:
        super()._reset_rows(mask, undo, low, high)
        self._pictures_now, self._differences = self._pictures_now.copy(), self._differences.copy()
        for row in np.flatnonzero(mask):
            self._pictures_now[row] = self._camera.picture(self, self.state[:, row])
        self._differences[mask] = NO_CHANGE

    def _undo(self) -> Undo:
        return super()._undo().add(self, ("_pictures_now", "_differences"))

    def _observations(self) -> np.ndarray:
        return self._differences.copy()


def observation_space() -> spaces.Box:
    """Return the space of one observation."""
    return spaces.Box(0, 255, SHAPE, np.uint8)


def difference(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return how a gray picture changed, uint8: `NO_CHANGE` where it did not."""
    return (NO_CHANGE + (now.astype(np.int16) - before) // 2).astype(np.uint8)


class Camera:
    """Gymnasium's drawing of a cart-pole, cropped, gray and reduced in size."""

    def __init__(self):
        # Gymnasium draws from the lower edge: a lower picture only lacks the empty top.
        self._drawing = Drawing(STRIP_BOTTOM + STRIP_HEIGHT)

    def picture(self, env: CartPoleEnv | CartPoleVectorEnv, state: np.ndarray) -> np.ndarray:
        """Return the gray picture of a state ``[4]`` of ``env``, uint8 `SHAPE`."""
        surface, surfarray = self._drawing.draw(env, state), load_pygame().surfarray
        # A copy, since a surface cannot be drawn on while its pixels are referenced.
        gray = surfarray.pixels_green(surface)[:, :STRIP_HEIGHT].T.astype(np.uint16)
        # Far faster than numpy's sum over an axis.
        rows = gray[0::BLOCK] + gray[1::BLOCK] + gray[2::BLOCK] + gray[3::BLOCK]
        blocks = rows[:, 0::BLOCK] + rows[:, 1::BLOCK] + rows[:, 2::BLOCK] + rows[:, 3::BLOCK]
        return (blocks // BLOCK**2).astype(np.uint8)[..., None]
