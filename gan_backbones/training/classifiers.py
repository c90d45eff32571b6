"""Training of attribute classifiers: the one that rewards are made of, and the judge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gan_backbones.datasets.cartoon_set import to_float
from gan_backbones.metrics import batched
from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.progress import ProgressBar

MIXUP = 0.15
"""An image gets up to this share of another. More makes a backbone's two classifiers agree more on
generated images, but blurs the features that image sets are compared in."""

EVAL_INTERVAL = 50
"""Updates between measurements."""

PATIENCE = 8
"""Measurements without a new best after which a training ends."""

SMALLEST_VALIDATION = 32
"""Images to measure with, if these are no more than a quarter of all."""

WARM_UP = 100
"""Updates over which the learning rate rises."""

AVERAGE_DECAY = 0.98
"""Of the running average of the weights, per update."""

Network = TypeVar("Network", bound=nn.Module)


def train_classifier(
    network: Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    schema: AttributeSchema,
    updates: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    bf16: bool = True,
    adversary: float = 0.0,
    seed: int = 0,
    desc: str = "training classifier",
) -> Network:
    """Train ``network`` on labelled images until its accuracy on others stops rising.

    The loss is one softmax cross-entropy per attribute, averaged. A tenth of the images is not
    trained on. Every `EVAL_INTERVAL` updates they measure the running average of the weights, and
    `PATIENCE` measurements without a new best end the training. The best average is kept.

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
        updates: most updates to make.
        batch_size: images per update, or all that are trained on if these are fewer.
        learning_rate: constant after a warm-up.
        bf16: autocast to bfloat16.
        adversary: push by up to this Euclidean length; twice the time if it is above 0.
        seed: random seed of data order, shifts, noise and pushes.
        desc: the progress bar's title.

    Returns:
        ``network``, trained, in evaluation mode.

    Raises:
        ValueError: fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"there are {len(images)} images; training needs at least 2")
    rng = torch.Generator().manual_seed(seed)
    network.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    average = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY), use_buffers=True
    ).eval()

    def mixed_loss(images: torch.Tensor, labels: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images.contiguous(memory_format=torch.channels_last)).float()
        loss = share * attribute_loss(logits, labels, schema)
        return loss + (1 - share) * attribute_loss(logits, labels.flip(0), schema)

    training, validation = _divide(labels, rng)
    best_accuracy, best_weights, measured_since = -1.0, {}, 0
    batches = _batches(training, batch_size, rng)
    with ProgressBar(total=updates, desc=desc, unit="it") as bar:
        for update in range(1, updates + 1):
            chosen = next(batches)
            batch = _disturb(to_float(images[chosen]), rng)
            share = 1 - MIXUP * torch.rand((), generator=rng, dtype=torch.float32)
            batch = share * batch + (1 - share) * batch.flip(0)
            loss_of = partial(mixed_loss, labels=labels[chosen], share=share)
            if adversary:
                batch = _pushed(batch, loss_of, adversary, rng)
            loss = loss_of(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(network)
            bar.update()
            if update % EVAL_INTERVAL and update < updates:
                continue
            logits = batched(lambda batch: average(to_float(batch)), images[validation])
            right = predict_attributes(logits, schema) == labels[validation]
            accuracy = right.double().mean().item()
            bar.set_postfix(loss=f"{loss.item():.4f}", accuracy=f"{accuracy:.2%}")
            measured_since += 1
            if accuracy > best_accuracy:
                best_accuracy, measured_since = accuracy, 0
                best_weights = copy.deepcopy(average.module.state_dict())
            if measured_since == PATIENCE:
                break
    network.load_state_dict(best_weights)
    return network.eval()


def _divide(labels: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Image numbers to train on, and every tenth to measure with, evenly over the labels."""
    count = len(labels)
    held_out = min(max(count // 10, SMALLEST_VALIDATION), max(count // 4, 1), 1000)
    order = torch.randperm(count, generator=rng)
    kinds = labels.unique(dim=0, return_inverse=True)[1]
    order = order[kinds[order].argsort(stable=True)]
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[((torch.arange(held_out) + 0.5) * count / held_out).long()] = True
    return order[~chosen], order[chosen]


def _batches(
    numbers: torch.Tensor, batch_size: int, rng: torch.Generator
) -> Iterator[torch.Tensor]:
    """Batches of equal size in random order, without end."""
    batch_size = min(batch_size, len(numbers))
    while True:
        order = numbers[torch.randperm(len(numbers), generator=rng)]
        yield from order[: len(order) // batch_size * batch_size].split(batch_size)


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
