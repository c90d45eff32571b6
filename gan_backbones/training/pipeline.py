"""From images to a backbone file: the whole of `latentgym train-backbone`."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import nn

from gan_backbones.backbone import Backbone, BackboneError
from gan_backbones.backbone_checker import check_backbone
from gan_backbones.datasets import (
    DatasetError,
    ImageDataset,
    describe,
    list_damaged,
    open_dataset,
    split,
    to_float,
)
from gan_backbones.evaluation import evaluate_backbone, generate
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import batched
from gan_backbones.networks import Classifier, Judge, bake, cost
from gan_backbones.networks.inference import copy_network
from gan_backbones.schema import AttributeSchema
from gan_backbones.training.calibration import fit_platt, rescale
from gan_backbones.training.classifiers import train_classifier
from gan_backbones.training.cvae import CVAEConfig, CVAETrainer
from gan_backbones.training.gan import GANConfig, GANTrainer
from gan_backbones.training.trainer import (
    TrainingConfig,
    build,
    checksum,
    grid_png,
    import_tensorboard,
)
from gan_backbones.utils.devices import computes_in_bf16, plain_mode
from gan_backbones.utils.files import read_safetensors, write_atomically
from gan_backbones.utils.locks import folder_lock

MIN_IMAGES = 2
"""Smallest number of images in each part of the data: ten in all with the usual split."""

STAGE_FORMAT = "latentgym-stage-1"

ADVERSARY = 3.0
"""How far the classifier's training images are pushed, of a Euclidean norm of about 83."""

ROLES = (Classifier, Judge)


def train_backbone(
    config: GANConfig | CVAEConfig, name: str, card: dict[str, Any] | None = None
) -> Path:
    """Train all networks, measure them on held-out images, check and write the backbone.

    Resumes from what an interrupted call left in ``config.out``: the generator's training from its
    checkpoint, classifier and judge where they are complete. If the backbone is there already, the
    call returns at once. Images without attributes give a backbone of generator and discriminator
    only. Under ``accelerate launch`` all processes train the generator together, the first does the
    rest.

    Args:
        config: settings of the generator's training; ``config.data`` names the images. A
            :class:`CVAEConfig` wants labelled ones; the decoder that it trains is saved with the
            first held-out image's label, and ``Backbone.condition`` sets another.
        name: name of the backbone and its file.
        card: further entries of the model card, such as data, licence and command.

    Returns:
        The file ``<config.out>/<name>.safetensors``; a sample grid is ``<name>.png``.

    Raises:
        DatasetError: images are missing, damaged, too few or, for a conditional VAE, without
            attributes.
        ValueError: settings that do not fit the images, or the file holds another backbone.
        OSError: the folder is in use by another training, cannot be written to, or has no room.
        BackboneError: the result breaks the contract of a backbone.
    """
    dataset = open_dataset(config.data, config.image_size, config.channels)
    parts = split(dataset, config.split, config.seed)
    file = Path(config.out) / f"{name}.safetensors"
    known = {
        "name": name,
        **(card or {}),
        "images": {part: len(rows) for part, rows in parts.items()},
        "split": {"shares": list(config.split), "seed": config.seed},
        "classifier_updates": config.classifier_updates,
        "gan" if isinstance(config, GANConfig) else "cvae": {
            key: value for key, value in config.settings().items() if key != "split"
        },
    }
    check_output(config, name)
    is_main = Accelerator().is_main_process
    with folder_lock(config.out) if is_main else nullcontext(), plain_mode():
        if is_finished(file, known):
            if is_main:
                print(f"{file} is finished; delete the file to make it again", file=sys.stderr)
            return file
        if is_main:
            print("\n".join(describe(dataset, parts)))
        check_training(config, dataset, parts)
        _train_all(config, dataset, parts, file, known)
    return file


def check_output(config: TrainingConfig, name: str) -> None:
    """Check that a backbone of this name can be written at the end.

    Raises:
        ValueError: the name is not a file's, or a folder of that name is in the way.
        OSError: the folder ``config.out`` cannot be made or written to.
    """
    if not name or set(name) & set("/\\\0"):
        raise ValueError(f"name is {name!r}; allowed: a file's name, without folders")
    out = Path(config.out)
    try:
        for path in (out / f"{name}.safetensors", out / f"{name}.png"):
            if path.is_dir():
                raise ValueError(f"name is {name!r}, but {path} is a folder; choose another name")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=f".{name}.safetensors.", dir=out):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{name}.safetensors cannot be written to out, {out} ({reason})") from error


def is_finished(file: Path, known: dict[str, Any]) -> bool:
    """Whether ``file`` is the backbone that these settings make.

    Args:
        file: may be missing.
        known: what the model card will say, as far as it is known before the training.

    Raises:
        ValueError: it is another backbone, or none.
    """
    if not file.exists():
        return False
    try:
        found = Backbone.read(file).card
    except BackboneError as error:
        raise ValueError(f"{error}: choose another name, or move the file") from None
    compared = ("data", "images", "split", "classifier_updates", "gan", "cvae")
    ours, theirs = (
        _flatten({key: card[key] for key in compared if key in card})
        for card in (json.loads(json.dumps(known)), found)
    )
    changed = [
        f"{key} {theirs.get(key)} -> {ours.get(key)}"
        for key in {**ours, **theirs}
        if ours.get(key) != theirs.get(key)
    ]
    if changed:
        raise ValueError(
            f"{file} is a finished backbone of another configuration ({', '.join(changed)}): "
            "choose another name or folder"
        )
    return True


def check_training(
    config: GANConfig | CVAEConfig, dataset: ImageDataset, parts: dict[str, np.ndarray]
) -> None:
    """Check, before the first step, what all stages of the training will need.

    Raises:
        DatasetError: too few images, or no attributes for a conditional VAE.
        ValueError: a size or batch size that does not fit the images.
        ModuleNotFoundError: a package is missing.
        OSError: there is not enough room on the disk.
    """
    # Attributes.
    schema = dataset.schema
    if isinstance(config, CVAEConfig) and schema is None:
        raise DatasetError(f"{config.data}: a conditional VAE needs images with attributes")

    # Images: each part is compared with generated images, which takes two.
    count = {part: len(rows) for part, rows in parts.items()}
    told = (
        f"of the {len(dataset)} images in {config.data} training gets {count['train']}, the judge "
        f"{count['judge']} and the held-out part {count['held_out']}"
    )
    if min(count.values()) < MIN_IMAGES:
        raise DatasetError(f"{told}; each needs at least {MIN_IMAGES}: add images")

    # Batches; those of classifier and judge are made to fit.
    if count["train"] < config.batch_size:
        raise ValueError(
            f"batch_size is {config.batch_size}, but {told}; allowed: at most {count['train']}"
        )

    # Networks: all can be built for images of this size.
    channels, side = dataset.channels, dataset.image_size
    networks: list[nn.Module] = []
    if isinstance(config, GANConfig):
        networks += config.networks(channels, side)
    elif schema is not None:
        networks += config.networks(schema.size, channels, side)
    if schema is not None:
        roles = (partial(role, schema.size, channels=channels, image_size=side) for role in ROLES)
        networks += build(config.seed, *roles)

    # Packages.
    if config.tensorboard:
        import_tensorboard()

    # Room: a checkpoint holds up to four numbers per weight (weight, average, two of Adam's), and
    # the one before is kept until it is written; the backbone holds one.
    weights = sum(p.numel() for network in networks for p in network.parameters())
    needed, free = 4 * 9 * weights, shutil.disk_usage(config.out).free
    if free < needed:
        raise OSError(
            f"{config.out} has {free / 1e6:.0f} MB free on its disk; the training needs about "
            f"{needed / 1e6:.0f} MB"
        )


def _train_all(
    config: GANConfig | CVAEConfig,
    dataset: ImageDataset,
    parts: dict[str, np.ndarray],
    file: Path,
    known: dict[str, Any],
) -> None:
    """Train generator, discriminator, classifier and judge, and write the backbone."""
    images = {part: dataset.images(rows, f"reading {part} images") for part, rows in parts.items()}
    labels = {part: _labels(dataset, rows) for part, rows in parts.items()}

    trainer = _trainer(config, dataset, images, labels)
    trainer.train()
    if not trainer.accelerator.is_main_process:
        return

    generator = copy_network(trainer.generator).cpu().eval()
    discriminator = bake(copy_network(trainer.discriminator).cpu().eval())
    rng = torch.Generator().manual_seed(config.seed)
    latents = draw_latents(len(images["judge"]), config.latent_dim, rng)
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
        classifier, judge = _train_classifiers(config, dataset.schema, images, labels)
    backbone = Backbone(
        generator, config.latent_dim, discriminator, classifier, judge, dataset.schema
    )
    if isinstance(config, CVAEConfig) and dataset.schema and dataset.labels is not None:
        indices = dataset.labels[parts["held_out"][:1]]
        backbone = backbone.condition(
            dataset.schema.decode(dataset.schema.encode_indices(indices)[0])
        )
    figures = evaluate_backbone(backbone, images["held_out"], labels["held_out"], config.seed)
    backbone.card |= {
        **known,
        "cost": {role: cost(network)._asdict() for role, network in backbone.networks.items()},
        "calibration": {"scale": round(scale, 4), "shift": round(shift, 4)},
        "held_out": figures,
        "warnings": trainer.warnings(),
    }
    check_backbone(backbone)
    write_atomically(file.with_suffix(".png"), grid_png(generated[:64]))
    backbone.save(file)  # at last: once the file is there, the training is finished
    for line in list_damaged(dataset):
        print(line)


def _flatten(card: dict[str, Any]) -> dict[str, Any]:
    """Lift the entries of nested dictionaries to the top, as ``outer.inner``."""
    flat: dict[str, Any] = {}
    for key, value in card.items():
        nested = isinstance(value, dict)
        flat |= {f"{key}.{k}": v for k, v in value.items()} if nested else {key: value}
    return flat


def _labels(dataset: ImageDataset, rows: np.ndarray) -> torch.Tensor | None:
    if dataset.labels is None:
        return None
    return torch.from_numpy(dataset.labels[rows])


def _trainer(
    config: GANConfig | CVAEConfig,
    dataset: ImageDataset,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor | None],
) -> GANTrainer | CVAETrainer:
    if isinstance(config, GANConfig):
        return GANTrainer(config, images["train"], held_out=images["judge"])
    assert labels["train"] is not None and dataset.schema is not None
    return CVAETrainer(config, images["train"], labels["train"], dataset.schema)


def _train_classifiers(
    config: TrainingConfig,
    schema: AttributeSchema,
    images: dict[str, torch.Tensor],
    labels: dict[str, torch.Tensor | None],
) -> list[nn.Module]:
    """The classifier that rewards are made of, and the judge."""
    trained = []
    for offset, (kind, part) in enumerate(zip(ROLES, ("train", "judge"), strict=True)):
        seed = config.seed + offset
        channels, side = images[part].shape[1:3]
        size = schema.size
        (network,) = build(seed, lambda: kind(size, channels=channels, image_size=side))  # noqa: B023
        role = kind.__name__.lower()
        options: dict[str, Any] = dict(
            updates=config.classifier_updates,
            batch_size=config.batch_size,
            # The reward is made of the classifier; the judge must not share its blind spots.
            adversary=ADVERSARY if kind is Classifier else 0.0,
            bf16=config.bf16 and computes_in_bf16(torch.device("cpu")),
            seed=seed,
            desc=f"training {role}",
        )
        file = Path(config.out) / "stages" / f"{role}.safetensors"
        data: tuple[Any, ...] = images[part], labels[part], schema
        if not _load_stage(file, network, *data, options):
            train_classifier(network, *data, **options)
            _save_stage(file, network, *data, options)
        trained.append(network.eval())
    return trained


def _load_stage(file: Path, network: nn.Module, *made_with: Any) -> bool:
    """Load a network that an interrupted call has trained with the same data and options."""
    try:
        metadata, weights = read_safetensors(file, "trained network", STAGE_FORMAT)
    except ValueError:  # missing, or damaged: it is trained again
        return False
    if metadata["made_with"] != _fingerprint(network, *made_with):
        return False
    network.load_state_dict(weights)
    return True


def _save_stage(file: Path, network: nn.Module, *made_with: Any) -> None:
    """Keep a trained network for calls that resume.

    Raises:
        FloatingPointError: its weights are not finite.
    """
    weights = {key: value.contiguous() for key, value in network.state_dict().items()}
    if not all(value.isfinite().all() for value in weights.values()):
        raise FloatingPointError(f"the {file.stem} has weights that are not finite after training")
    metadata = {"format": STAGE_FORMAT, "made_with": _fingerprint(network, *made_with)}
    write_atomically(file, save(weights, metadata))


def _fingerprint(
    network: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    schema: AttributeSchema,
    options: dict[str, Any],
) -> str:
    """What a trained network depends on."""
    data = [checksum(images), checksum(labels), schema.variants]
    return json.dumps([type(network).__name__, network.config, data, options])
