"""Reader of Google's Cartoon Set layout: one PNG and one CSV of attributes per image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from gan_backbones.schema import AttributeSchema

_ROW = re.compile(r'^\s*"?(?P<name>[^",]+)"?\s*,\s*(?P<index>-?\d+)\s*,\s*(?P<size>\d+)\s*$')


class DatasetError(ValueError):
    """A data set's file is missing or damaged; the message names file, line and expectation."""


class CartoonSet(Dataset):
    """Cartoon faces with attributes, from CartoonSet10k, CartoonSet100k or `render_cartoon_faces`.

    Each image ``x.png`` has an ``x.csv`` beside it whose lines read
    ``"attribute", index, number_of_variants``. Sub-folders are searched. The attributes, their
    order and their numbers of variants come from the first CSV; all others must agree. A file
    ``schema.json`` in ``root`` gives the variants' names; without it they are ``"0"``, ``"1"``, ...

    Args:
        root: the folder.
        strict: raise at the first bad item; if ``False``, leave bad items out and count them in
            ``skipped``.
        image_size: images are scaled to this many pixels a side.

    Attributes:
        schema: the :class:`AttributeSchema`.
        labels: variant indices, int64 ``[len(self), len(schema.names)]``.
        files: the image files, sorted.
        skipped: number of items left out (``strict=False``).

    Raises:
        DatasetError: no images; a missing CSV, an index out of range, a count that differs
            between files; a truncated PNG (when it is read, or at once with ``strict=False``).
    """

    def __init__(self, root: str | Path, strict: bool = True, image_size: int = 64):
        self.root = Path(root)
        self.image_size = image_size
        files = sorted(p for p in self.root.rglob("*.png") if not p.name.startswith("."))
        if not files:
            raise DatasetError(f"{self.root}: expected *.png images with a .csv each, found none")
        self.schema: AttributeSchema | None = None
        self.skipped = 0
        self.files: list[Path] = []
        labels: list[list[int]] = []
        for file in files:
            try:
                rows = _read_rows(file.with_suffix(".csv"))
                if self.schema is None:
                    self.schema = _schema(self.root, rows)
                labels.append(_labels(file.with_suffix(".csv"), rows, self.schema))
                if not strict:
                    self._image(file)
            except DatasetError:
                if strict:
                    raise
                del labels[len(self.files) :]
                self.skipped += 1
            else:
                self.files.append(file)
        if not self.files:
            raise DatasetError(f"{self.root}: all {self.skipped} items are damaged")
        self.labels = np.array(labels, dtype=np.int64)
        self._one_hot = self.schema.encode_indices(self.labels)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 ``[3, H, W]`` in [-1, 1] and its one-hot attributes float32 ``[K]``."""
        image = to_float(torch.from_numpy(self._image(self.files[index])))
        return image, torch.from_numpy(self._one_hot[index].copy())

    def images(self, indices: range | np.ndarray, desc: str = "reading images") -> torch.Tensor:
        """The images ``indices`` in memory: uint8 ``[len(indices), 3, H, W]``."""
        size = self.image_size
        stack = torch.empty((len(indices), 3, size, size), dtype=torch.uint8)
        for row, index in enumerate(tqdm(indices, desc=desc, unit="img")):
            stack[row] = torch.from_numpy(self._image(self.files[index]))
        return stack

    def _image(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                image = image.convert("RGBA")  # the real set has transparent corners
        except (OSError, SyntaxError) as error:
            raise DatasetError(f"{file}: expected a complete PNG image ({error})") from None
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image).convert("RGB")
        if image.size != (self.image_size, self.image_size):
            image = image.resize((self.image_size, self.image_size), Image.Resampling.LANCZOS)
        return np.asarray(image).transpose(2, 0, 1).copy()


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def _read_rows(file: Path) -> list[tuple[str, int, int]]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing; expected the attributes of the PNG beside it") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: expected text") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _ROW.match(line)
        if match is None:
            raise DatasetError(
                f'{file}, line {number}: expected "attribute", index, number_of_variants; '
                f"found {line!r}"
            )
        index, size = int(match["index"]), int(match["size"])
        if not 0 <= index < size:
            raise DatasetError(
                f"{file}, line {number}: index {index} of attribute {match['name']!r} is out of "
                f"range; expected 0 to {size - 1}"
            )
        rows.append((match["name"].strip(), index, size))
    if not rows:
        raise DatasetError(f"{file}: expected at least one attribute line, found none")
    return rows


def _schema(root: Path, rows: list[tuple[str, int, int]]) -> AttributeSchema:
    numbered = AttributeSchema({name: [str(v) for v in range(size)] for name, _, size in rows})
    file = root / "schema.json"
    if not file.exists():
        return numbered
    try:
        named = AttributeSchema.from_json(file.read_text())
    except ValueError as error:
        raise DatasetError(f"{file}: {error}") from None
    if (named.names, named.sizes) != (numbered.names, numbered.sizes):
        raise DatasetError(f"{file}: expected {numbered}, as the CSV files have it; found {named}")
    return named


def _labels(file: Path, rows: list[tuple[str, int, int]], schema: AttributeSchema) -> list[int]:
    if len(rows) != len(schema.names):
        raise DatasetError(
            f"{file}: expected {len(schema.names)} attributes as in the first file, "
            f"found {len(rows)}"
        )
    expected = zip(schema.names, schema.sizes, strict=True)
    for number, ((name, _, size), (want_name, want_size)) in enumerate(
        zip(rows, expected, strict=True), 1
    ):
        if (name, size) != (want_name, want_size):
            raise DatasetError(
                f"{file}, line {number}: expected attribute {want_name!r} of {want_size} variants "
                f"as in the first file, found {name!r} of {size}"
            )
    return [index for _, index, _ in rows]
