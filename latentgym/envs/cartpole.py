"""`latentgym/CartPole-v1`: Gymnasium's CartPole with reward shaping and episode statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from types import EllipsisType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import cartpole as classic
from gymnasium.vector import AutoresetMode, VectorEnv

from gan_backbones.utils.validation import check_choice
from latentgym.envs import vector_utils
from latentgym.envs.interrupts import Undo
from latentgym.envs.options import (
    VECTOR_OPTIONS,
    PlainSpec,
    check_options,
    check_render_mode,
    check_state,
    random_generator,
    read_action,
    read_bounds,
)
from latentgym.rendering.frame import Window, load_pygame, pixels, tile

if TYPE_CHECKING:
    import pygame

REWARDS = ("classic", "shaped")
OPTIONS = ("low", "high")
START_BOUND = 0.05  # Gymnasium's own


class CartPoleEnv(PlainSpec, classic.CartPoleEnv):
    """## Description

    Gymnasium's CartPole-v1: a pole stands on a cart, and the agent pushes the cart so that the pole
    does not fall. The physics and the pictures are Gymnasium's. This version adds reward shaping
    and statistics of each episode. With the same arguments, seed and actions, observations, rewards
    and ends are exactly those of CartPole-v1.

    ## Action Space

    `Discrete(2)`: 0 pushes the cart to the left, 1 to the right.

    ## Observation Space

    A float32 `Box` of shape `(4,)`:

    | Num | Meaning | Range | An episode stays within |
    |---|---|---|---|
    | 0 | cart position | ±4.8 | ±2.4 |
    | 1 | cart velocity | ±infinity | |
    | 2 | pole angle, in radians | ±0.418 (24°) | ±0.209 (12°) |
    | 3 | pole angular velocity | ±infinity | |

    ## Rewards

    The sum of the components in `info["rewards"]`:

    - `alive`: 1 for every step, including the one at which the pole falls. With
      `sutton_barto_reward=True`, 0 for every step, and -1 for the one at which the pole falls.
    - `shaping`: 0 with `reward="classic"`. With `reward="shaped"` the discounted change of a
      potential, `gamma * phi(s') - phi(s)`, where `phi = shaping_weight * (1 - |position| / 2.4) *
      (1 - |angle| / 12°)` is greatest for an upright pole in the center, and 0 in a terminal
      state. Such a term shows immediately whether a push helped, and does not change the optimal
      policy of an agent with the same discount (Ng, Harada and Russell 1999, "Policy invariance
      under reward transformations"). A state in which the step limit ends an episode is not
      terminal.

    ## Starting State

    Each value is uniformly random within ±0.05; `reset(options={"low": ..., "high": ...})` sets
    other bounds for this reset.

    ## Episode End

    Terminated when the pole leans by more than 12° or the cart's center leaves ±2.4. Truncated by
    the step limit (500 by default), which `gym.make` applies.

    ## Info

    After a step: `rewards` (see above) and `statistics` of the episode so far, which at the last
    step cover the whole episode: `return`, `length`, `mean_angle` (of the pole, absolute, in
    degrees) and `mean_position` (of the cart, absolute).

    `env.unwrapped.get_state()` and `set_state(state)` save an episode and continue it.

    ## Arguments

    | Name | Default | Meaning |
    |---|---|---|
    | `sutton_barto_reward` | `False` | the original reward, see Rewards |
    | `reward` | `"classic"` | or `"shaped"`, see Rewards |
    | `shaping_weight` | 10.0 | the potential of the upright pole in the center |
    | `gamma` | 0.99 | the discount of the agent that learns from the shaped reward |
    | `render_mode` | `None` | `"human"` or `"rgb_array"` |

    ## Version History

    - v1: first version, numbered as Gymnasium's.
    """  # noqa: D415

    state: np.ndarray  # None until the first reset, as in Gymnasium
    steps_beyond_terminated: int | None  # type: ignore[assignment]  # Gymnasium declares it as None

    def __init__(
        self, sutton_barto_reward: bool = False, render_mode: str | None = None, **reward: Any
    ):
        check_render_mode(render_mode, self.metadata["render_modes"])
        super().__init__(_flag("sutton_barto_reward", sutton_barto_reward), render_mode)
        self._episode = Episodes((), self.x_threshold, self.theta_threshold_radians, **reward)
        self._drawing = Drawing(self.screen_height)
        self._window: Window | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new episode.

        Args:
            seed: random seed of the environment's own generator.
            options: ``"low"`` and ``"high"``: bounds of the starting state's values.

        Raises:
            ValueError: an unknown option, or bounds that are not finite or not in order.
            gymnasium.error.Error: a seed that is negative or not an integer.
        """
        read_bounds(check_options(options, OPTIONS), -START_BOUND, START_BOUND)
        with self._undo() as undo:
            if self._np_random is not None:
                undo.remember([self._np_random])
            observation, info = super().reset(seed=seed, options=options)
            self._episode.reset(self.state)
            return observation, info

    def step(
        self, action: int | np.ndarray
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push the cart.

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: no episode has begun.
        """
        self._check_begun("step")
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}; allowed: {self.action_space}")
        with self._undo():
            observation, alive, terminated, truncated, _ = super().step(action)
            reward, info = self._episode.step(self.state, alive, terminated)
            return observation, float(reward), terminated, truncated, _as_numbers(info)

    def render(self) -> np.ndarray | None:
        """Return a picture uint8 ``[400, 600, 3]`` for the render mode ``"rgb_array"``."""
        if self.render_mode is None:
            return super().render()  # warns that there is no render mode
        self._check_begun("render")
        frame = pixels(self._drawing.draw(self, self.state))
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            title = self.spec.id if self.spec else type(self).__name__
            self._window = Window(title, self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def get_state(self) -> dict[str, Any]:
        """Return copies of all that the episode's future depends on: arrays and plain data.

        The step limit of ``gym.make`` is counted by a wrapper and is not part of it.
        """
        self._check_begun("get_state")
        return {
            "state": self.state.copy(),
            "terminated": self.steps_beyond_terminated is not None,
            **self._episode.get_state(),
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned, here or in another environment.

        An environment from ``gym.make`` has to be reset first, as its wrappers require. Its step
        limit continues to count from where it was.

        Raises:
            ValueError: not such a state; the current episode then continues.
        """
        if self.state is None:
            self.reset()
        check_state(state, self.get_state())
        self.np_random = random_generator(state["random"])
        self.state = state["state"].copy()
        self.steps_beyond_terminated = 0 if state["terminated"] else None
        self._episode.set_state(state)

    def _undo(self) -> Undo:
        """Return a context that undoes an interrupted block."""
        own = ("state", "steps_beyond_terminated", "_np_random", "_np_random_seed")
        return Undo((self, own), (self._episode, Episodes.CHANGING))

    def _check_begun(self, method: str) -> None:
        if self.state is None:
            raise gym.error.ResetNeeded(f"call reset before {method}")


class CartPoleVectorEnv(vector_utils.RowsVectorEnv, classic.CartPoleVectorEnv):
    """Many cart-poles at once, moved by Gymnasium's batched physics: see :class:`CartPoleEnv`.

    Row ``i`` equals a single environment with the seed ``seed + i`` and the same actions bit for
    bit: numpy rounds the entries of an array as it rounds single numbers.

    Args:
        num_envs: number of rows.
        max_episode_steps: number of steps after which rows are truncated; ``None`` or -1: never.
        render_mode: ``"rgb_array"``: :meth:`render` returns each row's picture.
        sutton_barto_reward: see :class:`CartPoleEnv`.
        autoreset_mode: what happens to a row whose episode has ended (`AutoresetMode`, or its
            value as text).
        **reward: arguments of :class:`CartPoleEnv` for the reward.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012
    state: np.ndarray  # type: ignore[assignment]  # Gymnasium declares it as None

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        sutton_barto_reward: bool = False,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        **reward: Any,
    ):
        vector_utils.check_num_envs(num_envs)
        check_render_mode(render_mode, self.metadata["render_modes"])
        super().__init__(
            num_envs,
            vector_utils.step_limit(max_episode_steps),  # type: ignore[arg-type]  # may be infinite
            render_mode,
            _flag("sutton_barto_reward", sutton_barto_reward),
        )
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.state = np.zeros((4, num_envs))
        self._episodes = Episodes(
            (num_envs,), self.x_threshold, self.theta_threshold_radians, **reward
        )
        self._begun = False
        self._drawing = Drawing(self.screen_height)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: random seed; row ``i`` gets ``seed + i``, or the i-th value of a sequence.
            options: ``"reset_mask"``: bool ``[num_envs]``; ``"low"`` and ``"high"``: bounds of the
                starting states' values, for this reset. The dict is not changed.

        Raises:
            ValueError: a seed or a mask of the wrong shape, an unknown option, or bounds that are
                not finite or not in order.
            gymnasium.error.Error: a row's seed is negative or not an integer.
        """
        checked = check_options(options, (*OPTIONS, *VECTOR_OPTIONS))
        mask = vector_utils.read_mask(checked, self.num_envs, self._begun)
        low, high = read_bounds(checked, -START_BOUND, START_BOUND)
        with self._undo() as undo:
            self._seed_rows(seed, mask)
            self._reset_rows(mask, undo, low, high)
            self._begun = True
            return self._observations(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Push all carts.

        Raises:
            ValueError: actions outside the action space.
            gymnasium.error.ResetNeeded: a row has ended in `AutoresetMode.DISABLED`.
        """
        self._check_begun("step")
        actions = read_action(self.action_space, actions)
        resetting = vector_utils.rows_to_reset(self.autoreset_mode, self.prev_done)
        with self._undo() as undo:
            return self._step(actions, resetting, undo)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Draw each row's picture uint8 ``[400, 600, 3]``, as its single environment does.

        Returns:
            ``num_envs`` pictures, or ``None`` without a render mode.
        """
        return None if self.render_mode is None else self._pictures("render")

    def render_grid(self) -> np.ndarray:
        """Tile all current pictures into one, uint8 ``[H, W, 3]``. Works without a render mode."""
        return tile(np.stack(self._pictures("render_grid")))

    def close_extras(self) -> None:
        """Do nothing: there is no window."""

    # Gymnasium's close would quit pygame, which closes the windows of other environments.
    close = VectorEnv.close

    def get_state(self) -> dict[str, Any]:
        """Return copies of all that the episodes' future depends on: arrays and plain data."""
        self._check_begun("get_state")
        return {
            "state": self.state.copy(),
            "steps": self.steps.copy(),
            "ended": self.prev_done.copy(),
            **self._episodes.get_state(),
            "random": [rng.bit_generator.state for rng in self._rngs],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned, here or in another environment.

        Raises:
            ValueError: not such a state, or one with another number of rows; the current episodes
                then continue.
        """
        if not self._begun:
            self.reset()
        check_state(state, self.get_state())
        self._set_generators([random_generator(row) for row in state["random"]])
        self.state = state["state"].copy()
        self.steps = state["steps"].copy()
        self.prev_done = state["ended"].copy()
        self._episodes.set_state(state)

    def _step(
        self, actions: np.ndarray, resetting: np.ndarray, undo: Undo
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        moved = ~resetting
        alive, terminations, truncations = self._move(actions, moved)
        rewards, info = self._episodes.step(self.state, alive, terminations)
        rewards[resetting] = 0.0
        ended = terminations | truncations
        self.prev_done = ended
        if resetting.any():
            self._reset_rows(resetting, undo)
        finals: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            final_info = vector_utils.masked_infos(info, ended)
            finals = vector_utils.final_infos(self._observations(), final_info, ended)
            self._reset_rows(ended, undo)
            moved = ~ended  # the infos of new episodes are empty
        infos = vector_utils.masked_infos(info, moved) | finals
        return self._observations(), rewards, terminations, truncations, infos

    def _undo(self) -> Undo:
        """Return a context that undoes an interrupted block."""
        own = ("state", "steps", "prev_done", "_rngs", "_seeds", "_begun")
        return Undo((self, own), (self._episodes, Episodes.CHANGING))

    def _move(
        self, actions: np.ndarray, moved: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return Gymnasium's rewards, terminations and truncations.

        Rows outside ``moved`` are moved too, but not flagged: the caller resets them afterwards.
        """
        # Gymnasium's step resets the rows of prev_done with random numbers of a single generator.
        # It therefore gets an empty mask, and a copy of the steps, which it counts in place.
        none = np.zeros(self.num_envs, dtype=np.bool_)
        own = {"prev_done": none, "np_random": self._rngs[0], "steps": self.steps.copy()}
        physics: Any = SimpleNamespace(**vars(self) | own)
        _, alive, terminations, truncations, _ = classic.CartPoleVectorEnv.step(physics, actions)
        self.state, self.steps = physics.state, physics.steps
        rewards = np.add(alive, 0.0, dtype=np.float64)  # adding zero turns -0.0 into 0.0
        return rewards, terminations & moved, truncations & moved

    def _reset_rows(
        self,
        mask: np.ndarray,
        undo: Undo,
        low: float = -START_BOUND,
        high: float = START_BOUND,
    ) -> None:
        rows = np.flatnonzero(mask).tolist()
        undo.remember(self._rngs[row] for row in rows)
        self.state = self.state.copy()
        for row in rows:
            self.state[:, row] = self._rngs[row].uniform(low, high, size=4)
        self.steps = np.where(mask, 0, self.steps)
        self.prev_done = self.prev_done & ~mask
        self._episodes.reset(self.state, mask)

    def _observations(self) -> np.ndarray:
        return self.state.T.astype(np.float32)

    def _pictures(self, method: str) -> tuple[np.ndarray, ...]:
        self._check_begun(method)
        return tuple(pixels(self._drawing.draw(self, state)) for state in self.state.T)

    def _check_begun(self, method: str) -> None:
        if not self._begun:
            raise gym.error.ResetNeeded(f"call reset before {method}")


class _Painter(classic.CartPoleEnv):
    """Gymnasium's cart-pole, used to draw a state on the surface ``screen``.

    Gymnasium draws in every render mode, and then shows the picture in the mode ``"human"`` or
    copies it in the mode ``"rgb_array"``. The mode ``"surface"`` does neither, which is twice as
    fast as the copy.
    """

    metadata = {"render_modes": ["surface"], "render_fps": 50}  # noqa: RUF012
    screen: pygame.Surface | None  # type: ignore[assignment]  # Gymnasium declares it as None

    def __init__(self):
        super().__init__(render_mode="surface")


class Drawing:
    """Gymnasium's drawing of a cart-pole, without a display.

    Args:
        height: number of pixels that are drawn, counted from the lower edge.
    """

    def __init__(self, height: int):
        self._painter = _Painter()
        self._painter.screen_height = height

    def draw(
        self, env: classic.CartPoleEnv | classic.CartPoleVectorEnv, state: np.ndarray
    ) -> pygame.Surface:
        """Draw a state ``[4]`` of ``env``, on a surface that the next call reuses."""
        painter = self._painter
        if painter.screen is None:  # Gymnasium would initialize a display
            size = (painter.screen_width, painter.screen_height)
            painter.screen = load_pygame().Surface(size, depth=32)
        screen = painter.screen
        painter.x_threshold, painter.length = env.x_threshold, env.length
        # Farther out the cart is invisible anyway, and pygame's coordinates would overflow.
        position = np.clip(state[0], -10 * env.x_threshold, 10 * env.x_threshold)
        painter.state = np.array([position, *state[1:]])
        painter.render()
        return screen

    def __reduce__(self):
        return Drawing, (self._painter.screen_height,)  # surfaces cannot be copied or pickled


class Episodes:
    """Rewards and statistics of one episode with states ``[4]``, or of N with states ``[4, N]``.

    Args:
        shape: ``()`` for one episode, ``(N,)`` for N.
        max_position: greatest absolute position of the cart at which an episode continues.
        max_angle: the same for the pole's angle, in radians.
        reward: see :class:`CartPoleEnv`, also for the other arguments.
        shaping_weight: finite number, 0 or more.
        gamma: number from 0 to 1.
    """

    CHANGING = ("_potential", "_return", "_length", "_distance")
    """The attributes that a step or reset changes. They are replaced, never changed in place."""

    max_position: float
    max_angle: float
    weight: float
    gamma: float
    _potential: np.ndarray
    _return: np.ndarray
    _length: np.ndarray
    _distance: np.ndarray

    def __init__(
        self,
        shape: tuple[int, ...],
        max_position: float,
        max_angle: float,
        reward: str = "classic",
        # With 10 PPO and DQN learned about twice as fast as unshaped, with 1 no faster (3 seeds).
        shaping_weight: float = 10.0,
        gamma: float = 0.99,
    ):
        check_choice("reward", reward, REWARDS)
        if not (isinstance(shaping_weight, Real) and 0 <= shaping_weight < float("inf")):
            raise ValueError(
                f"shaping_weight is {shaping_weight!r}; it must be a finite number, 0 or more"
            )
        if not (isinstance(gamma, Real) and 0 <= gamma <= 1):
            raise ValueError(f"gamma is {gamma!r}; it must be a number from 0 to 1")
        self.max_position = max_position
        self.max_angle = max_angle
        self.weight = shaping_weight if reward == "shaped" else 0.0
        self.gamma = gamma
        self._potential = np.zeros(shape)
        self._return = np.zeros(shape)
        self._length = np.zeros(shape, dtype=np.int64)
        self._distance = np.zeros((4, *shape))  # absolute states, summed over the steps

    def potential(self, state: np.ndarray) -> np.ndarray:
        """Return the potential of states: greatest for an upright pole on a centered cart."""
        position, _, angle, _ = np.abs(state)
        return self.weight * (1 - position / self.max_position) * (1 - angle / self.max_angle)

    def reset(self, state: np.ndarray, rows: np.ndarray | EllipsisType = ...) -> None:
        """Begin new episodes in ``state``, in all rows or in those of a bool mask."""
        self._potential = self._potential.copy()
        self._return = self._return.copy()
        self._length = self._length.copy()
        self._distance = self._distance.copy()
        self._potential[rows] = self.potential(state)[rows]
        self._return[rows] = 0.0
        self._length[rows] = 0
        self._distance[:, rows] = 0.0

    def step(
        self, state: np.ndarray, alive: float | np.ndarray, terminated: bool | np.ndarray
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reward a step, and count it.

        Args:
            state: state after the step.
            alive: Gymnasium's reward.
            terminated: whether ``state`` is terminal.

        Returns:
            The step's reward, and the infos `rewards` and `statistics`.
        """
        potential = np.where(terminated, 0.0, self.potential(state))
        shaping = self.gamma * potential - self._potential
        reward = alive + shaping
        self._potential = potential
        self._return = np.asarray(self._return + reward)
        self._length = np.asarray(self._length + 1)
        self._distance = self._distance + np.abs(state)
        mean_position, _, mean_angle, _ = self._distance / self._length
        statistics = {
            "return": self._return.copy(),
            "length": self._length.copy(),
            "mean_angle": np.degrees(mean_angle),
            "mean_position": mean_position,
        }
        return reward, {
            "rewards": {"alive": alive, "shaping": shaping},
            "statistics": statistics,
        }

    def get_state(self) -> dict[str, np.ndarray]:
        """Return copies of all that changes from step to step."""
        return {
            "potential": self._potential.copy(),
            "return": self._return.copy(),
            "length": self._length.copy(),
            "distance": self._distance.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` returned."""
        self._potential = state["potential"].copy()
        self._return = state["return"].copy()
        self._length = state["length"].copy()
        self._distance = state["distance"].copy()


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; allowed: True, False")
    return bool(value)


def _as_numbers(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return one episode's infos as Python numbers."""
    return {
        key: _as_numbers(value) if isinstance(value, Mapping) else np.asarray(value).item()
        for key, value in info.items()
    }
