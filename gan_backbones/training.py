"""From images to a backbone file: the whole of `latentgym train-backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from gan_backbones.backbone import Backbone
from gan_backbones.calibration import fit_platt, rescale
from gan_backbones.checks import check_backbone
from gan_backbones.classifier_training import train_classifier
from gan_backbones.cvae_training import CVAEConfig, CVAETrainer
from gan_backbones.datasets import (
    DatasetError,
    ImageDataset,
    describe,
    list_damaged,
    open_dataset,
    split,
    to_float,
)
from gan_backbones.devices import computes_in_bf16
from gan_backbones.evaluation import evaluate_backbone, generate
from gan_backbones.files import write_atomically
from gan_backbones.gan_training import GANConfig, GANTrainer
from gan_backbones.inference import copy_network
from gan_backbones.metrics import batched
from gan_backbones.networks import Classifier, Judge, bake, cost
from gan_backbones.training_loop import TrainingConfig, build, grid_png

ADVERSARY = 3.0
"""How far the classifier's training images are pushed, of a Euclidean norm of about 83."""


def train_backbone(
    config: GANConfig | CVAEConfig, name: str, card: dict[str, Any] | None = None
) -> Path:
    """Train all networks, measure them on held-out images, check and write the backbone.

    Resumes the generator's training from its checkpoint in ``config.out``. Images without
    attributes give a backbone of generator and discriminator only. Under ``accelerate launch`` the
    generator is trained by all processes together, the rest by the first.

    Args:
        config: of the generator's training; ``config.data`` names the images. A
            :class:`CVAEConfig` wants labelled ones; the decoder that it trains is saved with the
            first held-out image's label, and ``Backbone.condition`` sets another.
        name: the backbone's name, and its file's.
        card: what else the model card shall say, such as data, licence and command.

    Returns:
        The file ``<config.out>/<name>.safetensors``, with a sample grid beside it.

    Raises:
        DatasetError: images are missing, damaged or, for a conditional VAE, without attributes.
        BackboneError: the result breaks the contract of a backbone.
    """
    dataset = open_dataset(config.data, config.image_size, config.channels)
    parts = split(dataset, config.split, config.seed)
    PartialState().print("\n".join(describe(dataset, parts)))  # once, not in each process
    images = {part: dataset.images(rows, f"reading {part} images") for part, rows in parts.items()}
    labels = {part: _labels(dataset, rows) for part, rows in parts.items()}

    trainer = _trainer(config, dataset, images, labels)
    trainer.train()
    file = Path(config.out) / f"{name}.safetensors"
    if not trainer.accelerator.is_main_process:
        return file

    generator = copy_network(trainer.generator).cpu().eval()
    discriminator = bake(copy_network(trainer.discriminator).cpu().eval())
    rng = torch.Generator().manual_seed(config.seed)
    latents = torch.randn(len(images["judge"]), config.latent_dim, generator=rng)
    # Calibrated on the judge's images: the discriminator has not seen them, and the held-out
    # images stay untouched for the figures below.
    generated = generate(generator, latents, labels["judge"], dataset.schema)
    scale, shift = fit_platt(
        batched(lambda batch: discriminator(to_float(batch)), images["judge"]),
        batched(discriminator, generated),
        smoothing=0.1,
    )
    rescale(discriminator, scale, shift)

    classifier = judge = None
    if dataset.schema is not None:
        classifier, judge = _train_classifiers(config, dataset, images, labels)
    backbone = Backbone(
        generator, config.latent_dim, discriminator, classifier, judge, dataset.schema
    )
    if isinstance(config, CVAEConfig):
        label = dataset.schema.decode(dataset.schema.encode_indices(labels["held_out"][:1])[0])
        backbone = backbone.condition(label)
    figures = evaluate_backbone(backbone, images["held_out"], labels["held_out"], config.seed)
    backbone.card |= {
        "name": name,
        **(card or {}),
        "images": {part: len(rows) for part, rows in parts.items()},
        "split": {"shares": list(config.split), "seed": config.seed},
        "gan" if isinstance(config, GANConfig) else "cvae": {
            k: v for k, v in trainer.settings().items() if k not in ("images", "outputs", "split")
        },
        "cost": {role: cost(network)._asdict() for role, network in backbone.networks.items()},
        "calibration": {"scale": round(scale, 4), "shift": round(shift, 4)},
        "held_out": figures,
    }
    check_backbone(backbone)
    backbone.save(file)
    write_atomically(file.with_suffix(".png"), grid_png(generated[:64]))
    for line in list_damaged(dataset):
        print(line)
    return file


def _labels(dataset: ImageDataset, rows: np.ndarray) -> torch.Tensor | None:
    if dataset.labels is None:
        return None
    return torch.from_numpy(dataset.labels[rows])


def _trainer(
    config: TrainingConfig,
    dataset: ImageDataset,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor | None],
) -> GANTrainer | CVAETrainer:
    if isinstance(config, GANConfig):
        return GANTrainer(config, images["train"], held_out=images["judge"])
    if labels["train"] is None:
        raise DatasetError(f"{config.data}: a conditional VAE needs images with attributes")
    return CVAETrainer(config, images["train"], labels["train"], dataset.schema)


def _train_classifiers(
    config: TrainingConfig,
    dataset: ImageDataset,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor | None],
) -> list[nn.Module]:
    """The classifier that rewards are made of, and the judge."""
    trained = []
    for offset, (kind, part) in enumerate(((Classifier, "train"), (Judge, "judge"))):
        seed = config.seed + offset
        channels, side = images[part].shape[1:3]
        size = dataset.schema.size
        (network,) = build(seed, lambda: kind(size, channels=channels, image_size=side))  # noqa: B023
        trained.append(
            train_classifier(
                network,
                images[part],
                labels[part],
                dataset.schema,
                # The judge has a third of the classifier's images: as many updates for both.
                epochs=3 if kind is Classifier else 10,
                batch_size=config.batch_size,
                # The reward is made of the classifier; the judge must not share its blind spots.
                adversary=ADVERSARY if kind is Classifier else 0.0,
                bf16=config.bf16 and computes_in_bf16(torch.device("cpu")),
                seed=seed,
                desc=f"training {kind.__name__.lower()}",
            )
        )
    return trained
