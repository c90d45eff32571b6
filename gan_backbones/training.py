"""From a folder of labelled images to a backbone file: the whole of `latentgym train-backbone`."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torchvision.utils import make_grid, save_image

from gan_backbones.backbone import Backbone
from gan_backbones.calibration import fit_platt, rescale
from gan_backbones.classifier_training import train_classifier
from gan_backbones.datasets.cartoon_set import CartoonSet, to_float
from gan_backbones.evaluation import evaluate_backbone
from gan_backbones.files import write_atomically
from gan_backbones.gan_training import GANConfig, GANTrainer
from gan_backbones.metrics import batched
from gan_backbones.networks import Classifier, Judge

ADVERSARY = 3.0
"""How far the classifier's training images are pushed, of a Euclidean norm of about 83."""


def split(count: int) -> dict[str, range]:
    """Which images train what, in file order.

    ``held_out``: the last fifth, at most 10,000, seen by no network. ``judge``: a quarter of the
    others. ``train``: the rest, for GAN and classifier.
    """
    held_out = count - min(10_000, count // 5)
    judge = held_out - held_out // 4
    return {
        "train": range(judge),
        "judge": range(judge, held_out),
        "held_out": range(held_out, count),
    }


def train_backbone(config: GANConfig, name: str, card: dict[str, object] | None = None) -> Path:
    """Train all four networks, measure them on held-out images and write the backbone.

    Resumes the GAN from its checkpoint in ``config.out``.

    Args:
        config: of the GAN; ``config.data`` names the labelled images.
        name: the backbone's name, and its file's.
        card: what else the model card shall say, such as data, licence and command.

    Returns:
        The file ``<config.out>/<name>.safetensors``, with a sample grid beside it.
    """
    dataset = CartoonSet(config.data)
    schema, labels = dataset.schema, torch.from_numpy(dataset.labels)
    parts = split(len(dataset))
    images = {part: dataset.images(rows, f"reading {part} images") for part, rows in parts.items()}

    gan = GANTrainer(config, images["train"])
    gan.train()

    channels, side = images["train"].shape[1:3]
    networks = {}
    for offset, (kind, part) in enumerate(((Classifier, "train"), (Judge, "judge"))):
        seed = config.seed + offset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = kind(schema.size, channels=channels, image_size=side)
        rows = parts[part]
        networks[part] = train_classifier(
            network,
            images[part],
            labels[rows.start : rows.stop],
            schema,
            # The judge has a third of the classifier's images: as many updates for both.
            epochs=3 if kind is Classifier else 10,
            batch_size=config.batch_size,
            # The reward is made of the classifier; the judge must not share its blind spots.
            adversary=ADVERSARY if kind is Classifier else 0.0,
            bf16=config.bf16,
            seed=seed,
            desc=f"training {kind.__name__.lower()}",
        )

    discriminator = gan.discriminator
    latents = torch.randn(
        len(images["judge"]),
        config.latent_dim,
        generator=torch.Generator().manual_seed(config.seed),
    )
    # Calibrated on the judge's images: the discriminator has not seen them, and the held-out
    # images stay untouched for the figures below.
    scale, shift = fit_platt(
        batched(lambda batch: discriminator(to_float(batch)), images["judge"]),
        batched(discriminator, batched(gan.generator, latents)),
        smoothing=0.1,
    )
    rescale(discriminator, scale, shift)

    backbone = Backbone(
        generator=gan.generator,
        latent_dim=config.latent_dim,
        discriminator=discriminator,
        classifier=networks["train"],
        judge=networks["judge"],
        schema=schema,
    )
    rows = parts["held_out"]
    backbone.card = {
        "name": name,
        **(card or {}),
        "images": {part: len(rows) for part, rows in parts.items()},
        "gan": {key: value for key, value in gan.settings().items() if key != "images"},
        "calibration": {"scale": round(scale, 4), "shift": round(shift, 4)},
        "held_out": evaluate_backbone(
            backbone, images["held_out"], labels[rows.start : rows.stop], config.seed
        ),
    }
    out = Path(config.out)
    backbone.save(out / f"{name}.safetensors")
    grid = io.BytesIO()
    save_image(make_grid(batched(gan.generator, latents[:64]) / 2 + 0.5), grid, format="png")
    write_atomically(out / f"{name}.png", grid.getvalue())
    return out / f"{name}.safetensors"
