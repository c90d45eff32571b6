"""What each idea of GAN training does: one base recipe, and others that differ in one thing."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from gan_backbones.datasets import DatasetError, open_dataset, split, to_float
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import (
    batched,
    classifier_features,
    discriminator_confusion,
    frechet_distance,
    kid,
    precision_recall,
)
from gan_backbones.networks import Judge, bake
from gan_backbones.training.calibration import fit_platt
from gan_backbones.training.classifiers import predict_attributes, train_classifier
from gan_backbones.training.gan import GANConfig, GANTrainer
from gan_backbones.training.trainer import build
from gan_backbones.utils.files import check_output_file, write_atomically
from gan_backbones.utils.images import to_uint8
from gan_backbones.utils.locks import folder_lock
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.benchmarks.repeated_runs import Job, Run, find_runs, repeat_runs
from latentgym.cli.pictures import save_rows

SHOWN = 12  # generated images of each variant in the picture

REAL = "real images"
"""The row with the best possible figures: training images compared with held-out images."""

# DCGAN: transposed convolutions, cross-entropy with strict labels, the averaged generator.
BASE: dict[str, Any] = {
    "objective": "bce",
    "penalty_kind": "none",
    "penalty_interval": 1,
    "betas": (0.0, 0.99),
    "ema_half_life": 5000,
}

# What each changes. A penalty or norm belongs to the objective that its authors made it for.
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "upconv": {"upsampling": "upconv"},
    "labels smoothed to 0.9": {"real_target": 0.9},
    "5 % of labels flipped": {"flipped": 0.05},
    "least squares": {"objective": "least_squares"},
    "hinge, spectral norm": {"objective": "hinge", "norm": "spectral"},
    "WGAN-GP": {"objective": "wgan", "penalty_kind": "wgan", "penalty": 10.0},
    "RpGAN, R1 and R2": {"objective": "relativistic", "penalty_kind": "r1_r2", "penalty": 1.0},
    "without EMA": {"ema_half_life": 0},
    "DiffAugment": {"augment": ("color", "translation", "cutout")},
    "reward/punishment S1": {"reward_punishment": "S1"},
    "reward/punishment S2": {"reward_punishment": "S2"},
    "reward/punishment S3": {"reward_punishment": "S3"},
}


class Materials(NamedTuple):
    """What all runs share. As NumPy arrays and bytes, which any process can be sent."""

    train: np.ndarray
    """uint8 ``[N, C, H, W]``, for the GANs."""
    judged: np.ndarray
    """Those the judge was trained on; here they calibrate the discriminators."""
    held_out: np.ndarray
    judge: bytes
    """Its weights, as safetensors."""
    judge_config: dict[str, int]
    judge_accuracy: float


def benchmark_gan_ablation(
    data: str,
    variants: tuple[str, ...] = tuple(VARIANTS),
    image_size: int = 32,
    images: int = 1600,
    iterations: int = 500,
    batch_size: int = 32,
    features: int = 12,
    latent_dim: int = 64,
    learning_rate: float = 2e-3,
    seeds: int = 3,
    seed: int = 0,
    workers: int = 2,
    out: Path = Path("runs/gan-ablation.json"),
) -> None:
    """Compare ways of training a GAN at equal budget, in the features of a judge of its own.

    Interrupted, the same command goes on.

    Args:
        data: labelled images: a folder or READER:FOLDER. A fifth of them, drawn by the seed, is
            compared with, and another fifth trains the judge; the GANs see neither.
        variants: names of the variants to run.
        image_size: side of the images in pixels.
        images: maximum number of training images of the GANs.
        iterations: number of updates of each network.
        batch_size: number of images per update.
        features: width of both networks.
        latent_dim: length of the latent.
        learning_rate: step size of both networks.
        seeds: number of runs per variant.
        seed: random seed of the first run and of the judge.
        workers: number of single-threaded parallel workers.
        out: JSON file of the figures, written after each run; a markdown table and a picture of
            generated images, one row per variant, go next to it.
    """
    check_seed(seed)
    check_counts(images=images, seeds=seeds, workers=workers)
    check_output_file(out, ".json")
    for label in variants:
        if label not in VARIANTS:
            raise ValueError(f"variants has {label!r}; allowed: {', '.join(VARIANTS)}")
    if not variants:
        raise ValueError(f"variants is empty; allowed: {', '.join(VARIANTS)}")
    torch.set_num_threads(1)  # by several, the judge's weights would come out a little different
    shared = {
        "data": Path(data.partition("?")[0]).name,
        "image_size": image_size,
        "images": images,
        "judge_seed": seed,
    }
    budget = {
        "iterations": iterations,
        "batch_size": batch_size,
        "generator_features": features,
        "discriminator_features": features,
        "latent_dim": latent_dim,
        "learning_rate": learning_rate,
    }
    jobs: list[Job] = [{"label": REAL, "seed": seed, **shared, "config": None}]
    for number in range(seed, seed + seeds):
        for label in variants:
            config = {**BASE, **budget, **VARIANTS[label]}
            _config(config, number)  # errors now, not in a worker
            jobs.append({"label": label, "seed": number, **shared, "config": config})
    strips, picture = out.with_suffix(""), out.with_suffix(".png")
    with folder_lock(strips):
        known = find_runs(jobs, out)
        materials = None
        if any((job["label"], job["seed"]) not in known for job in jobs):
            materials = prepare(data, image_size, images, batch_size, seed)
        run = partial(run_job, materials=materials, strips=strips)
        title = f"{shared['data']}, {image_size} pixels"
        repeat_runs(jobs, run, workers, out, title, _row, _brief)
        _save_picture(picture, strips, [REAL, *variants], seed)
    print(f"picture: {picture}")


def prepare(data: str, image_size: int, images: int, batch_size: int, seed: int) -> Materials:
    """Read the images and train the judge.

    Raises:
        DatasetError: they are missing, damaged, or have no attributes.
    """
    dataset = open_dataset(data, image_size)
    schema, all_labels = dataset.schema, dataset.labels
    if schema is None or all_labels is None:
        raise DatasetError(f"{data}: the judge needs images with attributes")
    parts = split(dataset, seed=seed)
    rows = {**parts, "train": parts["train"][:images]}
    pixels = {part: dataset.images(rows[part], f"reading {part} images") for part in rows}
    labels = {part: torch.from_numpy(all_labels[rows[part]]) for part in rows}
    channels = pixels["judge"].shape[1]
    (judge,) = build(seed, lambda: Judge(schema.size, channels=channels, image_size=image_size))
    train_classifier(
        judge, pixels["judge"], labels["judge"], schema, batch_size=batch_size,
        bf16=False, seed=seed, desc="training judge",
    )  # fmt: skip
    logits = batched(lambda batch: judge(to_float(batch)), pixels["held_out"])
    right = predict_attributes(logits, schema) == labels["held_out"]
    config: Any = judge.config
    weights = {name: value.contiguous() for name, value in judge.state_dict().items()}
    return Materials(
        train=pixels["train"].numpy(),
        judged=pixels["judge"].numpy(),
        held_out=pixels["held_out"].numpy(),
        judge=save_tensors(weights),
        judge_config=config,
        judge_accuracy=round(right.double().mean().item(), 4),
    )


def run_job(job: Job, materials: Any, strips: Path) -> Run:
    """Train one GAN and measure it; a loss that is not finite ends it and is recorded."""
    torch.set_num_threads(1)
    train, judged, held_out = (torch.from_numpy(images) for images in materials[:3])
    judge = Judge(**materials.judge_config)
    judge.load_state_dict(load_tensors(materials.judge))
    features = classifier_features(judge)
    result: Run = {"job": job, "judge_accuracy": materials.judge_accuracy}
    if job["config"] is None:
        _write_strip(strips, job, to_float(held_out[:SHOWN]))
        return {**result, **_distances(features(held_out), features(train))}
    trainer = GANTrainer(_config(job["config"], job["seed"]), train)
    losses, seconds = _train(trainer)
    result["seconds"] = round(seconds, 1)
    if not all(np.isfinite(losses)):
        return {**result, "diverged_at": int(np.argmin(np.isfinite(losses)))}
    rng = torch.Generator().manual_seed(job["seed"])
    latents = draw_latents(len(held_out), job["config"]["latent_dim"], rng)
    generated = batched(trainer.generator, latents)
    _write_strip(strips, job, generated[:SHOWN])
    last = losses[len(losses) // 2 :]
    return {
        **result,
        "loss_mean": float(np.mean(last)),
        "loss_deviation": float(np.std(last)),
        "discriminator": _confusion(trainer, judged, held_out, generated),
        **_distances(features(held_out), features(generated)),
    }


def _train(trainer: GANTrainer) -> tuple[list[float], float]:
    """The discriminator's loss of each iteration, up to one that is not finite; CPU seconds."""
    losses: list[float] = []
    began = time.process_time()
    while trainer.iteration < trainer.config.iterations and all(np.isfinite(losses[-1:])):
        losses.append(trainer.train_step()["loss_discriminator"].item())
        trainer.iteration += 1
    return losses, time.process_time() - began


def _confusion(
    trainer: GANTrainer, judged: torch.Tensor, held_out: torch.Tensor, generated: torch.Tensor
) -> dict[str, Any]:
    """On held-out real images and as many generated ones; see `discriminator_confusion`.

    Objectives put their logits' zero in different places, and some nowhere in particular. So the
    threshold is where other real images, which the discriminator has not seen either, are as likely
    as other generated ones.
    """
    discriminator = bake(trainer.discriminator.eval())
    rng = torch.Generator().manual_seed(trainer.config.seed + 1)
    latents = draw_latents(len(judged), trainer.config.latent_dim, rng)

    def real_logits(images: torch.Tensor) -> torch.Tensor:
        return batched(lambda batch: discriminator(to_float(batch)), images)

    scale, shift = fit_platt(
        real_logits(judged), batched(lambda z: discriminator(trainer.generator(z)), latents)
    )
    real, fake = real_logits(held_out), batched(discriminator, generated)
    return discriminator_confusion(scale * real + shift, scale * fake + shift)


def _distances(real: torch.Tensor, generated: torch.Tensor) -> dict[str, float]:
    precision, recall = precision_recall(real, generated)
    return {
        "fd_classifier": frechet_distance(real, generated),
        "kid": kid(real, generated),
        "precision": precision,
        "recall": recall,
    }


def _config(settings: dict[str, Any], seed: int) -> GANConfig:
    return GANConfig(data="", seed=seed, bf16=False, **settings)


# Table and picture --------------------------------------------------------------------------------


def _row(runs: list[Run]) -> dict[str, str]:
    """Means over seeds, in parentheses least and greatest."""

    def cell(*path: str, digits: int = 2, scale: float = 1.0) -> str:
        values = [scale * value for run in runs if (value := _figure(run, path)) is not None]
        if not values:
            return "-"
        mean = f"{np.mean(values):.{digits}f}"
        if len(values) == 1:
            return mean
        return f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    diverged = sum("diverged_at" in run for run in runs)
    rate = partial(cell, "discriminator", digits=1, scale=100)
    return {
        "seeds": f"{len(runs)}, {diverged} of them diverged" if diverged else str(len(runs)),
        "fd_classifier": cell("fd_classifier"),
        "KID": cell("kid"),
        "precision": cell("precision"),
        "recall": cell("recall"),
        "real taken for real, %": rate("true_positive_rate"),
        "generated found out, %": rate("true_negative_rate"),
        "accuracy, %": rate("accuracy"),
        "discriminator's loss": cell("loss_mean"),
        "its deviation": cell("loss_deviation", digits=3),
        "CPU seconds": cell("seconds", digits=0),
    }


def _figure(run: Run, path: tuple[str, ...]) -> float | None:
    value: Any = run
    for name in path:
        value = value.get(name) if value is not None else None
    return value


def _brief(run: Run) -> str:
    if "diverged_at" in run:
        return f"diverged at iteration {run['diverged_at']}"
    return f"fd_classifier {run['fd_classifier']:.2f}"


def _strip_file(strips: Path, label: str, seed: int) -> Path:
    return strips / f"{re.sub('[^a-z0-9]+', '-', label.lower())}-{seed}.png"


def _write_strip(strips: Path, job: Job, images: torch.Tensor) -> None:
    """Images float32 in [-1, 1] side by side, as a PNG file."""
    pixels = to_uint8(images.permute(2, 0, 3, 1).flatten(1, 2))
    encoded = iio.imwrite("<bytes>", pixels.squeeze(-1).numpy(), extension=".png")
    write_atomically(_strip_file(strips, job["label"], job["seed"]), encoded)


def _save_picture(file: Path, strips: Path, labels: list[str], seed: int) -> None:
    """The strips of one seed under each other, those that are there."""
    found = {label: _strip_file(strips, label, seed) for label in labels}
    rows = {label: iio.imread(strip) for label, strip in found.items() if strip.exists()}
    images = []
    for strip in rows.values():
        side = strip.shape[0]
        pixels = strip.reshape(side, -1, side, *strip.shape[2:]).swapaxes(0, 1)
        images.append(pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=-1))
    columns = [""] * len(images[0])
    save_rows(file, np.stack(images), list(rows), columns, f"seed {seed}, the same latents")
