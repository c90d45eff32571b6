"""The one batched core of latent editing: it holds N latents, moves them, scores N images.

The single environment is this core with one row, the vector environment with n rows.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from gan_backbones import Backbone, BackboneError
from gan_backbones.latents.directions import direction_matrix
from gan_backbones.networks.inference import fold
from latentgym.scores import (
    ATTRIBUTE_SCORES,
    REALISM_SCORES,
    AttributeColumns,
    target_weights,
    weighted_mean,
)
from latentgym.task import WEIGHTS, EditTask

# A forked worker, of an AsyncVectorEnv for example, lacks the threads that torch made in its parent
# and would wait for them forever. Parallel workers are also fastest with one thread each.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

Rows = slice | torch.Tensor
"""Which rows: `ALL_ROWS`, which costs nothing to index with, or int64 indices."""

ALL_ROWS = slice(None)

MAX_IMAGES = 256
"""Images pass through the networks in chunks of this size, so memory does not grow with N."""

COMPONENTS = ("realism", "attributes", "keep", "identity", "success")
"""What a reward consists of, in this order."""

STATE = (
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
)
"""The attributes that make up a core's state, one entry per row in each."""

CHANGING = (*STATE, "evaluations", "_finite")
"""All attributes that a step or reset changes. They are replaced, never changed in place, so that
references to them are enough to undo it."""

SURE = 0.9
"""Probability that the classifier must give every wanted variant before an edit ends early."""

REALISTIC = 0.25
"""Probability that the discriminator must give an image before an edit ends early."""

MAX_START_DRAWS = 1000
"""Number of draws of a start that lacks the target before giving up."""


@dataclass
class Assessment:
    """Scores of N latents by the frozen networks.

    Attributes:
        realism: discriminator logits ``[N]``.
        attributes: log-probabilities ``[N, K]``, softmax within each attribute.
        identity: minus the mean absolute difference of pixels in [0, 1] from the row's start
            image, ``[N]``; zero unless the task has an identity term.
        judged: variant indices ``[N, A]`` that the judge sees, if it was asked.
        pictures: the images, uint8 ``[N, C, H, W]``, if the core needs them.
    """

    realism: torch.Tensor
    attributes: torch.Tensor
    identity: torch.Tensor
    judged: torch.Tensor | None = None
    pictures: torch.Tensor | None = None


class EditCore:
    """Rows of edits that advance together.

    A row is an edit: its latent, start, target and current assessment. Arguments and results of
    methods are batched over their ``rows`` argument.

    Args:
        task: the settings.
        num_envs: number of rows.
        keep_pictures: keep the current images, for observations.
        check_at_once: raise an error as soon as a network returns a value that is not finite.
            Otherwise only :meth:`raise_unless_finite` does, so a step need not wait for the
            device.

    Attributes:
        directions: unit moves ``[K, latent_dim]``.
        nudges: up and down along each direction by delta, ``[2 * K, latent_dim]``.
        latents: the current latents ``[num_envs, latent_dim]``.
        realism, attributes: their current :class:`Assessment`.
        goal_reached: whether the edit has reached its goal, bool ``[num_envs]``; see
            :meth:`reaches_goal`.
        pictures: the current images, uint8 ``[num_envs, C, H, W]``, or None.
        start_latents, start_realism, start_attributes: the same at the start.
        start_seen: one-hot of what the classifier saw in the start image ``[num_envs, K]``.
        wanted: one-hot targets ``[num_envs, K]``.
        evaluations: number of images generated and scored so far, resets included.
    """

    def __init__(
        self,
        task: EditTask,
        num_envs: int,
        keep_pictures: bool = False,
        check_at_once: bool = True,
    ):
        self.task = task
        self.num_envs = num_envs
        self.check_at_once = check_at_once
        self.backbone = task.loaded_backbone
        assert self.backbone.schema is not None  # the task has checked it
        self.schema = self.backbone.schema
        self.columns = list(self.schema.slices.values())
        self.device = torch.device(task.device)
        self.networks = _folded(self.backbone, self.device)
        self.directions = direction_matrix(
            self.backbone, task.directions, task.num_directions, task.num_probes
        ).to(self.device)
        self.nudges = task.delta * torch.stack([self.directions, -self.directions], 1).flatten(0, 1)
        self.attribute_columns = AttributeColumns(self.columns, self.device)
        self.evaluations = 0
        self._compiled: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] | None = None
        if task.compile:
            self._compiled = torch.compile(self._forward, dynamic=False, options={"freezing": True})
        self._finite = torch.ones((), dtype=torch.bool, device=self.device)

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.zeros(num_envs, *shape, dtype=dtype, device=self.device)

        latent_dim, size = self.backbone.latent_dim, self.schema.size
        self.image_shape = self._probe_image_shape(latent_dim)
        self.latents, self.start_latents = zeros(latent_dim), zeros(latent_dim)
        self.wanted, self.start_seen = zeros(size), zeros(size)
        self.realism, self.start_realism = zeros(), zeros()
        self.attributes, self.start_attributes = zeros(size), zeros(size)
        self.judged = zeros(len(self.schema.names), dtype=torch.int64)
        self.judged_at_start = self.judged.clone()
        self.goal_reached = zeros(dtype=torch.bool)
        identity = task.identity_weight > 0
        self._renders_images = keep_pictures or identity
        self.pictures = zeros(*self.image_shape, dtype=torch.uint8) if keep_pictures else None
        self.start_pictures = zeros(*self.image_shape, dtype=torch.uint8) if identity else None
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
        """Start new edits: draw targets and start latents unless they are given.

        Each row draws from its own generator, so its numbers do not depend on the other rows.

        Args:
            rows: the rows to act on.
            rngs: one generator per row of ``rows``.
            latent: start latents ``[len(rngs), latent_dim]``; taken as they are, target or not.
            target: wanted variants, the same for all ``rows``.

        Raises:
            RuntimeError: no start that lacks the target was found.
            FloatingPointError: a network returned a value that is not finite.
        """
        self.raise_unless_finite()
        targets = [target or self._draw_target(rng) for rng in rngs]
        wanted = torch.from_numpy(np.stack([self.schema.encode(t) for t in targets]))
        self._put("wanted", rows, wanted.to(self.device))
        if latent is not None:
            latents = torch.as_tensor(latent, dtype=torch.float32, device=self.device)
            self._place(rows, self.clip(latents))
        else:
            self._draw_starts(rows, rngs)
        wanted, seen = self.wanted[rows], self.seen(self.attributes[rows])
        targeted = wanted @ self.attribute_columns.same_attribute
        self._put("_target_weights", rows, target_weights(wanted))
        self._put("_keep_weights", rows, target_weights(seen * (1 - targeted)))
        self._put("start_seen", rows, seen)
        self._put("start_latents", rows, self.latents[rows])
        self._put("start_realism", rows, self.realism[rows])
        self._put("start_attributes", rows, self.attributes[rows])
        self._put("_realism_bar", rows, self.realism[rows].clamp(min=_logit(REALISTIC)))
        identity = torch.zeros(len(rngs), dtype=torch.float32, device=self.device)
        self._update(rows, Assessment(self.realism[rows], self.attributes[rows], identity))

    def step(self, rows: Rows, moves: torch.Tensor, judge: bool = False) -> torch.Tensor:
        """Add ``moves`` to the latents, keep them in bounds, and score the new images.

        Args:
            rows: the rows to act on.
            moves: ``[len(rows), latent_dim]``.
            judge: also run the judge, so that its metrics need no further forward pass.

        Returns:
            The reward's `COMPONENTS`, float32 ``[len(COMPONENTS), len(rows)]``; the reward is
            their sum.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
            BackboneError: a network returned another shape than before.
        """
        self._put("latents", rows, self.clip(self.latents[rows] + moves))
        return self._update(rows, self._assess(rows, judge))

    def clip(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents ``[N, latent_dim]`` brought back into the task's bounds."""
        bound = self.task.latent_bound
        if isinstance(bound, str):  # "sphere"
            # In double precision, so that rounding does not depend on the other rows.
            unit = nn.functional.normalize(latents.double(), dim=1, eps=1e-60)
            return (unit * math.sqrt(latents.shape[1])).float()
        return latents.clamp(-bound, bound)

    # Scores -------------------------------------------------------------------------------------

    def assess(self, latents: torch.Tensor, rows: Rows, judge: bool = False) -> Assessment:
        """Generate and score images of ``latents`` ``[N, latent_dim]``, in chunks.

        Differentiable, unless called under ``torch.no_grad``.

        Args:
            latents: any, as if they were those of ``rows``.
            rows: ``N`` rows, whose start images the identity term compares with.
            judge: also run the judge.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
            BackboneError: a network returned another shape than before.
        """
        starts = None if self.start_pictures is None else self.start_pictures[rows]
        parts = [
            self._assess_chunk(
                latents[i : i + MAX_IMAGES],
                None if starts is None else starts[i : i + MAX_IMAGES],
                judge,
            )
            for i in range(0, max(len(latents), 1), MAX_IMAGES)
        ]
        self.evaluations += len(latents)
        assessment = parts[0] if len(parts) == 1 else _concatenate(parts)
        total = assessment.realism.detach().sum() + assessment.attributes.detach().sum()
        if self.check_at_once:
            _raise_unless(math.isfinite(total))
        else:
            self._finite = self._finite & torch.isfinite(total)
        return assessment

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The networks' images, realism logits and attribute logits, of at most `MAX_IMAGES`."""
        forward: Callable[[torch.Tensor], tuple[torch.Tensor, ...]] = self._forward
        # Every other size than the usual, and gradients, would be compiled anew.
        usual = len(latents) == min(self.num_envs, MAX_IMAGES) and not torch.is_grad_enabled()
        if self._compiled is not None and usual:
            forward = self._compiled
        if not self.task.bf16:
            return forward(latents)
        with torch.autocast(self.device.type, torch.bfloat16):
            images, realism, logits = forward(latents)
        return images.float(), realism.float(), logits.float()

    def raise_unless_finite(self) -> None:
        """Raise a FloatingPointError if any score since the last call was not finite."""
        finite, self._finite = self._finite, torch.ones_like(self._finite)
        _raise_unless(self.check_at_once or bool(finite))

    def potential(self, assessment: Assessment, rows: Rows) -> torch.Tensor:
        """The weighted scores whose differences are the reward: ``[len(COMPONENTS), N]``.

        ``assessment`` may be of any images, as if they were the rows' current ones.
        """
        return self._weighted(assessment, rows, self.reaches_goal(assessment, rows))

    def reaches_goal(self, assessment: Assessment, rows: Rows) -> torch.Tensor:
        """Return whether the edit reaches its goal: target certain, image realistic.

        Args:
            assessment: of any images, as if they were the rows' current ones.
            rows: the rows to act on.

        Returns:
            Bool ``[N]``: every wanted variant has a probability of `SURE` at least, and realism is
            at least `REALISTIC` and the start's.
        """
        sure = (assessment.attributes * self.wanted[rows] >= math.log(SURE)).all(dim=1)
        return sure & (assessment.realism >= self._realism_bar[rows])

    # What is seen -------------------------------------------------------------------------------

    def info(self, rows: Rows) -> dict[str, Any]:
        """The infos that every reset and step has: ``scores`` and the one-hot ``target``."""
        return {"scores": self.scores(rows), "target": self.wanted[rows].clone()}

    def scores(self, rows: Rows) -> dict[str, torch.Tensor]:
        """What ``info["scores"]`` shows, ``[N]`` each.

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
        """The most likely variant of each attribute as one-hot ``[N, K]``."""
        columns = self.attribute_columns
        return columns.one_hot(columns.labels(log_probabilities))

    def judge_metrics(self, rows: Rows, judged: bool = False) -> dict[str, torch.Tensor]:
        """Return the judge's metrics of the edits so far, ``[N]`` each.

        ``is_success``: it sees every wanted variant, and realism is not below the start's.
        ``kept``: share of the attributes outside the target that it sees unchanged from the start
        image. ``drift``: Euclidean distance of the latent from the start. Without a judge in the
        backbone the classifier stands in.

        Args:
            rows: the rows to act on.
            judged: whether the judge ran in the last step of these rows; otherwise it runs now.
        """
        if not judged:
            self._put("judged", rows, self._judge_latents(self.latents[rows]))
        labels, wanted = self.judged[rows], self.wanted[rows]
        free = wanted @ self.attribute_columns.same_attribute == 0
        free = free[:, self.attribute_columns.starts]
        unchanged = (labels == self.judged_at_start[rows]) & free
        sees = self._sees(self.attribute_columns.one_hot(labels), rows)
        return {
            "is_success": sees & (self.realism[rows] >= self.start_realism[rows]),
            "kept": unchanged.sum(dim=1) / free.sum(dim=1).clamp(min=1),
            "drift": (self.latents[rows] - self.start_latents[rows]).norm(dim=1),
        }

    def images(self, latents: torch.Tensor) -> np.ndarray:
        """The pictures of ``latents``: uint8 ``[N, H, W, 3]``."""
        generator = self.networks["generator"]
        with torch.no_grad():
            pictures = torch.cat([_to_uint8(generator(c)) for c in latents.split(MAX_IMAGES)])
        return pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()

    # Saving -------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of all that changes during an edit."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self._state().items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what :meth:`get_state` of a core with the same task and size returned."""
        for name in self._state():
            setattr(self, name, torch.from_numpy(state[name].copy()).to(self.device))

    def _state(self) -> dict[str, torch.Tensor]:
        tensors = {name: getattr(self, name) for name in STATE}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

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
        """Draw start latents from the prior, again where the start has the target already."""
        pending = np.arange(len(rngs))
        indices = torch.arange(self.num_envs, device=self.device)[rows]
        for _ in range(MAX_START_DRAWS):
            latent_dim = self.backbone.latent_dim
            drawn = np.stack([rngs[i].standard_normal(latent_dim) for i in pending.tolist()])
            latents = torch.from_numpy(drawn.astype(np.float32)).to(self.device)
            everyone = len(pending) == len(rngs)
            current = rows if everyone else indices[torch.from_numpy(pending).to(self.device)]
            self._place(current, self.clip(latents))
            if self.task.start == "any":
                return
            judged = self.attribute_columns.one_hot(self.judged_at_start[current])
            has_target = self._sees(self.seen(self.attributes[current]), current)
            has_target |= self._sees(judged, current)
            pending = pending[has_target.cpu().numpy()]
            if not len(pending):
                return
        target = self.schema.decode(self.wanted[indices[pending[0]]].cpu().numpy())
        raise RuntimeError(
            f"{MAX_START_DRAWS} random starts all show the target {target}; pass start='any'"
        )

    def _place(self, rows: Rows, latents: torch.Tensor) -> None:
        self._put("latents", rows, latents)
        assessment = self._assess(rows, judge=True)
        self._put("judged_at_start", rows, self.judged[rows])
        if self.start_pictures is not None:
            self._put("start_pictures", rows, assessment.pictures)

    @torch.no_grad()
    def _assess(self, rows: Rows, judge: bool) -> Assessment:
        """Assess the rows' current latents, and remember."""
        assessment = self.assess(self.latents[rows], rows, judge)
        self._put("realism", rows, assessment.realism)
        self._put("attributes", rows, assessment.attributes)
        if judge:
            self._put("judged", rows, assessment.judged)
        if self.pictures is not None:
            self._put("pictures", rows, assessment.pictures)
        return assessment

    def _put(self, name: str, rows: Rows, value: torch.Tensor | None, axis: int = 0) -> None:
        """Set some rows of a tensor of the state, in a copy; all of them without one."""
        if isinstance(rows, torch.Tensor):
            value = getattr(self, name).index_copy(axis, rows, value)
        setattr(self, name, value)

    def _assess_chunk(
        self, latents: torch.Tensor, starts: torch.Tensor | None, judge: bool
    ) -> Assessment:
        images, realism, logits = self.forward(latents)
        _check_shape("discriminator", realism, (len(latents),))
        _check_shape("classifier", logits, (len(latents), self.schema.size))
        identity = torch.zeros_like(realism)
        if starts is not None:
            identity = -(_to_unit(images) - starts / 255).abs().mean(dim=(1, 2, 3))
        return Assessment(
            realism,
            self.attribute_columns.log_probabilities(logits),
            identity,
            self._judge(images.float()) if judge else None,
            _to_uint8(images) if self._renders_images else None,
        )

    def _forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        images = self.networks["generator"](latents)
        _check_shape("generator", images, (len(latents), *self.image_shape))
        if "discriminator" in self.networks:
            realism = self.networks["discriminator"](images)
        else:
            realism = images.new_zeros(len(images))
        return images, realism, self.networks["classifier"](images)

    @torch.no_grad()
    def _probe_image_shape(self, latent_dim: int) -> tuple[int, ...]:
        images = self.networks["generator"](
            torch.zeros(2, latent_dim, dtype=torch.float32, device=self.device)
        )
        if images.ndim != 4 or len(images) != 2 or images.shape[1] not in (1, 3):
            raise BackboneError(
                f"the generator makes images of shape {tuple(images.shape)} from 2 latents; "
                "expected (2, 1 or 3, H, W)"
            )
        return tuple(images.shape[1:])

    def _update(self, rows: Rows, now: Assessment) -> torch.Tensor:
        """Make ``now`` the rows' current scores; return the change in potential."""
        goal_reached = self.reaches_goal(now, rows)
        after = self._weighted(now, rows, goal_reached)
        rewards = after - self._potential[:, rows]
        if self.task.attribute_reward == "absolute":
            attributes = COMPONENTS.index("attributes")
            rewards[attributes] = after[attributes]
        self._put("_potential", rows, after, axis=1)
        self._put("goal_reached", rows, goal_reached)
        return rewards

    def _weighted(
        self, assessment: Assessment, rows: Rows, goal_reached: torch.Tensor
    ) -> torch.Tensor:
        target_score = ATTRIBUTE_SCORES[self.task.attribute_score]
        scores = {
            "realism": REALISM_SCORES[self.task.realism_score](assessment.realism),
            "attributes": target_score(
                assessment.attributes,
                self._target_weights[rows],
                self.attribute_columns.same_attribute,
            ),
            "keep": weighted_mean(assessment.attributes, self._keep_weights[rows]),
            "identity": assessment.identity,
            "success": goal_reached,
        }
        return torch.stack([scores[name] for name in COMPONENTS]) * self._weights

    @torch.no_grad()
    def _judge_latents(self, latents: torch.Tensor) -> torch.Tensor:
        generator = self.networks["generator"]
        return torch.cat([self._judge(generator(chunk)) for chunk in latents.split(MAX_IMAGES)])

    def _judge(self, images: torch.Tensor) -> torch.Tensor:
        """Variant indices ``[N, A]`` that the judge sees."""
        logits = self.networks.get("judge", self.networks["classifier"])(images)
        _check_shape("judge", logits, (len(images), self.schema.size))
        return self.attribute_columns.labels(logits)

    def _sees(self, seen: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Whether one-hot ``seen`` holds every wanted variant."""
        return ((seen - self.wanted[rows]) >= 0).all(dim=1)


@lru_cache(maxsize=8)
def _folded(backbone: Backbone, device: torch.device) -> dict[str, nn.Module]:
    """The backbone's networks prepared for speed, shared by all environments of a process."""
    return {role: fold(network).to(device) for role, network in backbone.networks.items()}


def _check_shape(role: str, output: torch.Tensor, expected: tuple[int, ...]) -> None:
    if output.shape != expected:
        raise BackboneError(f"the {role} returned shape {tuple(output.shape)}; expected {expected}")


def _concatenate(parts: list[Assessment]) -> Assessment:
    names = [field.name for field in dataclasses.fields(Assessment)]
    columns: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in names}
    joined: dict[str, Any] = {
        name: None if column[0] is None else torch.cat(column) for name, column in columns.items()
    }
    return Assessment(**joined)


def _raise_unless(finite: bool) -> None:
    if not finite:
        raise FloatingPointError(
            "the backbone's networks returned a score that is not finite; the edit cannot continue"
        )


def _to_unit(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] to [0, 1]."""
    return (images.float() + 1) / 2


def _to_uint8(images: torch.Tensor) -> torch.Tensor:
    return (255 * _to_unit(images)).round().clamp(0, 255).byte()


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
