"""Reader of CelebA in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision

from gan_backbones.datasets.images import DatasetError, ImageFiles
from gan_backbones.schema import AttributeSchema

PARTITIONS = {"train": 0, "valid": 1, "test": 2}
VARIANTS = ("no", "yes")


class CelebA(ImageFiles):
    """Photographs of celebrities' faces with 40 binary attributes (Liu et al. 2015).

    Reads ``<root>/celeba/img_align_celeba/*.jpg`` and, next to that folder,
    ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, as torchvision lays them out. Of the
    178 x 218 pixels the central square is taken. Each attribute (``Smiling``, ``Eyeglasses``,
    ...) has the variants ``no`` and ``yes``.

    Args:
        root: the folder that contains ``celeba``.
        attributes: which attributes to keep, in this order; by default all 40.
        split: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``; of all, the test part is held out
            from training if ``list_eval_partition.txt`` is there.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.
        download: fetch the files first where they are missing, through torchvision, which needs
            the package gdown for it.
        damaged: ``"error"``, or ``"skip"`` to leave damaged and missing images out; see
            `ImageFiles`.

    Raises:
        DatasetError: a file is missing or damaged, or cannot be downloaded.
        ValueError: an unknown split or attribute.
    """

    def __init__(
        self,
        root: str | Path,
        attributes: Sequence[str] | None = None,
        split: str = "all",
        image_size: int = 64,
        channels: int = 3,
        download: bool = False,
        damaged: str = "error",
    ):
        if split not in (*PARTITIONS, "all"):
            raise ValueError(f"split is {split!r}; allowed: {', '.join(PARTITIONS)}, all")
        self.root = Path(root)
        folder = self.root / "celeba"
        if download:
            _download(self.root, folder)
        images = folder / "img_align_celeba"
        if not images.is_dir():
            packed = images.with_suffix(".zip")
            hint = f"; {packed.name} is there: unpack it" if packed.exists() else ""
            raise DatasetError(f"{images}: missing; expected the folder of images{hint}")
        names, rows = read_attributes(folder / "list_attr_celeba.txt")
        partition_file = folder / "list_eval_partition.txt"
        partition: dict[str, int] = {}
        if split != "all" or partition_file.exists():
            partition = read_partition(partition_file)
            if missing := next((name for name in rows if name not in partition), None):
                raise DatasetError(f"{partition_file}: expected a line for {missing}, found none")
        if split != "all":
            rows = {name: row for name, row in rows.items() if partition[name] == PARTITIONS[split]}
            if not rows:
                raise DatasetError(f"{partition_file}: expected images of {split!r}, found none")
        present = {file.name for file in images.iterdir()}
        missing = next((name for name in rows if name not in present), None)
        if damaged != "skip" and missing:
            raise DatasetError(f"{images / missing}: missing; expected an image")
        schema = AttributeSchema({name: VARIANTS for name in names})
        files = [images / name for name in rows]
        labels = np.array(list(rows.values()))
        super().__init__(files, image_size, channels, schema, labels, attributes, damaged=damaged)
        if split == "all" and partition:
            is_test = [partition[file.name] == PARTITIONS["test"] for file in self.files]
            self.test_rows = np.flatnonzero(is_test)


def read_attributes(file: Path) -> tuple[list[str], dict[str, list[int]]]:
    """Attribute names, and by image name 0 or 1 for each, of ``list_attr_celeba.txt``.

    The first line is the number of images, the second names the attributes; every other line has
    an image's name and -1 or 1 for each.

    Raises:
        DatasetError: missing or damaged.
    """
    lines = _lines(file)
    if len(lines) < 2 or not lines[0].strip().isdigit():
        raise DatasetError(f"{file}, line 1: expected the number of images")
    count, names = int(lines[0]), lines[1].split()
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"{file}, line 2: expected the attributes' names, each once")
    values = {"-1": 0, "1": 1}
    rows: dict[str, list[int]] = {}
    for number, line in enumerate(lines[2:], 3):
        name, *cells = line.split() or [""]
        if len(cells) != len(names) or not all(cell in values for cell in cells):
            raise DatasetError(
                f"{file}, line {number}: expected an image's name and {len(names)} values, "
                f"each -1 or 1; found {line!r}"
            )
        rows[name] = [values[cell] for cell in cells]
    if not rows or len(rows) != count:
        raise DatasetError(f"{file}: expected {count} images as line 1 states, found {len(rows)}")
    return names, rows


def read_partition(file: Path) -> dict[str, int]:
    """By image name 0 (train), 1 (valid) or 2 (test), of ``list_eval_partition.txt``.

    Raises:
        DatasetError: missing or damaged.
    """
    partition: dict[str, int] = {}
    for number, line in enumerate(_lines(file), 1):
        name, *cells = line.split() or [""]
        if len(cells) != 1 or cells[0] not in ("0", "1", "2"):
            raise DatasetError(
                f"{file}, line {number}: expected an image's name and 0, 1 or 2; found {line!r}"
            )
        partition[name] = int(cells[0])
    return partition


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing; it belongs to CelebA") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: expected text") from None


def _download(root: Path, folder: Path) -> None:
    needed = ("img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt")
    if all((folder / name).exists() for name in needed):
        return
    try:
        torchvision.datasets.CelebA(str(root), download=True)
    except (RuntimeError, OSError, ValueError) as error:
        message = " ".join(str(error).split())
        raise DatasetError(
            f"{folder}: cannot download CelebA ({message}); put {', '.join(needed)} there"
        ) from None
