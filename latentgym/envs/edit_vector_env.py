"""The batched editing environment: many edits at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from gan_backbones import Backbone
from gan_backbones.utils.devices import plain_mode
from latentgym.core import ALL_ROWS, CHANGING, EditCore, Rows
from latentgym.envs import vector_utils
from latentgym.envs.edit_rules import EditRules
from latentgym.envs.interrupts import Undo
from latentgym.envs.options import (
    VECTOR_OPTIONS,
    check_render_mode,
    check_state,
    one_line,
    random_generator,
    read_action,
    read_options,
)
from latentgym.rendering.frame import draw_frame, tile, view_edit
from latentgym.task import EditTask


class EditVectorEnv(vector_utils.RowsVectorEnv, EditRules):
    """Many edits: a core of ``num_envs`` rows, with one batched forward pass per step.

    Subclasses add the rules, see `EditRules`.

    Row ``i`` equals a single environment with the seed ``seed + i`` and the same actions: latents,
    actions and end flags exactly, rewards up to float rounding.

    With ``tensors=True`` actions, observations, rewards, flags and infos are tensors on the task's
    ``device``, without a copy to the host. A step then waits for the device only if an episode
    ends, since starts are drawn on the host; with ``terminate_on_success`` it has to look for ended
    episodes, and so waits at each step. On other devices than the CPU, values of actions are not
    checked, and a network's value that is not finite is reported when an episode ends.

    Args:
        num_envs: number of rows.
        max_episode_steps: number of steps after which rows are truncated; ``None`` or -1: never.
        autoreset_mode: what happens to a row whose episode has ended (`AutoresetMode`, or its
            value as text).
        render_mode: ``"rgb_array"``: :meth:`render` returns each row's frame.
        tensors: use torch tensors instead of numpy arrays. ``final_obs`` is then a batch of all
            rows; ``_final_obs`` masks the ended ones.
        **task: settings of `latentgym.task.EditTask`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    @plain_mode()
    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        tensors: bool = False,
        **task: Any,
    ):
        vector_utils.check_num_envs(num_envs)
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.tensors = tensors
        settings = EditTask(**task)
        self._never_waits = tensors and torch.device(settings.device).type != "cpu"
        self.core = EditCore(
            settings, num_envs, self.observes_pictures, check_at_once=not self._never_waits
        )
        self.single_observation_space = self.make_observation_space()
        self.single_action_space = self.make_action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = vector_utils.step_limit(max_episode_steps)
        self._begun = False
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._returns = torch.zeros(num_envs, dtype=torch.float32, device=self.core.device)
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    @property
    def backbone(self) -> Backbone:
        """The backbone whose latents are edited."""
        return self.core.backbone

    @plain_mode()
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new edits in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: random seed; row ``i`` gets ``seed + i``, or the i-th value of a sequence.
            options: ``"reset_mask"``: bool ``[num_envs]``; ``"latent"``: start latents
                ``[num_envs, latent_dim]`` or one ``[latent_dim]`` for all; ``"target"``: dict of
                wanted variants for all rows. The dict is not changed.

        Raises:
            ValueError: a seed or an option of the wrong shape, out of bounds, or with unknown
                names.
            gymnasium.error.Error: a row's seed is negative or not an integer.
        """
        latents, target = read_options(self.core, options, VECTOR_OPTIONS)
        mask = self._read_mask(options)
        with self._undo() as undo:
            self._seed_rows(seed, mask)
            self._begun = False  # until the reset has succeeded
            self._reset_rows(mask, undo, latents, target)
            self._begun = True
            info = self.core.info(self._rows(mask))
            return self._observations(), self._masked_infos(info, mask)

    @plain_mode()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Move all latents with one batched forward pass.

        Raises:
            ValueError: actions outside the action space.
            gymnasium.error.ResetNeeded: no edits have begun, the last step failed, or a row has
                ended in `AutoresetMode.DISABLED`.
            FloatingPointError: a network returned a value that is not finite.
        """
        if not self._begun:
            raise gym.error.ResetNeeded("call reset before step")
        resetting = vector_utils.rows_to_reset(self.autoreset_mode, self._ended)
        actions = self._read_actions(actions)
        with self._undo() as undo:
            self._begun = False  # until the step has succeeded
            returned = self._step(actions, resetting, undo)
            self._begun = True
            return returned

    def _step(
        self, actions: torch.Tensor, resetting: np.ndarray, undo: Undo
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        moving = ~resetting
        rows = self._rows(moving)
        self._steps = self._steps + moving
        truncations = moving & (self._steps >= self._limit)
        terminations = np.zeros_like(truncations)
        # If the step limit ends all episodes, the judge shares the forward pass.
        judge = bool((truncations == moving).all())
        rewards = torch.zeros(0, dtype=torch.float32, device=self.core.device)
        parts: dict[str, torch.Tensor] = {}
        if moving.any():
            components = self.core.step(rows, self.latent_moves(actions[rows]), judge)
            rewards, parts = self.reward(rows, components)
            if self.core.task.terminate_on_success:
                terminations[moving] = self.should_terminate(rows).cpu().numpy()
        if resetting.any():
            self._reset_rows(resetting, undo)
        rewards = self._at_full_length(rewards, moving)
        self._returns = self._returns + rewards
        ended = terminations | truncations
        infos = self._infos(moving, parts, ended, judge)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            infos = self._reset_within_step(ended, parts, infos, undo)
        else:
            self._ended = ended
        return (
            self._observations(),
            rewards if self.tensors else rewards.cpu().numpy().astype(np.float64),
            self._flags(terminations),
            self._flags(truncations),
            infos,
        )

    @plain_mode()
    def get_state(self) -> dict[str, Any]:
        """Return the edits as plain dicts, lists, numbers and arrays, which can be pickled."""
        if not self._begun:
            raise gym.error.ResetNeeded("call reset before get_state")
        return self._state()

    @plain_mode()
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`get_state` of an environment with the same arguments returned.

        Raises:
            ValueError: not such a state; the environment then stays as it was.
        """
        check_state(state, self._state())
        rngs = [random_generator(saved) for saved in state["random"]]
        with self._undo():
            self.core.set_state(state["core"])
            self._set_generators(rngs)
            self._steps, self._ended = state["steps"].copy(), state["ended"].copy()
            self._returns = torch.from_numpy(state["returns"]).to(self.core.device, copy=True)
            self._begun = True

    @plain_mode()
    def render(self) -> tuple[np.ndarray, ...] | None:
        """Draw each row's frame uint8 ``[H, W, 3]``, as its single environment does.

        Returns:
            ``num_envs`` frames, or ``None`` without a render mode.
        """
        if self.render_mode is None:
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("call reset before render")
        returns = self._returns.tolist()
        return tuple(
            draw_frame(view_edit(self.core, row, int(self._steps[row]), returns[row]))
            for row in range(self.num_envs)
        )

    @plain_mode()
    def render_grid(self) -> np.ndarray:
        """Tile all current images, without captions, into one picture uint8 ``[H, W, 3]``.

        This works without a render mode.
        """
        if not self._begun:
            raise gym.error.ResetNeeded("call reset before render_grid")
        return tile(self.core.images(self.core.latents))

    # Inside -------------------------------------------------------------------------------------

    def _undo(self) -> Undo:
        """Return a context that undoes an interrupted block."""
        own = ("_begun", "_steps", "_returns", "_ended", "_rngs", "_seeds")
        return Undo((self, own), (self.core, CHANGING))

    def _state(self) -> dict[str, Any]:
        rngs = self._rngs or [np.random.default_rng()] * self.num_envs  # before the first reset
        return {
            "core": self.core.get_state(),
            "random": [rng.bit_generator.state for rng in rngs],
            "steps": self._steps.copy(),
            "returns": self._returns.cpu().numpy().copy(),
            "ended": self._ended.copy(),
        }

    def _reset_rows(
        self,
        mask: np.ndarray,
        undo: Undo,
        latents: np.ndarray | None = None,
        target: Mapping[str, str] | None = None,
    ) -> None:
        rngs = [self._rngs[row] for row in np.flatnonzero(mask).tolist()]
        undo.remember(rngs)
        starts = None if latents is None else latents[mask]
        self.core.reset(self._rows(mask), rngs, starts, target)
        begun = torch.from_numpy(mask.copy()).to(self.core.device)
        self._returns = self._returns.masked_fill(begun, 0.0)
        self._steps = np.where(mask, 0, self._steps)
        self._ended = self._ended & ~mask

    def _reset_within_step(
        self,
        ended: np.ndarray,
        parts: dict[str, torch.Tensor],
        infos: dict[str, Any],
        undo: Undo,
    ) -> dict[str, Any]:
        """Reset the ended rows; their last observations and infos become final_obs, final_info."""
        observations, info = self._observations(), self._narrow_masks(infos, ended)
        if self.tensors:
            flags = {name: self._flags(ended) for name in ("_final_obs", "_final_info")}
            final = {"final_obs": observations, "final_info": info, **flags}
        else:
            final = vector_utils.final_infos(observations, info, ended)
        self._reset_rows(ended, undo)
        self._ended = np.zeros_like(ended)
        continuing = self._rows(~ended)
        others = {} if ended.all() else {name: part[continuing] for name, part in parts.items()}
        return self._infos(~ended, others, np.zeros_like(ended), False) | final

    def _infos(
        self,
        moved: np.ndarray,
        parts: dict[str, torch.Tensor],
        ended: np.ndarray,
        judged: bool,
    ) -> dict[str, Any]:
        """Return a step's infos, each with its mask.

        Args:
            moved: mask of the rows that were moved.
            parts: components of their rewards.
            ended: mask of the rows whose episode ended.
            judged: whether the judge was asked in this step.
        """
        infos = self._masked_infos(self.core.info(ALL_ROWS), np.ones_like(moved))
        if parts:
            infos |= self._masked_infos({"rewards": parts}, moved)
        if ended.any():
            metrics = self.core.judge_metrics(self._rows(ended), judged)
            infos |= self._masked_infos(metrics, ended)
            if self._never_waits:
                self.core.raise_unless_finite()
        return infos

    def _masked_infos(self, info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
        """Lay out infos of the rows in ``mask`` at full length, each with its ``_mask``."""

        def lay_out(value: torch.Tensor) -> torch.Tensor | np.ndarray:
            value = self._at_full_length(value, mask)
            return value if self.tensors else _as_numpy(value)

        return vector_utils.with_masks(info, lay_out, lambda: self._flags(mask))

    def _at_full_length(self, value: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
        """Return one entry for each row: ``value`` for those in ``mask``, zero for the others."""
        if mask.all():
            return value
        full = value.new_zeros(self.num_envs, *value.shape[1:])
        full[self._rows(mask)] = value
        return full

    def _narrow_masks(self, infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
        """Return the same infos with masks that are true only in ``mask``."""
        flags = self._flags(mask)
        return {
            key: self._narrow_masks(value, mask)
            if isinstance(value, dict)
            else (value & flags if key.startswith("_") else value)
            for key, value in infos.items()
        }

    def _observations(self) -> Any:
        observations = self.observe(ALL_ROWS)
        if self.tensors:
            return observations
        if isinstance(observations, dict):
            return {key: value.cpu().numpy() for key, value in observations.items()}
        return observations.cpu().numpy()

    def _flags(self, mask: np.ndarray) -> Any:
        """Return a copy of a mask, as an array or tensor."""
        if not self.tensors:
            return mask.copy()
        if not mask.any():
            return torch.zeros(self.num_envs, dtype=torch.bool, device=self.core.device)
        if mask.all():
            return torch.ones(self.num_envs, dtype=torch.bool, device=self.core.device)
        return torch.from_numpy(mask.copy()).to(self.core.device)

    def _rows(self, mask: np.ndarray) -> Rows:
        """Return the rows of the core that are in a mask."""
        if mask.all():
            return ALL_ROWS
        return torch.from_numpy(np.flatnonzero(mask)).to(self.core.device)

    def _read_actions(self, actions: Any) -> torch.Tensor:
        if self._never_waits:
            return self._read_tensor(actions)
        if isinstance(actions, torch.Tensor):
            actions = actions.detach().cpu().numpy()
        return torch.from_numpy(read_action(self.action_space, actions)).to(self.core.device)

    def _read_tensor(self, actions: Any) -> torch.Tensor:
        """Check a tensor of actions, but not its values: that would wait for the device."""
        space = self.action_space
        is_discrete = isinstance(self.single_action_space, spaces.Discrete)
        dtype = torch.int64 if is_discrete else torch.float32
        is_tensor = isinstance(actions, torch.Tensor)
        if not is_tensor or actions.dtype != dtype or actions.shape != space.shape:
            described = (
                f"{actions.dtype} {tuple(actions.shape)}" if is_tensor else one_line(actions)
            )
            raise ValueError(f"actions are {described}; expected a tensor {dtype} {space.shape}")
        return actions.detach().to(self.core.device)

    def _read_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if self.tensors and isinstance(mask, torch.Tensor):
            options = {"reset_mask": mask.cpu().numpy()}
        return vector_utils.read_mask(options, self.num_envs, self._begun)


def _as_numpy(info: torch.Tensor) -> np.ndarray:
    """Return an info as `SyncVectorEnv` would: single environments return numbers as floats."""
    array = info.cpu().numpy()
    return array.astype(np.float64) if info.ndim == 1 and info.is_floating_point() else array
