"""Benchmark of a backbone on held-out images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from gan_backbones import load
from gan_backbones.datasets import find_held_out, open_dataset
from gan_backbones.evaluation import evaluate_backbone
from gan_backbones.utils.files import check_output_file, write_json
from latentgym.cli.arguments import check_seed
from latentgym.cli.backbone_figures import print_figures


def benchmark_backbone(
    data: str, backbone: str = "cartoon-faces", out: Path | None = None, seed: int = 0
) -> None:
    """Measure a backbone on held-out images: accuracies, agreement, dropped modes, precision.

    Args:
        data: the images it was trained on; those that its model card names as held out are used.
        backbone: name or path of a backbone.
        out: also write the figures to this JSON file.
        seed: random seed of the generated images.
    """
    check_seed(seed)
    if out is not None:
        check_output_file(out, ".json")
    loaded = load(backbone)
    discriminator: Any = loaded.discriminator
    config = discriminator.config
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
    print_figures(figures)
    if out is not None:
        write_json(out, figures)
        print(f"figures: {out}")
