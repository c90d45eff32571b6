"""Commands that make and measure backbones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from gan_backbones import GANConfig, load
from gan_backbones.datasets import CartoonSet, render_cartoon_faces
from gan_backbones.evaluation import evaluate_backbone
from gan_backbones.training import split
from gan_backbones.training import train_backbone as run_training


def train_backbone(
    data: Path,
    out: Path = Path("runs/backbone"),
    name: str = "backbone",
    faces: int = 0,
    iterations: int = 5000,
    batch_size: int = 64,
    features: int = 32,
    learning_rate: float = 3e-4,
    bf16: bool = True,
    seed: int = 0,
) -> None:
    """Train generator, discriminator, classifier and judge on labelled images; write a backbone.

    Interrupted, the same command resumes.

    Args:
        data: folder in the layout of Google's Cartoon Set: a PNG and a CSV per image.
        out: folder for checkpoint, samples and the finished backbone.
        name: of the backbone and its file.
        faces: first render that many cartoon faces into `data`; 0: use what is there.
        iterations: updates of generator and discriminator.
        batch_size: images per update.
        features: width of generator and discriminator.
        learning_rate: of generator and discriminator.
        bf16: train in bfloat16, which is faster on processors that support it.
        seed: of everything random.
    """
    if faces:
        render_cartoon_faces(data, faces, seed)
    config = GANConfig(
        data=data,
        out=out,
        iterations=iterations,
        batch_size=batch_size,
        generator_features=features,
        discriminator_features=features,
        learning_rate=learning_rate,
        bf16=bf16,
        seed=seed,
    )
    card: dict[str, object] = {"data": str(data.name), "seed": seed}
    origin = data / "render.json"
    if origin.exists():
        card["data"] = json.loads(origin.read_text())
    card["command"] = " ".join(["latentgym", *sys.argv[1:]])
    file = run_training(config, name, card)
    _print_figures(load(file).card["held_out"])
    print(f"backbone: {file}\nsamples:  {file.with_suffix('.png')}")


def benchmark_backbone(
    data: Path, backbone: str = "cartoon-faces", out: Path | None = None, seed: int = 0
) -> None:
    """Measure a backbone on held-out images: accuracies, agreement, dropped modes, precision.

    Args:
        data: the folder of labelled images it was trained on; its last fifth is held out.
        backbone: name or path.
        out: also write the figures to this JSON file.
        seed: of the generated images.
    """
    loaded = load(backbone)
    dataset = CartoonSet(data)
    if dataset.schema != loaded.schema:
        raise ValueError(f"data has {dataset.schema}; the backbone has {loaded.schema}")
    rows = split(len(dataset))["held_out"]
    labels = torch.from_numpy(dataset.labels[rows.start : rows.stop])
    figures = evaluate_backbone(loaded, dataset.images(rows), labels, seed)
    _print_figures(figures)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
        print(f"figures: {out}")


def _print_figures(figures: dict) -> None:
    lowest = figures["lowest_share"]
    quantiles = figures["realism_quantiles"]
    discriminator = figures["discriminator"]
    rows = [
        ("held-out real images, and as many generated", figures["images"]),
        ("classifier accuracy, real", f"{figures['classifier_accuracy']:.2%}"),
        ("judge accuracy, real", f"{figures['judge_accuracy']:.2%}"),
        ("classifier and judge agree, generated", f"{figures['agreement']:.2%}"),
        ("rarest variant, share against data", f"{lowest['variant']} {lowest['ratio']:.2f}"),
        ("Fréchet distance, judge features (not FID)", figures["fd_classifier"]),
        ("kernel distance (KID form), judge features", figures["kid_classifier"]),
        ("precision (k-NN, k = 5)", f"{figures['precision']:.3f}"),
        ("recall (k-NN, k = 5)", f"{figures['recall']:.3f}"),
        ("realism quantiles at", quantiles["at"]),
        ("  of real images", quantiles["real"]),
        ("  of generated images", quantiles["generated"]),
        ("discriminator: accuracy", f"{discriminator['accuracy']:.2%}"),
        ("  real images taken for real", f"{discriminator['true_positive_rate']:.2%}"),
        ("  generated images found out", f"{discriminator['true_negative_rate']:.2%}"),
    ]
    for label, value in rows:
        print(f"{label:45s} {value}")
