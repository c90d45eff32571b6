"""Training of attribute classifiers: the one that rewards are made of, and the judge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from gan_backbones.datasets.cartoon_set import to_float
from gan_backbones.progress import ProgressBar
from gan_backbones.schema import AttributeSchema

MIXUP = 0.15
"""An image gets up to this share of another. More makes a backbone's two classifiers agree more on
generated images, but blurs the features that image sets are compared in."""

Network = TypeVar("Network", bound=nn.Module)


def train_classifier(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    schema: AttributeSchema,
    epochs: int = 6,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    bf16: bool = True,
    adversary: float = 0.0,
    seed: int = 0,
    desc: str = "training classifier",
) -> Network:
    """Train ``network`` on labelled images: one softmax cross-entropy per attribute, averaged.

    Images are shifted by up to two pixels, get a little noise, and are blended in pairs (mixup,
    Zhang et al. 2018). A classifier that has only seen flawless drawings is sure of everything: on
    a generator's images, half way between two variants, it would be easily fooled, and its
    log-probabilities too flat far from a target to climb.

    With an ``adversary`` each image is also pushed to where the loss rises fastest (the fast
    gradient of Goodfellow et al. 2015, in L2). What raises a robust classifier's logit is what a
    person would call more of that variant (Tsipras et al. 2019), not noise: so a reward that is
    made of it leads to an edit.

    Args:
        network: maps images float32 ``[N, C, H, W]`` to logits ``[N, schema.size]``.
        images: uint8 ``[N, C, H, W]``.
        labels: variant indices int64 ``[N, len(schema.names)]``.
        schema: the attributes.
        epochs: passes over the data; the learning rate falls to zero over them.
        batch_size: images per update.
        learning_rate: the highest, reached after a tenth of the updates.
        bf16: autocast to bfloat16.
        adversary: push by up to this Euclidean length; twice the time if it is above 0.
        seed: of data order, shifts, noise and pushes.
        desc: the progress bar's title.

    Returns:
        ``network``, trained, in evaluation mode.

    Raises:
        ValueError: fewer images than ``batch_size``.
    """
    if len(images) < batch_size:
        raise ValueError(f"batch_size is {batch_size}; there are only {len(images)} images")
    rng = torch.Generator().manual_seed(seed)
    network.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-3)

    def mixed_loss(images: torch.Tensor, labels: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images.contiguous(memory_format=torch.channels_last)).float()
        loss = share * attribute_loss(logits, labels, schema)
        return loss + (1 - share) * attribute_loss(logits, labels.flip(0), schema)

    updates = epochs * (len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        learning_rate,
        total_steps=max(updates, 11),  # OneCycleLR divides by zero where a tenth is one step
        pct_start=0.1,
    )
    with ProgressBar(total=updates, desc=desc, unit="it") as bar:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=rng)
            for chosen in order[: len(order) // batch_size * batch_size].split(batch_size):
                batch = _disturb(to_float(images[chosen]), rng)
                share = 1 - MIXUP * torch.rand((), generator=rng, dtype=torch.float32)
                batch = share * batch + (1 - share) * batch.flip(0)
                loss_of = partial(mixed_loss, labels=labels[chosen], share=share)
                if adversary:
                    batch = _pushed(batch, loss_of, adversary, rng)
                loss = loss_of(batch)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
                if bar.n % 20 == 0:
                    bar.set_postfix(loss=f"{loss.item():.4f}")
    return network.eval()


def _pushed(
    images: torch.Tensor,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    distance: float,
    rng: torch.Generator,
) -> torch.Tensor:
    """Each image moved along its own gradient of the loss, by a random share of ``distance``."""
    images = images.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(images), images)
    gradient = F.normalize(gradient.flatten(1), dim=1).view_as(images)
    shares = torch.rand(len(images), 1, 1, 1, generator=rng, dtype=torch.float32)
    return (images + distance * shares * gradient).detach()


def attribute_loss(
    logits: torch.Tensor, labels: torch.Tensor, schema: AttributeSchema
) -> torch.Tensor:
    """Mean over attributes of the softmax cross-entropy of each attribute's columns."""
    losses = [
        F.cross_entropy(logits[:, columns], labels[:, position])
        for position, columns in enumerate(schema.slices.values())
    ]
    return torch.stack(losses).mean()


def predict_attributes(logits: torch.Tensor, schema: AttributeSchema) -> torch.Tensor:
    """The most likely variant of each attribute: logits ``[N, size]`` to int64 ``[N, A]``."""
    return torch.stack([logits[:, c].argmax(1) for c in schema.slices.values()], dim=1)


def _disturb(images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift each batch by up to two pixels and add noise of up to a tenth of the value range."""
    shift = torch.randint(-2, 3, (2,), generator=rng).tolist()
    noise = torch.rand((), generator=rng, dtype=torch.float32) * 0.2
    images = torch.roll(images, shift, dims=(2, 3))
    return images + noise * torch.randn(images.shape, generator=rng, dtype=torch.float32)
