"""Which images train what: a split drawn by seed, with each variant's share alike in all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gan_backbones.datasets.images import ImageDataset

PARTS = ("train", "judge", "held_out")
SHARES = (0.6, 0.2, 0.2)
MAX_HELD_OUT = 10_000


def split(
    dataset: ImageDataset, shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Divide a data set's images among training, the judge's training and measuring.

    Each image belongs to one part. Images with attributes are stratified: every part has its share
    of each variant's images, as far as possible. Others are drawn at random.

    Args:
        dataset: the images. An official test part (``dataset.test_rows``) is held out, and nothing
            else is.
        shares: of the parts in the sum of all images; of more than 50,000 images 10,000 are held
            out at most, and the other two share the rest in proportion.
        seed: non-negative; the split is the same under all versions of NumPy.

    Returns:
        Image numbers by part: ``train`` for GAN and classifier, ``judge``, and
        ``held_out``, which no network sees. They are in random order, so the first of a part are
        a fair sample of it.

    Raises:
        ValueError: ``shares`` are not three positive numbers with the sum 1.
    """
    check_shares(shares)
    bits = np.random.MT19937(np.random.SeedSequence(seed))
    rng = np.random.RandomState(bits)  # unlike a Generator's, its numbers never change
    train, judge, held_out = shares
    rows = rng.permutation(len(dataset))
    test_rows = dataset.test_rows
    if test_rows is None:
        held_out_size = min(MAX_HELD_OUT, round(len(rows) * held_out))
    else:
        held_out_size = 0
        rows, test_rows = rows[~np.isin(rows, test_rows)], rng.permutation(test_rows)
    judge_size = round((len(rows) - held_out_size) * judge / (train + judge))
    sizes = (len(rows) - held_out_size - judge_size, judge_size, held_out_size)
    labels = np.zeros((len(rows), 0), np.int64) if dataset.labels is None else dataset.labels[rows]
    drawn = _stratify(labels, sizes)
    parts = {part: rows[drawn == number] for number, part in enumerate(PARTS)}
    return parts if test_rows is None else {**parts, "held_out": test_rows}


def find_held_out(dataset: ImageDataset, card: Mapping[str, Any]) -> np.ndarray:
    """Return the numbers of the images that a backbone has not been trained on, by its model card.

    ``card["split"]`` are the arguments of `split`. Backbones made before it was recorded held out
    the last fifth in file order, 10,000 at most.
    """
    if "split" in card:
        return split(dataset, **card["split"])["held_out"]
    count = len(dataset)
    return np.arange(count - min(MAX_HELD_OUT, count // 5), count)


def check_shares(shares: Sequence[float]) -> None:
    """Raise a ValueError unless ``shares`` are three positive numbers with the sum 1."""
    if len(shares) != len(PARTS) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            f"split is {tuple(shares)}; expected three positive shares with the sum 1: of the "
            "images for training, for the judge, and held out"
        )


def _stratify(labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Deal images out to parts of given sizes; returns the part of each image.

    Each image goes to the part that lacks most of the image's variants: the sum, over them, of the
    images still missing as a fraction of the part's share. This is the steepest descent of the
    chi-square distance between the parts' shares and the whole's.

    Args:
        labels: variant indices ``[N, A]``, of images in random order.
        sizes: of the parts; their sum is N.
    """
    count = len(labels)
    variants = labels.max(axis=0, initial=0) + 1
    columns = labels + np.cumsum(variants) - variants  # each variant's own, over all attributes
    totals = np.bincount(columns.ravel(), minlength=variants.sum())
    shares = np.outer(sizes, totals) / max(count, 1)  # images [part, variant]
    lacking = np.ones_like(shares)
    step = 1 / np.maximum(shares, 1e-9)
    room = np.array(sizes)
    parts = np.empty(count, np.int64)
    for row, mine in enumerate(columns):
        need = lacking[:, mine].sum(axis=1).round(9)  # equal on all machines
        part = parts[row] = np.where(room > 0, need, -np.inf).argmax()
        lacking[part, mine] -= step[part, mine]
        room[part] -= 1
    return parts
