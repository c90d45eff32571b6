"""What a data set holds and how it is divided, in lines to print before a training."""

from __future__ import annotations

from collections.abc import Mapping, Sized

import numpy as np

from gan_backbones.datasets.images import ImageDataset, printable
from gan_backbones.datasets.tables import FEW

SHOWN = 12
"""So many variants, damaged images and so on are listed one by one."""


def describe(dataset: ImageDataset, parts: Mapping[str, Sized]) -> list[str]:
    """Describe a data set and its split: sizes, what was left out, attributes with their counts.

    Args:
        dataset: the images.
        parts: image numbers by part, as `split` returns them.

    Returns:
        Lines of text; a last one warns of variants that fewer than 10 images have.
    """
    sizes = {part: f"{len(rows):,}" for part, rows in parts.items()}
    lines = [
        f"{len(dataset):,} images: {sizes['train']} for training, {sizes['judge']} for the "
        f"judge's training, {sizes['held_out']} held out",
        *dataset.notes,
    ]
    if dataset.damaged:
        lines.append(f"left out: {len(dataset.damaged):,} damaged")
    if dataset.schema is None or dataset.labels is None:
        return lines
    rare = []
    for column, (name, variants) in enumerate(dataset.schema.variants.items()):
        counts = np.bincount(dataset.labels[:, column], minlength=len(variants)).tolist()
        listing = [f"{variant} {count:,}" for variant, count in zip(variants, counts, strict=True)]
        if len(variants) > SHOWN:
            listing = [f"{min(counts):,} to {max(counts):,} images each"]
        lines.append(printable(f"{name} ({len(variants)} variants): {', '.join(listing)}"))
        rare += [
            printable(f"{name}={variant} ({count})")
            for variant, count in zip(variants, counts, strict=True)
            if count < FEW
        ]
    if rare:
        lines.append(f"warning: fewer than {FEW} images: {', '.join(_shorten(rare))}")
    return lines


def list_damaged(dataset: ImageDataset) -> list[str]:
    """List the images that were left out because they are damaged: a line each, after a title."""
    if not dataset.damaged:
        return []
    return [f"left out, as they are damaged: {len(dataset.damaged):,}", *dataset.damaged]


def _shorten(items: list[str]) -> list[str]:
    if len(items) <= SHOWN:
        return items
    return [*items[:SHOWN], f"and {len(items) - SHOWN:,} more"]
