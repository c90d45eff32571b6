"""The one batched core of latent editing: it holds N latents, moves them, scores N images.

The single environment is this core with one row, the vector environment with n rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from gan_backbones import Backbone
from gan_backbones.inference import fold
from latentgym.directions import direction_matrix
from latentgym.scores import (
    ATTRIBUTE_SCORES,
    REALISM_SCORES,
    attribute_log_probabilities,
    mean_wanted,
)
from latentgym.task import EditTask

MAX_IMAGES = 256
"""Images pass through the networks in chunks of this size, so memory does not grow with N."""

COMPONENTS = ("realism", "attributes", "keep", "success")
"""What a reward consists of, in this order."""

SURE = 0.9
"""How probable the classifier must find a wanted variant before an edit ends early."""

REALISTIC = 0.25
"""How probably real the discriminator must find an image before an edit ends early."""

MAX_START_DRAWS = 1000
"""A start that lacks the target is looked for this often before the task is called impossible."""


@dataclass
class Assessment:
    """What the frozen networks say about N latents.

    Attributes:
        realism: discriminator logits ``[N]``.
        attributes: log-probabilities ``[N, K]``, softmax within each attribute.
        judged: variant indices ``[N, A]`` that the judge sees, if it was asked.
    """

    realism: torch.Tensor
    attributes: torch.Tensor
    judged: torch.Tensor | None = None


class EditCore:
    """Rows of edits that advance together.

    A row is an edit: its latent, start, target and current assessment. ``rows`` arguments are
    int64 index tensors; what a method is given and returns is batched over them.

    Args:
        task: the settings.
        count: how many rows.
        judge_always: ask the judge at every move, so that a verdict costs no forward pass.

    Attributes:
        latents: the current latents ``[count, latent_dim]``.
        realism, attributes: their current :class:`Assessment`.
        start_latents, start_realism, start_attributes: the same at the start.
        wanted: one-hot targets ``[count, K]``.
        to_keep: one-hot of what the classifier saw at the start in attributes outside the target.
        steps: moves made since the start, int64 ``[count]``.
        returns: rewards summed since the start ``[count]``.
        evaluations: how many images were generated and scored so far, resets included.
    """

    def __init__(self, task: EditTask, count: int, judge_always: bool = False):
        self.task = task
        self.judge_always = judge_always
        self.backbone = task.load_backbone()
        self.schema = self.backbone.schema
        self.columns = list(self.schema.slices.values())
        self.device = torch.device(task.device)
        self.networks = _folded(self.backbone, self.device)
        self.directions = direction_matrix(self.backbone, task.directions, task.num_directions).to(
            self.device
        )
        self.evaluations = 0
        self._column_starts = torch.tensor([c.start for c in self.columns], device=self.device)
        # [K, K]: 1 where two columns belong to the same attribute.
        self._same_attribute = torch.block_diag(
            *[torch.ones(size, size) for size in self.schema.sizes]
        ).to(self.device)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(count, *shape, device=self.device)

        latent_dim, size = self.backbone.latent_dim, self.schema.size
        self.latents, self.start_latents = zeros(latent_dim), zeros(latent_dim)
        self.wanted, self.to_keep = zeros(size), zeros(size)
        self.realism, self.start_realism = zeros(), zeros()
        self.attributes, self.start_attributes = zeros(size), zeros(size)
        self.judged = zeros(len(self.schema.names)).long()
        self.judged_at_start = self.judged.clone()
        self.steps = zeros().long()
        self.returns = zeros().double()
        self._potential = zeros(len(COMPONENTS))

    # Episodes -----------------------------------------------------------------------------------

    def begin(
        self,
        rows: torch.Tensor,
        rngs: Sequence[np.random.Generator],
        latent: np.ndarray | None = None,
        target: Mapping[str, str] | None = None,
    ) -> None:
        """Start new edits: draw targets and start latents unless they are given.

        Each row draws from its own generator, so that it does the same in any company.

        Args:
            rows: which rows.
            rngs: one generator per row of ``rows``.
            latent: start latents ``[len(rows), latent_dim]``; taken as they are, target or not.
            target: wanted variants, the same for all ``rows``.

        Raises:
            RuntimeError: no start that lacks the target was found.
        """
        targets = [target or self._draw_target(rng) for rng in rngs]
        wanted = torch.from_numpy(np.stack([self.schema.encode(t) for t in targets]))
        self.wanted[rows] = wanted.to(self.device)
        if latent is not None:
            self._place(rows, torch.as_tensor(latent, dtype=torch.float32, device=self.device))
        else:
            self._draw_starts(rows, rngs)
        targeted = self.wanted[rows] @ self._same_attribute
        self.to_keep[rows] = self.seen(self.attributes[rows]) * (1 - targeted)
        self.start_latents[rows] = self.latents[rows]
        self.start_realism[rows] = self.realism[rows]
        self.start_attributes[rows] = self.attributes[rows]
        self.steps[rows] = 0
        self.returns[rows] = 0.0
        self._potential[rows] = self._potentials(rows)

    def move(self, rows: torch.Tensor, moves: torch.Tensor) -> dict[str, torch.Tensor]:
        """Add ``moves`` to the latents, keep them in bounds, and score the new images.

        Args:
            rows: which rows.
            moves: ``[len(rows), latent_dim]``.

        Returns:
            The reward's components, float32 ``[len(rows)]`` each; the reward is their sum.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
        """
        bound = self.task.latent_bound
        self.latents[rows] = (self.latents[rows] + moves).clamp(-bound, bound)
        self._assess(rows, self.judge_always)
        after = self._potentials(rows)
        rewards = after - self._potential[rows]
        self._potential[rows] = after
        self.steps[rows] += 1
        self.returns[rows] += rewards.sum(dim=1).double()
        return dict(zip(COMPONENTS, rewards.unbind(dim=1), strict=True))

    # Scores -------------------------------------------------------------------------------------

    def assess(self, latents: torch.Tensor, judge: bool = False) -> Assessment:
        """Generate and score images of ``latents`` ``[N, latent_dim]``, in chunks.

        Differentiable, unless called under ``torch.no_grad``.

        Raises:
            FloatingPointError: a network returned a value that is not finite.
        """
        realism, logits, judged = [], [], []
        for chunk in latents.split(MAX_IMAGES):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.task.bf16):
                images = self.networks["generator"](chunk)
                logits.append(self.networks["classifier"](images).float())
                if "discriminator" in self.networks:
                    realism.append(self.networks["discriminator"](images).float())
                else:
                    realism.append(torch.zeros(len(chunk), device=self.device))
            if judge:
                judged.append(self._judge(images.float()))
        self.evaluations += len(latents)
        assessment = Assessment(
            torch.cat(realism),
            attribute_log_probabilities(torch.cat(logits), self.columns),
            torch.cat(judged) if judge else None,
        )
        if not torch.isfinite(assessment.realism.sum() + assessment.attributes.sum()):
            raise FloatingPointError(
                "the backbone's networks returned a score that is not finite; the edit cannot go on"
            )
        return assessment

    def potential(self, assessment: Assessment, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weighted scores whose differences are the reward: ``[len(rows)]`` each.

        ``assessment`` may be of any images, as if they were the rows' current ones.
        """
        task = self.task
        attributes = ATTRIBUTE_SCORES[task.attribute_score](
            assessment.attributes, self.wanted[rows], self._same_attribute
        )
        keep = mean_wanted(assessment.attributes, self.to_keep[rows])
        return {
            "realism": task.realism_weight * REALISM_SCORES[task.realism_score](assessment.realism),
            "attributes": task.attribute_weight * attributes,
            "keep": task.keep_weight * keep,
            "success": task.success_bonus * self.reached(rows, assessment),
        }

    # What is seen -------------------------------------------------------------------------------

    def observe(self, rows: torch.Tensor) -> torch.Tensor:
        """The observations float32 ``[len(rows), D]``, the task's parts side by side."""
        parts = {
            "latent": lambda: self.latents[rows],
            "target": lambda: self.wanted[rows],
            "start": lambda: self.seen(self.start_attributes[rows]),
            "attributes": lambda: self.attributes[rows],
            "realism": lambda: torch.sigmoid(
                torch.stack([self.realism[rows], self.start_realism[rows]], dim=1)
            ),
        }
        return torch.cat([parts[name]() for name in self.task.observation], dim=1)

    def scores(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """What ``info["scores"]`` shows, ``[len(rows)]`` each.

        ``realism``: the discriminator's probability now; ``start_realism``: at the start;
        ``target``: mean probability of the wanted variants; ``kept``: mean probability of what
        the start image had in the other attributes.
        """
        probabilities = self.attributes[rows].exp()
        return {
            "realism": torch.sigmoid(self.realism[rows]),
            "start_realism": torch.sigmoid(self.start_realism[rows]),
            "target": mean_wanted(probabilities, self.wanted[rows]),
            "kept": mean_wanted(probabilities, self.to_keep[rows]),
        }

    def seen(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """The most likely variant of each attribute as one-hot ``[N, K]``."""
        labels = [log_probabilities[:, c].argmax(dim=1) for c in self.columns]
        return self._labels_to_one_hot(torch.stack(labels, dim=1))

    def reached(self, rows: torch.Tensor, assessment: Assessment | None = None) -> torch.Tensor:
        """Whether the edit may rest: target certain, image realistic, no less so than at the start.

        Args:
            rows: which rows.
            assessment: of other images than the rows' current ones, as if they were.

        Returns:
            Bool ``[len(rows)]``: every wanted variant has a probability of `SURE` at least, and
            realism is at least `REALISTIC` and the start's.
        """
        if assessment is None:
            assessment = Assessment(self.realism[rows], self.attributes[rows])
        sure = assessment.attributes.exp() >= SURE
        seen = (sure >= self.wanted[rows].bool()).all(dim=1)
        realistic = torch.sigmoid(assessment.realism) >= REALISTIC
        return seen & realistic & (assessment.realism >= self.start_realism[rows])

    def verdict(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The judge's word on the edits so far, ``[len(rows)]`` each.

        ``is_success``: it sees every wanted variant, and realism is not below the start's.
        ``kept``: share of the attributes outside the target that it sees unchanged from the start
        image. ``drift``: Euclidean distance of the latent from the start. Without a judge in the
        backbone the classifier stands in.
        """
        if not self.judge_always:
            self.judged[rows] = self._judge_latents(self.latents[rows])
        judged = self.judged[rows]
        free = self._free(rows)
        unchanged = (judged == self.judged_at_start[rows]) & free
        return {
            "is_success": self._sees(self._labels_to_one_hot(judged), rows) & self._realistic(rows),
            "kept": unchanged.sum(dim=1) / free.sum(dim=1).clamp(min=1),
            "drift": (self.latents[rows] - self.start_latents[rows]).norm(dim=1),
        }

    def images(self, latents: torch.Tensor) -> np.ndarray:
        """The pictures of ``latents``: uint8 ``[N, H, W, 3]``."""
        with torch.no_grad():
            images = torch.cat([self.networks["generator"](c) for c in latents.split(MAX_IMAGES)])
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return (
            images.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        )

    # Inside -------------------------------------------------------------------------------------

    def _draw_target(self, rng: np.random.Generator) -> dict[str, str]:
        target = self.task.target
        if isinstance(target, Mapping):
            return dict(target)
        names = self.schema.names if target is None else tuple(target)
        name = names[rng.integers(len(names))]
        variants = self.schema.variants[name]
        return {name: variants[rng.integers(len(variants))]}

    def _draw_starts(self, rows: torch.Tensor, rngs: Sequence[np.random.Generator]) -> None:
        """Draw start latents from the prior, again where the start has the target already."""
        pending = np.arange(len(rows))
        bound = self.task.latent_bound
        for _ in range(MAX_START_DRAWS):
            drawn = np.stack([rngs[i].standard_normal(self.backbone.latent_dim) for i in pending])
            latents = torch.from_numpy(drawn.astype(np.float32)).to(self.device)
            current = rows[torch.from_numpy(pending).to(rows.device)]
            self._place(current, latents.clamp(-bound, bound))
            if self.task.start == "any":
                return
            has_target = self._sees(self.seen(self.attributes[current]), current)
            has_target |= self._sees(
                self._labels_to_one_hot(self.judged_at_start[current]), current
            )
            pending = pending[has_target.cpu().numpy()]
            if not len(pending):
                return
        target = self.schema.decode(self.wanted[rows[pending[0]]].cpu().numpy())
        raise RuntimeError(
            f"{MAX_START_DRAWS} random starts all show the target {target}; pass start='any'"
        )

    def _place(self, rows: torch.Tensor, latents: torch.Tensor) -> None:
        self.latents[rows] = latents
        self._assess(rows, judge=True)
        self.judged_at_start[rows] = self.judged[rows]

    @torch.no_grad()
    def _assess(self, rows: torch.Tensor, judge: bool) -> None:
        assessment = self.assess(self.latents[rows], judge)
        self.realism[rows] = assessment.realism
        self.attributes[rows] = assessment.attributes
        if judge:
            self.judged[rows] = assessment.judged

    def _potentials(self, rows: torch.Tensor) -> torch.Tensor:
        """The current images' weighted scores ``[len(rows), len(COMPONENTS)]``."""
        scores = self.potential(Assessment(self.realism[rows], self.attributes[rows]), rows)
        return torch.stack([scores[name] for name in COMPONENTS], dim=1)

    @torch.no_grad()
    def _judge_latents(self, latents: torch.Tensor) -> torch.Tensor:
        generator = self.networks["generator"]
        return torch.cat([self._judge(generator(chunk)) for chunk in latents.split(MAX_IMAGES)])

    def _judge(self, images: torch.Tensor) -> torch.Tensor:
        """Variant indices ``[N, A]`` that the judge sees."""
        logits = self.networks.get("judge", self.networks["classifier"])(images)
        return torch.stack([logits[:, c].argmax(dim=1) for c in self.columns], dim=1)

    def _labels_to_one_hot(self, labels: torch.Tensor) -> torch.Tensor:
        one_hot = torch.zeros(len(labels), self.schema.size, device=self.device)
        return one_hot.scatter_(1, labels + self._column_starts, 1.0)

    def _free(self, rows: torch.Tensor) -> torch.Tensor:
        """Bool ``[len(rows), A]``: the attributes outside the target."""
        return torch.stack([self.wanted[rows, c].sum(dim=1) == 0 for c in self.columns], dim=1)

    def _sees(self, seen: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Whether one-hot ``seen`` holds every wanted variant."""
        return ((seen - self.wanted[rows]) >= 0).all(dim=1)

    def _realistic(self, rows: torch.Tensor) -> torch.Tensor:
        return self.realism[rows] >= self.start_realism[rows]


@lru_cache(maxsize=8)
def _folded(backbone: Backbone, device: torch.device) -> dict[str, nn.Module]:
    """The backbone's networks prepared for speed, shared by all environments of a process."""
    return {role: fold(network).to(device) for role, network in backbone.networks.items()}
