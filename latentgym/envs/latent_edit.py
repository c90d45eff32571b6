"""`LatentEdit-v0`: edit an image by nudging its latent along one direction per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gan_backbones import Backbone
from latentgym.core import EditCore
from latentgym.rendering import EditView, Window, draw_frame, tile
from latentgym.scores import LOG_FLOOR
from latentgym.task import EditTask

RENDER_MODES = ("human", "rgb_array")


class LatentEditEnv(gym.Env[np.ndarray, np.int64]):
    """## Description

    A frozen generator makes an image of a latent `z`. The agent is asked for an attribute, say red
    hair, and nudges `z` along one direction per step. It is paid for what each nudge improved:
    likeness to the target, realism, and what it left as it was. No gradients are needed.

    ## Action Space

    `Discrete(2 * K)`: action `2 i` moves the latent by `+delta` along direction `i`, action
    `2 i + 1` by `-delta`. The latent is clipped to `[-latent_bound, latent_bound]`.

    ## Observation Space

    A flat float32 `Box`, the parts of `observation` side by side (d: latent length; V: number of
    variants of all attributes):

    | Part | Length | Range | Meaning |
    |---|---|---|---|
    | `latent` | d | ±latent_bound | the current latent |
    | `target` | V | 0, 1 | one-hot of the wanted variants; zero where an attribute is free |
    | `start` | V | 0, 1 | one-hot of what the classifier saw in the start image |
    | `attributes` | V | -15 to 0 | log-probabilities the classifier gives the current image |
    | `realism` | 2 | 0 to 1 | the discriminator's probability now, and at the start |

    ## Rewards

    The sum of the components in `info["rewards"]`, each the change of a score in this step, so an
    episode's return is what the whole edit gained:

    - `realism`: `realism_weight` times the change of `realism_score`: `"log_probability"`,
      `"probability"` (times 100) or `"logit"` of the discriminator.
    - `attributes`: `attribute_weight` times the change of `attribute_score`: mean
      `"log_probability"` of the wanted variants, `"cosine"` of probabilities and one-hot target
      (times 100), or `"margin"`, their mean log-odds.
    - `keep`: `keep_weight` times the change of the mean log-probability of what the start image
      had in the attributes outside the target. Without it, going to one fixed other face that has
      the target pays as well as editing this one.
    - `success`: `success_bonus` while the edit may rest: the classifier gives every wanted variant
      a probability of 0.9, and the discriminator finds the image no less realistic than the start
      and 0.25 at least. Taken back if the edit leaves that state. Without it an edit that
      terminates on success would pay less than one that dallies before the goal.

    ## Starting State

    A latent from N(0, I), clipped to the bounds; with `start="lacks_target"` drawn again while
    the classifier or the judge sees the target in it already. `reset(options={"latent": ...,
    "target": ...})` sets either.

    ## Episode End

    Truncated by the step limit (40 by default), which `gym.make` applies. With
    `terminate_on_success` it terminates once the edit may rest (see `success` above).

    ## Info

    `scores` (realism, start_realism, target, kept: each a probability), `target` (one-hot, see
    `env.unwrapped.schema.decode`), and after a step `rewards` and the judge's verdict on the edit
    so far: `is_success` (every target variant seen, realism not below the start's), `kept` (share
    of the other attributes seen unchanged) and `drift` (distance from the start latent). What
    counts is the verdict at the episode's end; the vector environment gives it there alone. The
    judge is never part of a reward.

    ## Arguments

    | Name | Default | Meaning |
    |---|---|---|
    | `backbone` | `"cartoon-faces"` | name, path, or `gan_backbones.Backbone` |
    | `target` | `None` | variants wanted, as `{"hairColor": "a55728"}`; or a list of attributes, one of which is drawn per episode with a variant; `None`: any attribute |
    | `directions` | `"attributes"` | `"coordinates"`, `"sefa"`, `"attributes"` (see `latentgym.directions`), or a matrix `[K, d]` as nested lists |
    | `num_directions` | 24 | how many SeFa directions |
    | `delta` | 0.5 | length of a nudge |
    | `latent_bound` | 3.0 | each coordinate stays within plus and minus this |
    | `start` | `"lacks_target"` | or `"any"` |
    | `observation` | all parts | which parts the observation has, in order |
    | `realism_score`, `realism_weight` | `"log_probability"`, 10.0 | see Rewards |
    | `attribute_score`, `attribute_weight` | `"log_probability"`, 5.0 | see Rewards |
    | `keep_weight` | 2.0 | see Rewards |
    | `success_bonus` | 5.0 | see Rewards |
    | `terminate_on_success` | `False` | see Episode End |
    | `bf16` | `False` | compute in bfloat16: about twice as fast where the processor has it, good enough to train in; scores are off by some hundredths |
    | `device` | `"cpu"` | where the networks run |
    | `render_mode` | `None` | `"human"` or `"rgb_array"` |

    ## Version History

    - v0: first version.
    """  # noqa: D415, E501

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None, **task: Any):
        _check_render_mode(render_mode)
        self.render_mode = render_mode
        # gym.make tells an environment nothing of its step limit: any step may be the last.
        self.core = EditCore(EditTask(**task), 1, judge_always=True)
        self.observation_space = observation_space(self.core)
        self.action_space = action_space(self.core)
        self._row = torch.arange(1, device=self.core.device)
        self._begun = False
        self._window: Window | None = None

    @property
    def backbone(self) -> Backbone:
        """What is being steered."""
        return self.core.backbone

    @property
    def schema(self):
        """The attributes of the backbone's images."""
        return self.core.schema

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a new edit.

        Args:
            seed: of the environment's own random generator.
            options: ``"latent"``: start latent ``[latent_dim]`` within the bounds; ``"target"``:
                dict of wanted variants.

        Raises:
            ValueError: an option of the wrong shape, out of bounds, or with unknown names.
        """
        super().reset(seed=seed)
        latent, target = read_options(self.core, options, 1)
        self.core.begin(self._row, [self.np_random], latent, target)
        self._begun = True
        if self.render_mode == "human":
            self._show()
        return self._observation(), _first(row_info(self.core, self._row))

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Nudge the latent.

        Raises:
            ValueError: an action outside the action space.
            gymnasium.error.ResetNeeded: no edit was begun.
            FloatingPointError: a network returned a value that is not finite.
        """
        self._check_begun("step")
        if not self.action_space.contains(action):
            raise ValueError(f"action is {action!r}; allowed: {self.action_space}")
        core = self.core
        rewards = core.move(self._row, moves(core, np.array([action])))
        reward = float(sum(rewards.values()))
        terminated = bool(core.task.terminate_on_success and core.reached(self._row))
        info = row_info(core, self._row) | {"rewards": rewards} | core.verdict(self._row)
        if self.render_mode == "human":
            self._show()
        return self._observation(), reward, terminated, False, _first(info)

    def score(self, latents: np.ndarray) -> dict[str, np.ndarray]:
        """Score images of ``latents`` as if each were this edit's current one.

        For search methods: counts towards ``evaluations``, does not move the edit.

        Args:
            latents: float ``[N, latent_dim]``.

        Returns:
            ``potential`` ``[N]``, whose change is the reward, and its components ``realism``,
            ``attributes``, ``keep`` and ``success``.
        """
        self._check_begun("score")
        latents = torch.as_tensor(latents, dtype=torch.float32, device=self.core.device)
        if latents.ndim != 2 or latents.shape[1] != self.backbone.latent_dim:
            raise ValueError(
                f"latents has shape {tuple(latents.shape)}; "
                f"expected (N, {self.backbone.latent_dim})"
            )
        with torch.no_grad():
            parts = self.core.potential(self.core.assess(latents), self._row.expand(len(latents)))
        parts = {"potential": sum(parts.values()), **parts}
        return {name: value.cpu().numpy() for name, value in parts.items()}

    @property
    def evaluations(self) -> int:
        """How many images were generated and scored so far."""
        return self.core.evaluations

    def render(self) -> np.ndarray | None:
        """A frame uint8 ``[H, W, 3]`` if ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode == "rgb_array":
            return draw_frame(edit_view(self.core, 0))
        if self.render_mode == "human":
            self._show()
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _check_begun(self, method: str) -> None:
        if not self._begun:
            raise gym.error.ResetNeeded(f"call reset before {method}")

    def _observation(self) -> np.ndarray:
        return self.core.observe(self._row)[0].cpu().numpy()

    def _show(self) -> None:
        if self._window is None:
            self._window = Window("LatentEdit-v0", self.metadata["render_fps"])
        self._window.show(draw_frame(edit_view(self.core, 0)))


class LatentEditVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many edits at once, with one batched forward pass per step: see :class:`LatentEditEnv`.

    Row ``i`` equals a single environment that was seeded with ``seed + i`` and given the same
    actions: latents, actions and end flags exactly, rewards up to float rounding.

    Args:
        num_envs: how many.
        max_episode_steps: rows are truncated after so many steps; ``None`` or -1: never.
        autoreset_mode: what happens to a row whose episode has ended (`AutoresetMode`, or its
            value as text).
        render_mode: ``"rgb_array"`` gives the current images as one tiled picture.
        **task: as for :class:`LatentEditEnv`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **task: Any,
    ):
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; allowed: None, 'rgb_array'")
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.core = EditCore(EditTask(**task), num_envs)
        self.single_observation_space = observation_space(self.core)
        self.single_action_space = action_space(self.core)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        unlimited = max_episode_steps is None or max_episode_steps < 0
        self._limit = np.iinfo(np.int64).max if unlimited else max_episode_steps
        self._all = torch.arange(num_envs, device=self.core.device)
        self._rngs: list[np.random.Generator] | None = None
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    @property
    def backbone(self) -> Backbone:
        """What is being steered."""
        return self.core.backbone

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new edits in all rows, or in those of ``options["reset_mask"]``.

        Args:
            seed: row ``i`` is seeded with ``seed + i``, or with the i-th of a sequence.
            options: ``"reset_mask"``: bool ``[num_envs]``; ``"latent"``: start latents
                ``[num_envs, latent_dim]`` or one ``[latent_dim]`` for all; ``"target"``: dict of
                wanted variants for all rows. The dict is read, never changed.
        """
        latents, target = read_options(self.core, options, self.num_envs)
        mask = self._read_mask(options)
        self._seed(seed, mask)
        self._begin(mask, latents, target)
        return self._observations(), self._infos(mask)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Nudge all latents with one batched forward pass.

        Raises:
            ValueError: actions outside the action space.
            gymnasium.error.ResetNeeded: a row has ended, in `AutoresetMode.DISABLED`.
        """
        if self._rngs is None:
            raise gym.error.ResetNeeded("call reset before step")
        actions = np.asarray(actions)
        if not (
            np.issubdtype(actions.dtype, np.integer)
            and self.action_space.contains(actions.astype(np.int64))
        ):
            raise ValueError(f"actions are {_line(actions)}; allowed: {self.action_space}")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise gym.error.ResetNeeded(
                f"rows {np.flatnonzero(self._ended).tolist()} have ended: reset them with "
                "options={'reset_mask': mask}"
            )
        resetting = self._ended & (self.autoreset_mode == AutoresetMode.NEXT_STEP)
        moving = ~resetting
        core, rows = self.core, self._rows(moving)
        rewards = np.zeros(self.num_envs)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        components: dict[str, torch.Tensor] = {}
        if moving.any():
            components = core.move(rows, moves(core, actions[moving]))
            rewards[moving] = sum(components.values()).cpu().numpy()
            if core.task.terminate_on_success:
                terminations[moving] = core.reached(rows).cpu().numpy()
            truncations[moving] = (core.steps[rows] >= self._limit).cpu().numpy()
        if resetting.any():
            self._begin(resetting, None, None)
        ended = terminations | truncations
        infos = self._infos(np.ones_like(ended), moving, components, ended)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            infos = self._reset_within_step(ended, components, infos)
        else:
            self._ended = ended
        return self._observations(), rewards, terminations, truncations, infos

    def render(self) -> np.ndarray | None:
        """All current images as one picture uint8 ``[H, W, 3]``."""
        if self.render_mode is None:
            return None
        return tile(self.core.images(self.core.latents))

    def _reset_within_step(
        self, ended: np.ndarray, components: dict[str, torch.Tensor], infos: dict[str, Any]
    ) -> dict[str, Any]:
        """Reset the ended rows; what they ended with goes into final_obs and final_info."""
        observations = self._observations()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final_obs[row] = observations[row].copy()
        final_info = _narrow(infos, ended)
        self._begin(ended, None, None)
        self._ended = np.zeros_like(ended)
        going_on = {name: value[self._rows(~ended)] for name, value in components.items()}
        infos = self._infos(np.ones_like(ended), ~ended, {} if ended.all() else going_on)
        return infos | {
            "final_obs": final_obs,
            "_final_obs": ended.copy(),
            "final_info": final_info,
            "_final_info": ended.copy(),
        }

    def _begin(
        self,
        mask: np.ndarray,
        latents: np.ndarray | None,
        target: Mapping[str, str] | None,
    ) -> None:
        rngs = [self._rngs[row] for row in np.flatnonzero(mask)]
        self.core.begin(self._rows(mask), rngs, None if latents is None else latents[mask], target)
        self._ended = self._ended & ~mask

    def _seed(self, seed: int | Sequence[int | None] | None, mask: np.ndarray) -> None:
        if isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + row for row in range(self.num_envs)]
        else:
            seeds = (
                [None] * self.num_envs
                if seed is None
                else [s if s is None else int(s) for s in seed]
            )
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} values; expected num_envs={self.num_envs}")
        if self._rngs is None:
            self._rngs = [seeding.np_random(s)[0] for s in seeds]
        for row in np.flatnonzero(mask):
            if seeds[row] is not None:
                self._rngs[row] = seeding.np_random(seeds[row])[0]

    def _read_mask(self, options: dict[str, Any] | None) -> np.ndarray:
        mask = (options or {}).get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] is {_line(mask)}; expected a bool array")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] is {_line(mask)}; expected shape ({self.num_envs},) "
                "with at least one True"
            )
        if self._rngs is None and not mask.all():
            raise gym.error.ResetNeeded("the first reset must begin all rows, without reset_mask")
        return mask

    def _rows(self, mask: np.ndarray) -> torch.Tensor:
        return self._all if mask.all() else self._all[torch.from_numpy(mask)]

    def _observations(self) -> np.ndarray:
        return self.core.observe(self._all).cpu().numpy()

    def _infos(
        self,
        shown: np.ndarray,
        moved: np.ndarray | None = None,
        rewards: dict[str, torch.Tensor] | None = None,
        ended: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Infos as Gymnasium's vector environments lay them out: arrays with masks."""
        infos = _spread(row_info(self.core, self._rows(shown)), shown)
        if rewards:
            infos |= _spread({"rewards": rewards}, moved)
        if ended is not None and ended.any():
            infos |= _spread(self.core.verdict(self._rows(ended)), ended)
        return infos


# What both environments share ---------------------------------------------------------------------


def observation_space(core: EditCore) -> spaces.Box:
    """The box of the task's observation parts."""
    size, bound = core.schema.size, core.task.latent_bound
    bounds = {
        "latent": (core.backbone.latent_dim, -bound, bound),
        "target": (size, 0.0, 1.0),
        "start": (size, 0.0, 1.0),
        "attributes": (size, LOG_FLOOR, 0.0),
        "realism": (2, 0.0, 1.0),
    }
    parts = [bounds[name] for name in core.task.observation]
    low = np.concatenate([np.full(length, low) for length, low, _ in parts])
    high = np.concatenate([np.full(length, high) for length, _, high in parts])
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


def action_space(core: EditCore) -> spaces.Discrete:
    """Up and down along each direction."""
    return spaces.Discrete(2 * len(core.directions))


def moves(core: EditCore, actions: np.ndarray) -> torch.Tensor:
    """Actions int ``[N]`` to latent moves ``[N, latent_dim]``."""
    actions = torch.from_numpy(actions.astype(np.int64)).to(core.device)
    signs = 1 - 2 * (actions % 2)
    return core.directions[actions // 2] * (core.task.delta * signs)[:, None]


def read_options(
    core: EditCore, options: dict[str, Any] | None, count: int
) -> tuple[np.ndarray | None, Mapping[str, str] | None]:
    """Start latents ``[count, latent_dim]`` and target of ``reset``'s options, checked.

    Raises:
        ValueError: no dict, a latent of the wrong shape or out of bounds, or a target with unknown
            names.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ValueError(f"options is {options!r}; expected a dict")
    latent, target = options.get("latent"), options.get("target")
    if target is not None:
        if not isinstance(target, Mapping):
            raise ValueError(f"options['target'] is {target!r}; expected a dict")
        core.task.check_target(target)
    if latent is not None:
        latent = np.asarray(latent, dtype=np.float32)
        shape = (count, core.backbone.latent_dim)
        if latent.shape not in (shape, shape[1:]):
            raise ValueError(
                f"options['latent'] has shape {latent.shape}; expected {shape} or {shape[1:]}"
            )
        bound = core.task.latent_bound
        if not (np.abs(latent) <= bound).all():  # NaN fails too
            raise ValueError(
                f"options['latent'] must be finite and within latent_bound={bound}; "
                f"found values from {latent.min()} to {latent.max()}"
            )
        latent = np.broadcast_to(latent, shape).copy()
    return latent, target


def row_info(core: EditCore, rows: torch.Tensor) -> dict[str, Any]:
    """The infos that every reset and step has, batched over ``rows``."""
    return {"scores": core.scores(rows), "target": core.wanted[rows]}


def edit_view(core: EditCore, row: int) -> EditView:
    """What a frame shows of one row."""
    schema = core.schema
    probabilities = core.attributes[row].exp().cpu().numpy()
    start_seen = core.seen(core.start_attributes[row : row + 1])[0].cpu().numpy()
    start_probabilities = core.start_attributes[row].exp().cpu().numpy()
    target = schema.decode(core.wanted[row].cpu().numpy())
    columns = {a: schema.slices[a].start + schema.index(a, v) for a, v in target.items()}
    images = core.images(torch.stack([core.start_latents[row], core.latents[row]]))
    return EditView(
        start=images[0],
        current=images[1],
        target=target,
        attributes={
            name: (variants[int(p.argmax())], float(p.max()))
            for name, variants in schema.variants.items()
            for p in [probabilities[schema.slices[name]]]
        },
        target_probabilities={a: float(probabilities[c]) for a, c in columns.items()},
        start_target_probabilities={a: float(start_probabilities[c]) for a, c in columns.items()},
        start_attributes=schema.decode(start_seen),
        realism=float(torch.sigmoid(core.realism[row])),
        start_realism=float(torch.sigmoid(core.start_realism[row])),
        step=int(core.steps[row]),
        max_steps=None,  # gym.make tells nobody but its wrapper
        episode_return=float(core.returns[row]),
    )


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ValueError(
            f"render_mode is {render_mode!r}; allowed: None, {', '.join(map(repr, RENDER_MODES))}"
        )


def _line(value: object) -> str:
    """What it is, on one line."""
    return " ".join(repr(value).split())


def _first(info: dict[str, Any]) -> dict[str, Any]:
    """Row 0 of batched infos as plain Python numbers and numpy arrays."""
    first = {}
    for key, value in info.items():
        if isinstance(value, dict):
            first[key] = _first(value)
        else:
            first[key] = value[0].cpu().numpy().copy() if value.ndim > 1 else value[0].item()
    return first


def _spread(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """Batched infos of the rows in ``mask`` as full-length arrays, each with its ``_mask``."""
    spread: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, dict):
            spread[key] = _spread(value, mask)
        else:
            value = value.cpu().numpy()
            spread[key] = np.zeros((len(mask), *value.shape[1:]), dtype=value.dtype)
            spread[key][mask] = value
        spread[f"_{key}"] = mask.copy()
    return spread


def _narrow(infos: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """The same infos, shown for the rows in ``mask`` alone."""
    return {
        key: _narrow(value, mask)
        if isinstance(value, dict)
        else (value & mask if key.startswith("_") else value)
        for key, value in infos.items()
    }
