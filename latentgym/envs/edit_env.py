"""The single editing environment: one edit at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from gan_backbones import AttributeSchema, Backbone
from gan_backbones.utils.devices import plain_mode
from latentgym.core import ALL_ROWS, CHANGING, COMPONENTS, EditCore
from latentgym.envs.edit_rules import EditRules
from latentgym.envs.interrupts import Undo
from latentgym.envs.options import (
    PlainSpec,
    check_render_mode,
    check_state,
    random_generator,
    read_action,
    read_latents,
    read_options,
)
from latentgym.rendering.frame import EditView, Window, draw_frame, view_edit
from latentgym.task import EditTask


class EditEnv(PlainSpec, EditRules, gym.Env):
    """One edit: a core of one row. Subclasses add the rules, see `EditRules`.

    Args:
        render_mode: ``"human"`` or ``"rgb_array"``.
        **task: settings of `latentgym.task.EditTask`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array"],
        "render_fps": 10,
    }

    @plain_mode()
    def __init__(self, render_mode: str | None = None, **task: Any):
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.core = EditCore(EditTask(**task), 1, self.observes_pictures)
        self.observation_space = self.make_observation_space()
        self.action_space = self.make_action_space()
        self._begun = False
        self._steps = 0
        self._return = 0.0
        self._window: Window | None = None

    @property
    def backbone(self) -> Backbone:
        """The backbone whose latents are edited."""
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
            seed: random seed of the environment's own generator.
            options: ``"latent"``: start latent ``[latent_dim]`` within the bounds; ``"target"``:
                dict of wanted variants.

        Raises:
            ValueError: an option of the wrong shape, out of bounds, or with unknown names.
            gymnasium.error.Error: a seed that is negative or not an integer.
        """
        latent, target = read_options(self.core, options)
        with self._undo() as undo:
            if self._np_random is not None:
                undo.remember([self._np_random])
            super().reset(seed=seed)
            self._begun = False  # until the reset has succeeded
            self.core.reset(ALL_ROWS, [self.np_random], latent, target)
            self._begun, self._steps, self._return = True, 0, 0.0
            if self.render_mode == "human":
                self._show()
            return self._observation(), _first_row(self.core.info(ALL_ROWS))

    @plain_mode()
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the latent.

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: no edit has begun, or the last step failed.
            FloatingPointError: a network returned a value that is not finite.
        """
        self._check_begun("step")
        core = self.core
        action = read_action(self.action_space, action)
        actions = torch.from_numpy(action[None]).to(core.device)
        with self._undo():
            self._begun = False  # until the step has succeeded
            # The environment does not know the step limit of gym.make: any step may be the last.
            components = core.step(ALL_ROWS, self.latent_moves(actions), judge=True)
            self._begun = True
            rewards, parts = self.reward(ALL_ROWS, components)
            reward = float(rewards)
            self._steps += 1
            self._return += reward
            terminated = core.task.terminate_on_success and bool(self.should_terminate(ALL_ROWS))
            info = core.info(ALL_ROWS) | {"rewards": parts}
            info |= core.judge_metrics(ALL_ROWS, judged=True)
            if self.render_mode == "human":
                self._show()
            return self._observation(), reward, terminated, False, _first_row(info)

    @plain_mode()
    def score(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """Score ``latents`` as if each were this edit's current one.

        Meant for search methods. It counts towards ``evaluations`` and does not move the edit.

        Args:
            latents: float ``[N, latent_dim]``.

        Returns:
            ``potential`` ``[N]``, whose change is the reward, and its components ``realism``,
            ``attributes``, ``keep``, ``identity`` and ``success``.

        Raises:
            ValueError: latents of another shape, or values that are not finite.
        """
        self._check_begun("score")
        core = self.core
        points = torch.from_numpy(read_latents(latents, core.backbone.latent_dim)).to(core.device)
        rows = torch.zeros(len(points), dtype=torch.int64, device=core.device)
        with self._undo(), torch.no_grad():
            components = core.potential(core.assess(points, rows), rows)
        scores = {"potential": components.sum(dim=0)}
        scores |= dict(zip(COMPONENTS, components.unbind(), strict=True))
        return {name: value.cpu().numpy().copy() for name, value in scores.items()}

    @plain_mode()
    def get_state(self) -> dict[str, Any]:
        """Return the whole edit as plain dicts, numbers and arrays, which can be pickled.

        The step limit of ``gym.make`` is counted by a wrapper and is not part of it.
        """
        self._check_begun("get_state")
        return self._state()

    @plain_mode()
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` of an environment with the same arguments returned.

        Raises:
            ValueError: not such a state; the environment then stays as it was.
        """
        check_state(state, self._state())
        rng = random_generator(state["random"])
        with self._undo():
            self.core.set_state(state["core"])
            self.np_random = rng
            self._steps, self._return = state["steps"], state["return"]
            self._begun = True

    @plain_mode()
    def view(self) -> EditView:
        """Return what a frame shows of the edit now."""
        return view_edit(self.core, 0, self._steps, self._return)

    def render(self) -> np.ndarray | None:
        """Return a frame uint8 ``[H, W, 3]`` if ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode == "rgb_array":
            return draw_frame(self.view())
        if self.render_mode == "human":
            self._show()
        return None

    def close(self) -> None:
        """Close the window, if one is open."""
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
        """Return a context that undoes an interrupted block."""
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


def _first_row(info: dict[str, Any]) -> dict[str, Any]:
    """Return row 0 of batched infos as Python numbers and numpy arrays."""
    first: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, dict):
            first[key] = _first_row(value)
        else:
            first[key] = value[0].cpu().numpy().copy() if value.ndim > 1 else value[0].item()
    return first
