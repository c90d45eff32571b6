"""Scores of latents: what the backbone's frozen networks say about the images they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from gan_backbones import Backbone, BackboneError
from gan_backbones.networks.inference import fold
from gan_backbones.utils.images import to_uint8
from latentgym.scores import AttributeColumns
from latentgym.task import EditTask

MAX_IMAGES = 256
"""Images pass through the networks in chunks of this size, so memory does not grow with N."""

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass
class Assessment:
    """Scores of N latents.

    Attributes:
        realism: discriminator logits ``[N]``.
        attributes: log-probabilities ``[N, K]``, softmax within each attribute.
        identity: similarity to the start images ``[N]``: minus the mean absolute difference of
            pixels, whose range is one. Zero if no start images were passed.
        judged: variant indices int64 ``[N, A]`` that the judge sees, if it was asked.
        pictures: the images, uint8 ``[N, C, H, W]``, if they were asked for.
    """

    realism: torch.Tensor
    attributes: torch.Tensor
    identity: torch.Tensor
    judged: torch.Tensor | None = None
    pictures: torch.Tensor | None = None


class NetworkAssessor:
    """Scores latents with the backbone's own networks: generator, discriminator and classifier.

    This is all that `latentgym.core.EditCore` knows about images and scores. A class with the same
    public methods and ``image_shape`` can take its place.

    Args:
        task: settings of the edit.
        columns: columns of each attribute.
        batch_size: usual number of latents; ``torch.compile`` specializes on it.

    Attributes:
        networks: the backbone's networks by role, prepared for speed.
        image_shape: ``(C, H, W)``.
    """

    def __init__(self, task: EditTask, columns: AttributeColumns, batch_size: int):
        self.columns = columns
        self.device = torch.device(task.device)
        self.networks = _folded(task.loaded_backbone, self.device)
        self._size = task.schema.size
        self._batch_size = min(batch_size, MAX_IMAGES)
        self._bf16 = task.bf16
        self._compiled: Callable[[torch.Tensor], Outputs] | None = None
        if task.compile:
            self._compiled = torch.compile(self._forward, dynamic=False, options={"freezing": True})
        self.image_shape = self._probe_image_shape(task.loaded_backbone.latent_dim)

    def assess(
        self,
        latents: torch.Tensor,
        start_pictures: torch.Tensor | None = None,
        judge: bool = False,
        pictures: bool = False,
    ) -> Assessment:
        """Generate and score images, in chunks. Differentiable, unless under ``torch.no_grad``.

        Args:
            latents: float32 ``[N, latent_dim]``.
            start_pictures: uint8 ``[N, C, H, W]``, to measure ``identity`` by.
            judge: ask the judge as well.
            pictures: return the images as well.

        Raises:
            BackboneError: a network returned an unexpected shape.
        """
        parts = []
        for first in range(0, max(len(latents), 1), MAX_IMAGES):
            chunk = slice(first, first + MAX_IMAGES)
            starts = None if start_pictures is None else start_pictures[chunk]
            parts.append(self._assess_chunk(latents[chunk], starts, judge, pictures))
        return parts[0] if len(parts) == 1 else _concatenate(parts)

    def forward(self, latents: torch.Tensor) -> Outputs:
        """Return images, realism logits and attribute logits of at most `MAX_IMAGES` latents."""
        # Each other batch size, and gradients, would have to be compiled separately.
        is_usual = len(latents) == self._batch_size and not torch.is_grad_enabled()
        forward = self._compiled if self._compiled is not None and is_usual else self._forward
        if not self._bf16:
            return forward(latents)
        with torch.autocast(self.device.type, torch.bfloat16):
            images, realism, logits = forward(latents)
        return images.float(), realism.float(), logits.float()

    @torch.no_grad()
    def judge(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the variant indices int64 ``[N, A]`` that the judge sees.

        The classifier stands in if the backbone has no judge.
        """
        generator = self.networks["generator"]
        chunks = latents.split(MAX_IMAGES)
        return torch.cat([self._judge_images(generator(chunk)) for chunk in chunks])

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the images of ``latents`` as uint8 ``[N, C, H, W]``."""
        generator = self.networks["generator"]
        return torch.cat([to_uint8(generator(chunk)) for chunk in latents.split(MAX_IMAGES)])

    def _assess_chunk(
        self, latents: torch.Tensor, starts: torch.Tensor | None, judge: bool, pictures: bool
    ) -> Assessment:
        images, realism, logits = self.forward(latents)
        _check_shape("discriminator", realism, (len(latents),))
        _check_shape("classifier", logits, (len(latents), self._size))
        identity = torch.zeros_like(realism)
        if starts is not None:
            identity = -(_to_unit(images) - starts / 255).abs().mean(dim=(1, 2, 3))
        return Assessment(
            realism,
            self.columns.log_probabilities(logits),
            identity,
            self._judge_images(images.float()) if judge else None,
            to_uint8(images) if pictures else None,
        )

    def _forward(self, latents: torch.Tensor) -> Outputs:
        images = self.networks["generator"](latents)
        _check_shape("generator", images, (len(latents), *self.image_shape))
        if "discriminator" in self.networks:
            realism = self.networks["discriminator"](images)
        else:
            realism = images.new_zeros(len(images))
        return images, realism, self.networks["classifier"](images)

    @torch.no_grad()
    def _judge_images(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.networks.get("judge", self.networks["classifier"])(images)
        _check_shape("judge", logits, (len(images), self._size))
        return self.columns.labels(logits)

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


def to_rgb(pictures: torch.Tensor) -> np.ndarray:
    """Return pictures uint8 ``[N, C, H, W]``, C 1 or 3, as an array ``[N, H, W, 3]``."""
    return pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()


@lru_cache(maxsize=8)
def _folded(backbone: Backbone, device: torch.device) -> dict[str, nn.Module]:
    """Return the networks prepared for speed, shared by all environments of a process."""
    return {role: fold(network).to(device) for role, network in backbone.networks.items()}


def _check_shape(role: str, output: torch.Tensor, expected: tuple[int, ...]) -> None:
    if output.shape != expected:
        raise BackboneError(f"the {role} returned shape {tuple(output.shape)}; expected {expected}")


def _concatenate(parts: list[Assessment]) -> Assessment:
    judged = [part.judged for part in parts if part.judged is not None]
    pictures = [part.pictures for part in parts if part.pictures is not None]
    return Assessment(
        torch.cat([part.realism for part in parts]),
        torch.cat([part.attributes for part in parts]),
        torch.cat([part.identity for part in parts]),
        torch.cat(judged) if judged else None,
        torch.cat(pictures) if pictures else None,
    )


def _to_unit(images: torch.Tensor) -> torch.Tensor:
    """Scale images from [-1, 1] to [0, 1]."""
    return (images.float() + 1) / 2
