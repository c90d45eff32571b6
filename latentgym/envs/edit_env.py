"""One edit at a time: what all single editing environments share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from gan_backbones import AttributeSchema, Backbone
from gan_backbones.utils.devices import plain_mode
from latentgym.core import ALL_ROWS, CHANGING, COMPONENTS, EditCore
from latentgym.envs.editing import Editing
from latentgym.envs.interrupts import Undo
from latentgym.envs.options import (
    PlainSpec,
    check_render_mode,
    check_state,
    generator,
    read_action,
    read_latents,
    read_options,
)
from latentgym.rendering.frame import EditView, Window, draw_frame, view_edit
from latentgym.task import EditTask

NUDGE_KEYS = "qawsedrftgyhujikol1z2x3c4v5b6n7m"
"""One key per action: the key that raises a direction is above the one that lowers it."""


class EditEnv(Editing, PlainSpec, gym.Env):
    """A core of one row; the other half of an environment is a subclass of `Editing`.

    Args:
        render_mode: ``"human"`` or ``"rgb_array"``.
        **task: as for `latentgym.task.EditTask`.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    @plain_mode()
    def __init__(self, render_mode: str | None = None, **task: Any):
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.core = EditCore(EditTask(**task), 1, self.needs_images)
        self.observation_space = self.make_observation_space()
        self.action_space = self.make_action_space()
        self._begun = False
        self._steps = 0
        self._return = 0.0
        self._window: Window | None = None

    @property
    def backbone(self) -> Backbone:
        """The backbone that is edited."""
        return self.core.backbone

    @property
    def schema(self) -> AttributeSchema:
        """The attributes of the backbone's images."""
        return self.core.schema

    @property
    def evaluations(self) -> int:
        """Number of images generated and scored so far."""
        return self.core.evaluations

    @plain_mode()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new edit.

        Args:
            seed: random seed of the environment.
            options: ``"latent"``: start latent ``[latent_dim]`` within the bounds; ``"target"``:
                dict of wanted variants.

        Raises:
            ValueError: an option of the wrong shape, out of bounds, or with unknown names.
            gymnasium.error.Error: a seed that is negative or no integer.
        """
        latent, target = read_options(self.core, options, 1)
        with self._undo() as undo:
            if self._np_random is not None:
                undo.remember([self._np_random])
            super().reset(seed=seed)
            self._begun = False  # until this succeeds
            self.core.reset(ALL_ROWS, [self.np_random], latent, target)
            self._begun, self._steps, self._return = True, 0, 0.0
            if self.render_mode == "human":
                self._show()
            return self._observation(), _first(self.core.info(ALL_ROWS))

    @plain_mode()
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the latent.

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: no edit was begun, or the last step failed.
            FloatingPointError: a network returned a value that is not finite.
        """
        self._check_begun("step")
        core = self.core
        action = read_action(self.action_space, action)
        actions = torch.from_numpy(action[None]).to(core.device)
        with self._undo():
            self._begun = False  # until this succeeds
            # gym.make tells an environment nothing of its step limit: any step may be the last.
            components = core.step(ALL_ROWS, self.to_moves(actions), judge=True)
            self._begun = True
            rewards, parts = self.to_rewards(ALL_ROWS, components)
            reward = float(rewards)
            self._steps += 1
            self._return += reward
            terminated = core.task.terminate_on_success and bool(self.should_terminate(ALL_ROWS))
            info = (
                core.info(ALL_ROWS) | {"rewards": parts} | core.judge_metrics(ALL_ROWS, judged=True)
            )
            if self.render_mode == "human":
                self._show()
            return self._observation(), reward, terminated, False, _first(info)

    @plain_mode()
    def score(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """Score images of ``latents`` as if each were this edit's current one.

        For search methods: counts towards ``evaluations``, does not move the edit.

        Args:
            latents: float ``[N, latent_dim]``.

        Returns:
            ``potential`` ``[N]``, whose change is the reward, and its components ``realism``,
            ``attributes``, ``keep``, ``identity`` and ``success``.

        Raises:
            ValueError: latents of another shape, or not finite numbers.
        """
        self._check_begun("score")
        checked = read_latents(latents, self.backbone.latent_dim)
        tensor = torch.from_numpy(checked).to(self.core.device)
        rows = torch.zeros(len(tensor), dtype=torch.int64, device=self.core.device)
        with self._undo(), torch.no_grad():
            parts = self.core.potential(self.core.assess(tensor, rows), rows)
        named = dict(zip(COMPONENTS, parts.unbind(), strict=True))
        scores = {"potential": parts.sum(dim=0), **named}
        return {name: value.cpu().numpy().copy() for name, value in scores.items()}

    @plain_mode()
    def get_state(self) -> dict[str, Any]:
        """Return the state of the edit: plain dicts, numbers and arrays, which can be pickled.

        The step limit that ``gym.make`` applies is counted by its wrapper and not included.
        """
        self._check_begun("get_state")
        return self._state()

    @plain_mode()
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` of an environment with the same arguments returned.

        Raises:
            ValueError: not such a state; nothing is changed then.
        """
        check_state(state, self._state())
        rng = generator(state["random"])
        with self._undo():
            self.core.set_state(state["core"])
            self.np_random = rng
            self._steps, self._return = state["steps"], state["return"]
            self._begun = True

    @plain_mode()
    def view(self) -> EditView:
        """Return what a frame shows of the current edit."""
        return view_edit(self.core, 0, self._steps, self._return)

    def render(self) -> np.ndarray | None:
        """A frame uint8 ``[H, W, 3]`` if ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode == "rgb_array":
            return draw_frame(self.view())
        if self.render_mode == "human":
            self._show()
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _state(self) -> dict[str, Any]:
        return {
            "core": self.core.get_state(),
            "random": self.np_random.bit_generator.state,
            "steps": self._steps,
            "return": self._return,
        }

    def _undo(self) -> Undo:
        """Return what undoes an interrupted block."""
        own = ("_begun", "_steps", "_return", "_np_random", "_np_random_seed")
        return Undo((self, own), (self.core, CHANGING))

    def _check_begun(self, method: str) -> None:
        if not self._begun:
            raise gym.error.ResetNeeded(f"call reset before {method}")

    def _observation(self) -> Any:
        observation = self.observe(ALL_ROWS)
        if isinstance(observation, dict):
            return {key: value[0].cpu().numpy() for key, value in observation.items()}
        return observation[0].cpu().numpy()

    def _show(self) -> None:
        if self._window is None:
            title = self.spec.id if self.spec else type(self).__name__
            self._window = Window(title, self.metadata["render_fps"])
        self._window.show(draw_frame(self.view()))


class NudgeEnv(EditEnv):
    """An editing environment whose discrete actions a keyboard can trigger."""

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return which key triggers which action, for ``gymnasium.utils.play.play``."""
        keys = NUDGE_KEYS[: 2 * len(self.core.directions)]
        return {(ord(key),): action for action, key in enumerate(keys)}


def _first(info: dict[str, Any]) -> dict[str, Any]:
    """Row 0 of batched infos as plain Python numbers and numpy arrays."""
    first = {}
    for key, value in info.items():
        if isinstance(value, dict):
            first[key] = _first(value)
        else:
            first[key] = value[0].cpu().numpy().copy() if value.ndim > 1 else value[0].item()
    return first
