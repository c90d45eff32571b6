"""The batched core of latent editing: it holds N latents, moves them and scores N images.

The single environment is this core with one row, the vector environment with ``num_envs`` rows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from latentgym.assessor import Assessment, NetworkAssessor, to_rgb
from latentgym.scores import (
    ATTRIBUTE_SCORES,
    REALISM_SCORES,
    AttributeColumns,
    target_weights,
    weighted_mean,
)
from latentgym.task import WEIGHTS, EditTask

# A forked worker, such as an AsyncVectorEnv's, lacks the threads that torch started in its parent,
# and would wait for them without end. One thread each is also fastest for parallel workers.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

Rows = slice | torch.Tensor
"""Rows of the core: int64 indices, or a slice for all of them, which is free to index with."""

ALL_ROWS = slice(None)

COMPONENTS = ("realism", "attributes", "keep", "identity", "success")
"""The components of a reward, in order."""

CHANGING = (
    "latents",
    "realism",
    "attributes",
    "judged",
    "goal_reached",
    "pictures",
    "wanted",
    "start_latents",
    "start_realism",
    "start_attributes",
    "start_seen",
    "start_pictures",
    "judged_at_start",
    "_target_weights",
    "_keep_weights",
    "_realism_bar",
    "_potential",
    "evaluations",
    "_finite",
)
"""The attributes that a step or reset changes. They are replaced, never changed in place, so that
keeping references to them is enough to undo it."""

GOAL_PROBABILITY = 0.9
"""The goal is reached only if the classifier gives every wanted variant this probability."""

GOAL_REALISM = 0.25
"""The goal is reached only if the discriminator gives the image this probability of being real."""

MAX_START_DRAWS = 1000
"""Number of random starts that are tried before a target is called impossible."""


class EditCore:
    """Rows of edits that advance together.

    Each row is one edit: its latent, start, target and current scores. Methods take ``rows``; all
    that they receive and return is batched over these.

    Args:
        task: settings of the edit.
        num_envs: number of rows.
        keep_pictures: keep the current images, for observations.
        check_at_once: raise as soon as a network returns a value that is not finite. Otherwise
            only :meth:`raise_unless_finite` does, so that a step need not wait for the device.

    Attributes:
        assessor: scores latents.
        directions: unit moves ``[K, latent_dim]``.
        nudges: up and down along each direction by delta, ``[2 * K, latent_dim]``.
        latents: current latents ``[num_envs, latent_dim]``.
        realism, attributes: their scores, see `Assessment`.
        goal_reached: whether the goal is reached, bool ``[num_envs]``; see :meth:`check_goal`.
        pictures: current images, uint8 ``[num_envs, C, H, W]``, or None.
        start_latents, start_realism, start_attributes: the same at the start.
        start_seen: one-hot of what the classifier saw in the start image ``[num_envs, K]``.
        wanted: one-hot targets ``[num_envs, K]``.
        evaluations: number of images generated and scored so far, resets included.

    Raises:
        ValueError: the backbone does not fit the settings.
        BackboneError: unknown backbone, damaged file, or networks that return unexpected shapes.
    """

    def __init__(
        self,
        task: EditTask,
        num_envs: int,
        keep_pictures: bool = False,
        check_at_once: bool = True,
    ):
        task.check_backbone()
        self.task = task
        self.num_envs = num_envs
        self.check_at_once = check_at_once
        self.backbone = task.loaded_backbone
        self.schema = task.schema
        self.device = torch.device(task.device)
        self.directions = task.direction_matrix().to(self.device)
        self.nudges = task.delta * torch.stack([self.directions, -self.directions], 1).flatten(0, 1)
        self.attribute_columns = AttributeColumns(list(self.schema.slices.values()), self.device)
        self.assessor = NetworkAssessor(task, self.attribute_columns, num_envs)
        self.evaluations = 0
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(num_envs, *shape, dtype=dtype, device=self.device)

        latent_dim, size = self.backbone.latent_dim, self.schema.size
        has_identity = task.identity_weight > 0
        self.image_shape = self.assessor.image_shape
        self.latents, self.start_latents = zeros(latent_dim), zeros(latent_dim)
        self.wanted, self.start_seen = zeros(size), zeros(size)
        self.realism, self.start_realism = zeros(), zeros()
        self.attributes, self.start_attributes = zeros(size), zeros(size)
        self.judged = zeros(len(self.schema.names), dtype=torch.int64)
        self.judged_at_start = self.judged.clone()
        self.goal_reached = zeros(dtype=torch.bool)
        self.pictures = zeros(*self.image_shape, dtype=torch.uint8) if keep_pictures else None
        self.start_pictures = zeros(*self.image_shape, dtype=torch.uint8) if has_identity else None
        self._renders_images = keep_pictures or has_identity
        self._target_weights, self._keep_weights = zeros(size), zeros(size)
        self._realism_bar = zeros()
        self._potential = torch.zeros(
            len(COMPONENTS), num_envs, dtype=torch.float32, device=self.device
        )
        self._weights = torch.tensor(
            [[getattr(task, name)] for name in WEIGHTS], dtype=torch.float32, device=self.device
        )

    # Episodes -----------------------------------------------------------------------------------

    def reset(
        self,
        rows: Rows,
        rngs: Sequence[np.random.Generator],
        latent: np.ndarray | None = None,
        target: Mapping[str, str] | None = None,
    ) -> None:
        """Start new edits: draw targets and start latents unless they are passed.

        Each row draws from its own generator, so that its episode does not depend on other rows.

        Args:
            rows: rows to reset.
            rngs: one random generator per row of ``rows``.
            latent: start latents ``[len(rngs), latent_dim]``; used even if they show the target.
            target: wanted variants, the same for all ``rows``.

        Raises:
            RuntimeError: no start that lacks the target was found.
            FloatingPointError: a network returned a value that is not finite.
        """
        self.raise_unless_finite()
        targets = [target or self._draw_target(rng) for rng in rngs]
        one_hots = torch.from_numpy(np.stack([self.schema.encode(each) for each in targets]))
        self.wanted = _with_rows(self.wanted, rows, one_hots.to(self.device))
        if latent is not None:
            latents = torch.as_tensor(latent, dtype=torch.float32, device=self.device)
            self._place_starts(rows, self.bounded(latents))
        else:
            self._draw_starts(rows, rngs)
        wanted, seen = self.wanted[rows], self.seen(self.attributes[rows])
        realism, attributes = self.realism[rows], self.attributes[rows]
        is_targeted = wanted @ self.attribute_columns.same_attribute
        keep = target_weights(seen * (1 - is_targeted))
        bar = realism.clamp(min=_logit(GOAL_REALISM))
        self._target_weights = _with_rows(self._target_weights, rows, target_weights(wanted))
        self._keep_weights = _with_rows(self._keep_weights, rows, keep)
        self._realism_bar = _with_rows(self._realism_bar, rows, bar)
        self.start_seen = _with_rows(self.start_seen, rows, seen)
        self.start_latents = _with_rows(self.start_latents, rows, self.latents[rows])
        self.start_realism = _with_rows(self.start_realism, rows, realism)
        self.start_attributes = _with_rows(self.start_attributes, rows, attributes)
        identity = torch.zeros(len(rngs), dtype=torch.float32, device=self.device)
        self._update_potential(rows, Assessment(realism, attributes, identity))

    def step(self, rows: Rows, moves: torch.Tensor, judge: bool = False) -> torch.Tensor:
        """Add ``moves`` to the latents, keep them in bounds, and score the new images.

        Args:
            rows: rows to move.
            moves: float32 ``[len(rows), latent_dim]``.
            judge: ask the judge as well, so that :meth:`judge_metrics` needs no forward pass.

        Returns:
            The reward's `COMPONENTS`, float32 ``[len(COMPONENTS), len(rows)]``. The reward of the
            improvement is their sum.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
            BackboneError: a network returned an unexpected shape.
        """
        self.latents = _with_rows(self.latents, rows, self.bounded(self.latents[rows] + moves))
        assessment = self._assess_rows(rows, judge)
        before = self._potential[:, rows]
        after = self._update_potential(rows, assessment)
        components = after - before
        if self.task.attribute_reward == "absolute":
            attributes = COMPONENTS.index("attributes")
            components[attributes] = after[attributes]
        return components

    def bounded(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents ``[N, latent_dim]`` brought back into the task's bounds."""
        bound = self.task.latent_bound
        if isinstance(bound, str):  # "sphere"
            # In double precision, so that rounding does not depend on the other rows.
            unit = nn.functional.normalize(latents.double(), dim=1, eps=1e-60)
            return (unit * math.sqrt(latents.shape[1])).float()
        return latents.clamp(-bound, bound)

    # Scores -------------------------------------------------------------------------------------

    def assess(self, latents: torch.Tensor, rows: Rows, judge: bool = False) -> Assessment:
        """Generate and score images. Differentiable, unless under ``torch.no_grad``.

        Args:
            latents: float32 ``[N, latent_dim]``, scored as if they were those of ``rows``.
            rows: N rows; ``identity`` is measured against their start images.
            judge: ask the judge as well.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
            BackboneError: a network returned an unexpected shape.
        """
        starts = None if self.start_pictures is None else self.start_pictures[rows]
        assessment = self.assessor.assess(latents, starts, judge, self._renders_images)
        self.evaluations += len(latents)
        total = assessment.realism.detach().sum() + assessment.attributes.detach().sum()
        if self.check_at_once:
            _raise_unless(math.isfinite(total))
        else:
            self._finite = self._finite & torch.isfinite(total)
        return assessment

    def raise_unless_finite(self) -> None:
        """Raise a FloatingPointError if any score since the last call was not finite."""
        finite, self._finite = self._finite, torch.ones_like(self._finite)
        _raise_unless(self.check_at_once or bool(finite))

    def potential(self, assessment: Assessment, rows: Rows) -> torch.Tensor:
        """Return the weighted scores whose change is the reward: ``[len(COMPONENTS), N]``.

        Args:
            assessment: scores of any N latents, as if they were the current ones of ``rows``.
            rows: N rows.
        """
        return self._weighted_scores(assessment, rows, self.check_goal(assessment, rows))

    def check_goal(self, assessment: Assessment, rows: Rows) -> torch.Tensor:
        """Return whether the goal is reached: target certain, and image as realistic as the start.

        Args:
            assessment: scores of any N latents, as if they were the current ones of ``rows``.
            rows: N rows.

        Returns:
            Bool ``[N]``: every wanted variant has a probability of at least `GOAL_PROBABILITY`,
            and realism is at least `GOAL_REALISM` and at least the start's.
        """
        has_target = (assessment.attributes * self.wanted[rows] >= math.log(GOAL_PROBABILITY)).all(
            dim=1
        )
        return has_target & (assessment.realism >= self._realism_bar[rows])

    # Infos --------------------------------------------------------------------------------------

    def info(self, rows: Rows) -> dict[str, Any]:
        """Return the infos of every reset and step: ``scores`` and the one-hot ``target``."""
        return {"scores": self.scores(rows), "target": self.wanted[rows].clone()}

    def scores(self, rows: Rows) -> dict[str, torch.Tensor]:
        """Return ``info["scores"]``, ``[N]`` each.

        ``realism``: the discriminator's probability now; ``start_realism``: at the start;
        ``target``: mean probability of the wanted variants; ``kept``: mean probability of what
        the start image had in the other attributes.
        """
        probabilities = self.attributes[rows].exp()
        return {
            "realism": torch.sigmoid(self.realism[rows]),
            "start_realism": torch.sigmoid(self.start_realism[rows]),
            "target": weighted_mean(probabilities, self._target_weights[rows]),
            "kept": weighted_mean(probabilities, self._keep_weights[rows]),
        }

    def seen(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Return the most likely variant of each attribute as one-hot ``[N, K]``."""
        columns = self.attribute_columns
        return columns.one_hot(columns.labels(log_probabilities))

    def judge_metrics(self, rows: Rows, judged: bool = False) -> dict[str, torch.Tensor]:
        """Return the judge's metrics of the edits so far, ``[N]`` each.

        ``is_success``: it sees every wanted variant, and realism is not below the start's.
        ``kept``: share of the attributes outside the target that it sees unchanged from the start
        image. ``drift``: Euclidean distance of the latent from the start. The classifier stands in
        if the backbone has no judge.

        Args:
            rows: rows to judge.
            judged: whether the judge was asked in the last step of these rows; if not, ask it now.
        """
        if not judged:
            labels = self.assessor.judge(self.latents[rows])
            self.judged = _with_rows(self.judged, rows, labels)
        labels, wanted = self.judged[rows], self.wanted[rows]
        is_free = wanted @ self.attribute_columns.same_attribute == 0
        is_free = is_free[:, self.attribute_columns.starts]
        unchanged = (labels == self.judged_at_start[rows]) & is_free
        has_target = self._has_target(self.attribute_columns.one_hot(labels), rows)
        return {
            "is_success": has_target & (self.realism[rows] >= self.start_realism[rows]),
            "kept": unchanged.sum(dim=1) / is_free.sum(dim=1).clamp(min=1),
            "drift": (self.latents[rows] - self.start_latents[rows]).norm(dim=1),
        }

    def images(self, latents: torch.Tensor) -> np.ndarray:
        """Return the images of ``latents`` as uint8 ``[N, H, W, 3]``."""
        return to_rgb(self.assessor.pictures(latents))

    # Saving -------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, np.ndarray]:
        """Return copies of all that changes during an edit."""
        state = {
            "latents": self.latents,
            "realism": self.realism,
            "attributes": self.attributes,
            "judged": self.judged,
            "resting": self.goal_reached,  # named as in files saved so far
            "pictures": self.pictures,
            "wanted": self.wanted,
            "start_latents": self.start_latents,
            "start_realism": self.start_realism,
            "start_attributes": self.start_attributes,
            "start_seen": self.start_seen,
            "start_pictures": self.start_pictures,
            "judged_at_start": self.judged_at_start,
            "_target_weights": self._target_weights,
            "_keep_weights": self._keep_weights,
            "_realism_bar": self._realism_bar,
            "_potential": self._potential,
        }
        return {
            name: tensor.cpu().numpy().copy()
            for name, tensor in state.items()
            if tensor is not None
        }

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what :meth:`get_state` returned, for the same task and ``num_envs``."""

        def tensor(name: str) -> torch.Tensor:
            return torch.from_numpy(state[name].copy()).to(self.device)

        self.latents = tensor("latents")
        self.realism = tensor("realism")
        self.attributes = tensor("attributes")
        self.judged = tensor("judged")
        self.goal_reached = tensor("resting")
        self.wanted = tensor("wanted")
        self.start_latents = tensor("start_latents")
        self.start_realism = tensor("start_realism")
        self.start_attributes = tensor("start_attributes")
        self.start_seen = tensor("start_seen")
        self.judged_at_start = tensor("judged_at_start")
        self._target_weights = tensor("_target_weights")
        self._keep_weights = tensor("_keep_weights")
        self._realism_bar = tensor("_realism_bar")
        self._potential = tensor("_potential")
        if self.pictures is not None:
            self.pictures = tensor("pictures")
        if self.start_pictures is not None:
            self.start_pictures = tensor("start_pictures")

    # Inside -------------------------------------------------------------------------------------

    def _draw_target(self, rng: np.random.Generator) -> dict[str, str]:
        target = self.task.target
        if isinstance(target, Mapping):
            return dict(target)
        names = self.schema.editable if target is None else tuple(target)
        name = names[rng.integers(len(names))]
        variants = self.schema.variants[name]
        return {name: variants[rng.integers(len(variants))]}

    def _draw_starts(self, rows: Rows, rngs: Sequence[np.random.Generator]) -> None:
        """Draw start latents from the prior; redraw those whose image has the target already."""
        pending = np.arange(len(rngs))
        indices = torch.arange(self.num_envs, device=self.device)[rows]
        for _ in range(MAX_START_DRAWS):
            latent_dim = self.backbone.latent_dim
            drawn = np.stack([rngs[int(i)].standard_normal(latent_dim) for i in pending])
            latents = torch.from_numpy(drawn.astype(np.float32)).to(self.device)
            if len(pending) == len(rngs):
                current = rows
            else:
                current = indices[torch.from_numpy(pending).to(self.device)]
            self._place_starts(current, self.bounded(latents))
            if self.task.start == "any":
                return
            judged = self.attribute_columns.one_hot(self.judged_at_start[current])
            has_target = self._has_target(self.seen(self.attributes[current]), current)
            has_target |= self._has_target(judged, current)
            pending = pending[has_target.cpu().numpy()]
            if not len(pending):
                return
        target = self.schema.decode(self.wanted[indices[pending[0]]].cpu().numpy())
        raise RuntimeError(
            f"{MAX_START_DRAWS} random starts all show the target {target}; pass start='any'"
        )

    def _place_starts(self, rows: Rows, latents: torch.Tensor) -> None:
        self.latents = _with_rows(self.latents, rows, latents)
        assessment = self._assess_rows(rows, judge=True)
        self.judged_at_start = _with_rows(self.judged_at_start, rows, self.judged[rows])
        if self.start_pictures is not None:
            assert assessment.pictures is not None
            self.start_pictures = _with_rows(self.start_pictures, rows, assessment.pictures)

    @torch.no_grad()
    def _assess_rows(self, rows: Rows, judge: bool) -> Assessment:
        """Score the rows' current latents, and store the scores."""
        assessment = self.assess(self.latents[rows], rows, judge)
        self.realism = _with_rows(self.realism, rows, assessment.realism)
        self.attributes = _with_rows(self.attributes, rows, assessment.attributes)
        if assessment.judged is not None:
            self.judged = _with_rows(self.judged, rows, assessment.judged)
        if self.pictures is not None:
            assert assessment.pictures is not None
            self.pictures = _with_rows(self.pictures, rows, assessment.pictures)
        return assessment

    def _update_potential(self, rows: Rows, assessment: Assessment) -> torch.Tensor:
        """Store and return the potential of the rows' current latents."""
        goal_reached = self.check_goal(assessment, rows)
        potential = self._weighted_scores(assessment, rows, goal_reached)
        self.goal_reached = _with_rows(self.goal_reached, rows, goal_reached)
        self._potential = _with_rows(self._potential, rows, potential, axis=1)
        return potential

    def _weighted_scores(
        self, assessment: Assessment, rows: Rows, goal_reached: torch.Tensor
    ) -> torch.Tensor:
        attribute_score = ATTRIBUTE_SCORES[self.task.attribute_score]
        scores = {
            "realism": REALISM_SCORES[self.task.realism_score](assessment.realism),
            "attributes": attribute_score(
                assessment.attributes,
                self._target_weights[rows],
                self.attribute_columns.same_attribute,
            ),
            "keep": weighted_mean(assessment.attributes, self._keep_weights[rows]),
            "identity": assessment.identity,
            "success": goal_reached,
        }
        return torch.stack([scores[name] for name in COMPONENTS]) * self._weights

    def _has_target(self, seen: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Return whether one-hot ``seen`` ``[N, K]`` holds every wanted variant, bool ``[N]``."""
        return ((seen - self.wanted[rows]) >= 0).all(dim=1)


def _with_rows(
    tensor: torch.Tensor, rows: Rows, values: torch.Tensor, axis: int = 0
) -> torch.Tensor:
    """Return a copy of ``tensor`` with other values in some rows; ``values`` itself for all."""
    if isinstance(rows, slice):
        return values
    return tensor.index_copy(axis, rows, values)


def _raise_unless(finite: bool) -> None:
    if not finite:
        raise FloatingPointError(
            "the backbone's networks returned a score that is not finite; the edit cannot continue"
        )


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
