"""Readers of plain folders of images, with or without a table of attributes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gan_backbones.datasets.cartoon_set import read_schema
from gan_backbones.datasets.images import ENDINGS, DatasetError, ImageFiles, find_images
from gan_backbones.schema import AttributeSchema

TABLE = "attributes.csv"


class ImageFolder(ImageFiles):
    """All PNG, JPEG and WebP files in a folder and its sub-folders, sorted; nothing else is known.

    Args:
        root: the folder.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.

    Raises:
        DatasetError: no such folder, or no images in it.
    """

    def __init__(self, root: str | Path, image_size: int = 64, channels: int = 3):
        super().__init__(some_images(root), image_size, channels)
        self.root = Path(root)


class AttributeTable(ImageFiles):
    """A folder of images with a table of their attributes, a CSV file.

    The table's first line names the columns: first the file, then the attributes. Each other line
    has an image's path, relative to ``root``, and its variants::

        file,hair,glasses
        0001.jpg,black,none
        0002.jpg,red,round

    The variants are what the column holds, sorted (numbers by value); a file ``schema.json`` beside
    the table, ``{"attribute": ["variant", ...]}``, gives another order. Images that the table does
    not list are left out.

    Args:
        root: the folder.
        table: the table's name, relative to ``root``.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.
        attributes: which columns to keep, in this order; by default all.

    Raises:
        DatasetError: the table or an image that it lists is missing; a line with another number of
            cells or an empty one; a column or file named twice; a variant that ``schema.json``
            lacks.
    """

    def __init__(
        self,
        root: str | Path,
        table: str = TABLE,
        image_size: int = 64,
        channels: int = 3,
        attributes: Sequence[str] | None = None,
    ):
        self.root = Path(root)
        path = self.root / table
        names, rows = read_table(path)
        for line, (name, *_) in rows.items():
            if not (self.root / name).is_file():
                raise DatasetError(f"{path}, line {line}: {self.root / name} is missing")
        schema_file = path.with_name("schema.json")
        if schema_file.exists():
            schema = read_schema(schema_file)
            if list(schema.names) != names:
                raise DatasetError(
                    f"{path}, line 1: expected the attributes of {schema_file}, "
                    f"{', '.join(schema.names)}; found {', '.join(names)}"
                )
        else:
            columns = list(zip(*rows.values(), strict=True))[1:]
            schema = AttributeSchema(
                {n: sorted(set(c), key=_natural) for n, c in zip(names, columns, strict=True)}
            )
        labels = np.empty((len(rows), len(names)), np.int64)
        for row, (line, (_, *cells)) in enumerate(rows.items()):
            for column, (name, cell) in enumerate(zip(names, cells, strict=True)):
                try:
                    labels[row, column] = schema.index(name, cell)
                except ValueError as error:
                    raise DatasetError(f"{path}, line {line}: {error}") from None
        files = [self.root / name for name, *_ in rows.values()]
        super().__init__(files, image_size, channels, schema, labels, attributes)


def some_images(root: str | Path) -> list[Path]:
    """The images in a folder; see `find_images`.

    Raises:
        DatasetError: no such folder, or no images in it.
    """
    if not Path(root).is_dir():
        raise DatasetError(f"{root}: no such folder")
    if not (files := find_images(root)):
        raise DatasetError(f"{root}: expected images ({', '.join(ENDINGS)}), found none")
    return files


def read_table(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """A table's attribute names, and its rows ``[file, variant, ...]`` by line number.

    Raises:
        DatasetError: see :class:`AttributeTable`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; expected the images' attributes") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: expected text in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: dict[int, list[str]] = {}
    try:
        for cells in reader:
            if cells:  # not an empty line
                rows[reader.line_num] = [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}") from None
    lines = iter(rows.items())
    line, header = next(lines, (1, []))
    names = header[1:]
    if not names or "" in header or len(set(names)) < len(names):
        raise DatasetError(
            f"{path}, line {line}: expected a line that names the columns, the file and then each "
            f"attribute once; found {','.join(header)!r}"
        )
    del rows[line]
    seen: dict[str, int] = {}
    for line, cells in rows.items():
        if len(cells) != len(header) or "" in cells:
            raise DatasetError(
                f"{path}, line {line}: expected {len(header)} cells ({', '.join(header)}), none of "
                f"them empty; found {','.join(cells)!r}"
            )
        if cells[0] in seen:
            raise DatasetError(
                f"{path}, line {line}: expected each file once; {cells[0]!r} is also on line "
                f"{seen[cells[0]]}"
            )
        seen[cells[0]] = line
    if not rows:
        raise DatasetError(f"{path}: expected at least one image's line, found none")
    return names, rows


def _natural(variant: str) -> tuple[float, str]:
    """Sorts numbers by their value, before all other text."""
    is_number = re.fullmatch(r"[-+]?\d+(\.\d+)?", variant, re.ASCII)
    return (float(variant) if is_number else float("inf"), variant)
