"""Reader of Google's Cartoon Set layout: one PNG and one CSV of attributes per image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gan_backbones.datasets.images import (
    DatasetError,
    ImageFiles,
    find_images,
    note_left_out,
    to_float,
)
from gan_backbones.schema import AttributeSchema

__all__ = ["CartoonSet", "DatasetError", "read_schema", "to_float"]

_ROW = re.compile(r'^\s*"?(?P<name>[^",]+)"?\s*,\s*(?P<index>-?\d+)\s*,\s*(?P<size>\d+)\s*$')


class CartoonSet(ImageFiles):
    """Cartoon faces with attributes, from CartoonSet10k, CartoonSet100k or `render_cartoon_faces`.

    Each image ``x.png`` has a file ``x.csv`` in the same folder, with lines such as
    ``"attribute", index, number_of_variants``. Sub-folders are searched. A file ``schema.json`` in
    ``root`` gives the attributes, their order and their variants' names. Without it they come from
    the first CSV, and the variants are named ``"0"``, ``"1"``, ... Every CSV must agree.

    Args:
        root: the folder.
        image_size: images are scaled to this many pixels a side.
        channels: 3 for RGB, 1 for grey.
        attributes: which attributes to keep, in this order; by default all.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.
        damaged: ``"error"``, or ``"skip"`` to leave items out whose image or CSV is damaged; see
            `ImageFiles`.

    Attributes:
        files: the image files, sorted.

    Raises:
        DatasetError: no images; a missing CSV, an index out of range, a count that differs
            between files or from ``schema.json``; a truncated PNG when it is read.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 64,
        channels: int = 3,
        attributes: Sequence[str] | None = None,
        background: str = "white",
        damaged: str = "error",
    ):
        self.root = Path(root)
        if not self.root.is_dir():
            raise DatasetError(f"{self.root}: no such folder")
        found, left_out = find_images(self.root, (".png",), ignored=(".csv", ".json"))
        if not found:
            raise DatasetError(f"{self.root}: expected *.png images with a .csv each, found none")
        reference = self.root / "schema.json"  # what every CSV must agree with
        schema = read_schema(reference) if reference.exists() else None
        files: list[Path] = []
        labels: list[list[int]] = []
        problems: list[str] = []
        for file in found:
            csv = file.with_suffix(".csv")
            try:
                rows = _read_rows(csv)
                if schema is None:
                    reference, schema = csv, _numbered_schema(rows)
                _check_rows(csv, rows, schema, reference)
            except DatasetError as error:
                if damaged != "skip":
                    raise
                problems.append(str(error))
            else:
                files.append(file)
                labels.append([row.index for row in rows.values()])
        super().__init__(
            files,
            image_size,
            channels,
            schema,
            np.array(labels),
            attributes,
            note_left_out(left_out),
            background,
            damaged,
            problems,
        )


@dataclass(frozen=True)
class _Row:
    line: int
    index: int
    size: int


def _read_rows(file: Path) -> dict[str, _Row]:
    """A CSV's attributes by name, in order."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing; expected the PNG's attributes") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{file}: expected text") from None
    rows: dict[str, _Row] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = _ROW.match(line)
        if match is None:
            raise DatasetError(
                f'{file}, line {number}: expected "attribute", index, number_of_variants; '
                f"found {line!r}"
            )
        name, index, size = match["name"].strip(), int(match["index"]), int(match["size"])
        if not 0 <= index < size:
            raise DatasetError(
                f"{file}, line {number}: index {index} of attribute {name!r} is out of range; "
                f"expected 0 to {size - 1}"
            )
        if name in rows:
            raise DatasetError(
                f"{file}, line {number}: expected each attribute once; {name!r} is also "
                f"on line {rows[name].line}"
            )
        rows[name] = _Row(number, index, size)
    if not rows:
        raise DatasetError(f"{file}: expected at least one attribute line, found none")
    return rows


def read_schema(file: Path) -> AttributeSchema:
    """The attributes that a ``schema.json`` names.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        return AttributeSchema.from_json(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DatasetError(f"{file}: {error}") from None


def _numbered_schema(rows: dict[str, _Row]) -> AttributeSchema:
    return AttributeSchema({name: [str(v) for v in range(row.size)] for name, row in rows.items()})


def _check_rows(
    file: Path, rows: dict[str, _Row], schema: AttributeSchema, reference: Path
) -> None:
    if len(rows) != len(schema.names):
        raise DatasetError(
            f"{file}: expected {len(schema.names)} attributes as in {reference}, found {len(rows)}"
        )
    for (name, row), want_name, want_size in zip(
        rows.items(), schema.names, schema.sizes, strict=True
    ):
        if (name, row.size) != (want_name, want_size):
            raise DatasetError(
                f"{file}, line {row.line}: expected attribute {want_name!r} of {want_size} "
                f"variants as in {reference}, found {name!r} of {row.size}"
            )
