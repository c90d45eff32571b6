"""Commands that make and measure backbones."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from gan_backbones import GANConfig, load
from gan_backbones.cvae_training import CVAEConfig
from gan_backbones.datasets import find_held_out, open_dataset, render_cartoon_faces
from gan_backbones.evaluation import evaluate_backbone
from gan_backbones.networks import cost
from gan_backbones.training import train_backbone as run_training


def train_backbone(
    config: Annotated[GANConfig, tyro.conf.arg(name="")],
    kind: Literal["gan", "cvae"] = "gan",
    name: str = "backbone",
    faces: int = 0,
    features: int | None = None,
    scale: float = 0.5,
) -> None:
    """Train a generator, and what judges its images, on a folder of images; write a backbone.

    Images without attributes give generator and discriminator alone. Interrupted, the same command
    resumes.

    Args:
        config: how to train.
        kind: a GAN, or a conditional VAE, which needs attributes. Of the settings of GANs a VAE
            has only widths, latent length, learning rate and penalty.
        name: of the backbone and its file.
        faces: first render that many cartoon faces into `data`; 0: use what is there.
        features: width of both networks, instead of naming each.
        scale: of the conditional VAE: a pixel's standard deviation given latent and label.
    """
    if faces:
        render_cartoon_faces(config.data, faces, config.seed)
    if features is not None:
        config = replace(config, generator_features=features, discriminator_features=features)
    chosen = config if kind == "gan" else _cvae_config(config, scale)
    folder = str(config.data).partition("?")[0]
    card: dict[str, object] = {"data": Path(folder).name, "seed": config.seed}
    origin = Path(folder) / "render.json"
    if origin.exists():
        card["data"] = json.loads(origin.read_text())
    card["command"] = " ".join(["latentgym", *sys.argv[1:]])
    file = run_training(chosen, name, card)
    if not file.exists():  # in all processes but the first
        return
    backbone = load(file)
    for role, network in backbone.networks.items():
        print(f"{role:45s} {type(network).__name__}, {cost(network)}")
    _print_figures(backbone.card["held_out"])
    print(
        f"backbone: {file}\nsamples:  {file.with_suffix('.png')}\nlog:      {file.parent}/log.jsonl"
    )


def _cvae_config(config: GANConfig, scale: float) -> CVAEConfig:
    """The settings that a conditional VAE shares with a GAN; others must not have been chosen."""
    names = {field.name for field in fields(CVAEConfig)}
    for field in fields(GANConfig):
        shared = field.name in names or field.name == "generator_features"
        if not shared and getattr(config, field.name) != field.default:
            raise ValueError(
                f"{field.name} is {getattr(config, field.name)!r}; a conditional VAE has no such "
                "setting"
            )
    shared = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return CVAEConfig(**shared, features=config.generator_features, scale=scale)


def benchmark_backbone(
    data: str, backbone: str = "cartoon-faces", out: Path | None = None, seed: int = 0
) -> None:
    """Measure a backbone on held-out images: accuracies, agreement, dropped modes, precision.

    Args:
        data: the images it was trained on; those that its model card names as held out are used.
        backbone: name or path.
        out: also write the figures to this JSON file.
        seed: of the generated images.
    """
    loaded = load(backbone)
    config = loaded.discriminator.config
    dataset = open_dataset(data, config["image_size"], config["channels"])
    if dataset.schema != loaded.schema:
        raise ValueError(f"data has {dataset.schema}; the backbone has {loaded.schema}")
    for note in dataset.notes:
        print(note)
    known = sum(loaded.card.get("images", {}).values())
    if known not in (0, len(dataset)):
        print(
            f"warning: data has {len(dataset):,} images, the backbone was made with {known:,}: if "
            "they are the same in part, some may be ones that it was trained with",
            file=sys.stderr,
        )
    rows = find_held_out(dataset, loaded.card)
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    figures = evaluate_backbone(loaded, dataset.images(rows), labels, seed)
    _print_figures(figures)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"figures: {out}")


def _print_figures(figures: dict) -> None:
    quantiles = figures["realism_quantiles"]
    discriminator = figures["discriminator"]
    rows = [("held-out real images, and as many generated", figures["images"])]
    if "label_accuracy" in figures:
        rows.append(("images as their label asks", f"{figures['label_accuracy']:.2%}"))
    if "judge_accuracy" in figures:
        lowest = figures["lowest_share"]
        rows += [
            ("classifier accuracy, real", f"{figures['classifier_accuracy']:.2%}"),
            ("judge accuracy, real", f"{figures['judge_accuracy']:.2%}"),
            ("classifier and judge agree, generated", f"{figures['agreement']:.2%}"),
            ("rarest variant, share against data", f"{lowest['variant']} {lowest['ratio']:.2f}"),
            ("Fréchet distance, judge features (not FID)", figures["fd_classifier"]),
            ("kernel distance (KID form), judge features", figures["kid_classifier"]),
            ("precision (k-NN, k = 5)", f"{figures['precision']:.3f}"),
            ("recall (k-NN, k = 5)", f"{figures['recall']:.3f}"),
        ]
    rows += [
        ("realism quantiles at", quantiles["at"]),
        ("  of real images", quantiles["real"]),
        ("  of generated images", quantiles["generated"]),
        ("discriminator: accuracy", f"{discriminator['accuracy']:.2%}"),
        ("  real images taken for real", f"{discriminator['true_positive_rate']:.2%}"),
        ("  generated images found out", f"{discriminator['true_negative_rate']:.2%}"),
    ]
    for label, value in rows:
        print(f"{label:45s} {value}")
