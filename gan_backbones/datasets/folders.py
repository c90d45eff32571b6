"""Readers of plain folders of images, with or without a table of attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gan_backbones.datasets.cartoon_set import read_schema
from gan_backbones.datasets.images import (
    ENDINGS,
    DatasetError,
    ImageFiles,
    find_images,
    note_left_out,
)
from gan_backbones.datasets.tables import normalize, read_column, read_table
from gan_backbones.schema import AttributeSchema

TABLE = "attributes.csv"


class ImageFolder(ImageFiles):
    """All images in a folder and its sub-folders, sorted; nothing else is known.

    Args:
        root: the folder; see `find_images` for links and hidden files.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.
        damaged: ``"error"``, or ``"skip"`` to leave damaged images out; see `ImageFiles`.

    Raises:
        DatasetError: no such folder, or no images in it.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 64,
        channels: int = 3,
        background: str = "white",
        damaged: str = "error",
    ):
        self.root = Path(root)
        files, left_out = some_images(root)
        super().__init__(
            files,
            image_size,
            channels,
            notes=note_left_out(left_out),
            background=background,
            damaged=damaged,
        )


class AttributeTable(ImageFiles):
    """A folder of images with a table of their attributes, a CSV file.

    The table's first line names the columns: first the file, then the attributes. Each other line
    has an image's path, relative to ``root``, and its variants::

        file,hair,glasses
        0001.jpg,black,none
        0002.jpg,red,round

    See `read_table` for what spreadsheets may do to it: other separators, UTF-16, empty lines. No
    cell may be empty.

    The variants are what the column holds, sorted (numbers by value). Of more than ten, numbers are
    put into ranges, and text that is almost always another one is left out: see `read_column`. So
    is a column with one value. A file ``schema.json`` in the table's folder, ``{"attribute":
    ["variant", ...]}``, gives the variants and their order instead. Images that the table does not
    list are left out.

    Args:
        root: the folder.
        table: the table's name, relative to ``root``.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.
        attributes: which columns to keep, in this order; by default all.
        bins: number of ranges that a column of many numbers is put into; 0: every number is a
            variant.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.
        damaged: ``"error"``, or ``"skip"`` to leave damaged and missing images out; see
            `ImageFiles`.

    Raises:
        DatasetError: the table or an image that it lists is missing; a line with another number of
            cells or an empty one; a column or file named twice; a variant that ``schema.json``
            lacks.
        ValueError: an argument that is not allowed.
    """

    def __init__(
        self,
        root: str | Path,
        table: str = TABLE,
        image_size: int = 64,
        channels: int = 3,
        attributes: Sequence[str] | None = None,
        bins: int = 5,
        background: str = "white",
        damaged: str = "error",
    ):
        if not isinstance(bins, int) or bins < 0 or bins == 1:
            raise ValueError(f"bins is {bins!r}; it must be 0 (no ranges), 2 or more")
        self.root = Path(root)
        path = self.root / table
        names, rows = read_table(path)
        files, left_out = _find_files(path, self.root, rows, missing_ok=damaged == "skip")
        notes = note_left_out(left_out)
        schema_file = path.with_name("schema.json")
        schema: AttributeSchema | None
        labels: np.ndarray | None
        if schema_file.exists():
            schema, labels = _read_labels(path, names, rows, schema_file)
        else:
            schema, labels, changes = _find_attributes(names, rows, bins, attributes)
            notes += changes
        super().__init__(
            files, image_size, channels, schema, labels, attributes, notes, background, damaged
        )


def some_images(root: str | Path) -> tuple[list[Path], Counter[str]]:
    """The images in a folder, and how many other files there are; see `find_images`.

    Raises:
        DatasetError: no such folder, or no images in it.
    """
    if not Path(root).is_dir():
        raise DatasetError(f"{root}: no such folder")
    files, left_out = find_images(root)
    if not files:
        raise DatasetError(f"{root}: expected images ({', '.join(ENDINGS)}), found none")
    return files, left_out


def _find_files(
    table: Path, root: Path, rows: dict[int, list[str]], missing_ok: bool
) -> tuple[list[Path], Counter[str]]:
    """The files that a table lists, and how many others there are of each kind."""
    found, left_out = find_images(root, ignored=(table.suffix.lower(), ".json"))
    by_name = {normalize(file.relative_to(root).as_posix()): file for file in found}
    files = []
    for line, (name, *_) in rows.items():
        file = root / name
        if not file.is_file():  # another system's separators or accents
            file = by_name.get(normalize(Path(name.replace("\\", "/")).as_posix()), file)
        if not (missing_ok or file.is_file()):
            raise DatasetError(f"{table}, line {line}: {file} is missing")
        files.append(file)
    left_out[f"not listed in {table.name}"] = len(set(found).difference(files))
    return files, left_out


def _find_attributes(
    names: list[str], rows: dict[int, list[str]], bins: int, attributes: Sequence[str] | None
) -> tuple[AttributeSchema | None, np.ndarray | None, list[str]]:
    """Schema, labels ``[N, A]`` and notes of a table's columns; see `read_column`."""
    columns = {
        name: read_column(cells, bins)
        for name, cells in zip(names, list(zip(*rows.values(), strict=True))[1:], strict=True)
    }
    notes = []
    for name, (variants, _, note) in columns.items():
        if attributes is None or name in attributes:
            if attributes is not None and not variants:
                raise ValueError(f"attributes has {name!r}, a column of {note}")
            if note:
                notes.append(f"{name}: {note}" if variants else f"left out: {name} ({note})")
    columns = {name: column for name, column in columns.items() if column.variants}
    if not columns:
        return None, None, notes
    schema = AttributeSchema({name: column.variants for name, column in columns.items()})
    return schema, np.stack([column.labels for column in columns.values()], axis=1), notes


def _read_labels(
    table: Path, names: list[str], rows: dict[int, list[str]], schema_file: Path
) -> tuple[AttributeSchema, np.ndarray]:
    """Schema and labels ``[N, A]`` of a table whose variants ``schema.json`` names."""
    schema = read_schema(schema_file)
    if list(schema.names) != names:
        raise DatasetError(
            f"{table}, line 1: expected the attributes of {schema_file}, "
            f"{', '.join(schema.names)}; found {', '.join(names)}"
        )
    labels = np.empty((len(rows), len(names)), np.int64)
    for row, (line, (_, *cells)) in enumerate(rows.items()):
        for column, (name, cell) in enumerate(zip(names, cells, strict=True)):
            try:
                labels[row, column] = schema.index(name, cell)
            except ValueError as error:
                raise DatasetError(f"{table}, line {line}: {error}") from None
    return schema, labels
