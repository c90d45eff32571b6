"""Tables of attributes, as spreadsheets save them: reading them, and what their columns mean."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gan_backbones.datasets.images import DatasetError

FEW = 10
"""A variant of fewer images is too rare to be learned."""

MANY = 10
"""A column of more different values may hold measurements or names instead of variants."""

_FIRST_CELL = re.compile(r'\s*(?:"(?:[^"]|"")*"|[^",;\t|\r\n][^,;\t|\r\n]*) *([,;\t|])')
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?", re.ASCII)


def read_table(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Read a table's attribute names, and its rows ``[file, variant, ...]`` by line number.

    Cells are separated by commas, semicolons, tabs or ``|``, whichever follows the header's first
    cell; a first line ``sep=;`` is passed over. The text is UTF-8, or UTF-16 with its mark. Lines
    whose cells are all empty are passed over.

    Raises:
        DatasetError: no such file, or one that is no table with a complete row for each file.
    """
    text, skipped = re.subn(r"\Asep=.\r?\n", "", _read_text(path))
    first_cell = _FIRST_CELL.match(text)
    delimiter = first_cell[1] if first_cell else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: dict[int, list[str]] = {}
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows[skipped + reader.line_num] = cells
    except csv.Error as error:
        raise DatasetError(f"{path}, line {skipped + reader.line_num}: {error}") from None
    line, header = next(iter(rows.items()), (1, []))
    _check_header(path, line, header)
    rows.pop(line)
    _check_rows(path, header, rows)
    return header[1:], rows


class Column(NamedTuple):
    """What the cells of a column mean.

    Attributes:
        variants: the attribute's variants, in order; none if the column is left out.
        labels: each cell's index among them, int64 ``[N]``.
        note: what was done to the column, or why it is left out; otherwise ``""``.
    """

    variants: list[str]
    labels: np.ndarray
    note: str


def read_column(cells: Sequence[str], bins: int) -> Column:
    """Turn a column's cells into an attribute.

    The variants of a column are its different values, sorted, numbers by value. If there are more
    than 10:

    - Numbers are put into ``bins`` ranges of about equally many images, named by their ends, such
      as ``0..33``, if most of the numbers have fewer than 10 images.
    - Other text is left out if it has more different values than half of the images: it names the
      images, and says nothing about them.

    Args:
        cells: the column, one cell an image.
        bins: number of ranges; 0: every number is a variant.
    """
    counts = Counter(cells)
    if len(counts) > MANY:
        is_numeric = all(_NUMBER.fullmatch(cell) for cell in counts)
        if is_numeric and bins and np.median(list(counts.values())) < FEW:
            variants, labels = _bin([_number(cell) for cell in cells], bins)
            note = f"{len(counts):,} different numbers are put into {len(variants)} ranges"
            return Column(variants, labels, note)
        if not is_numeric and len(counts) > len(cells) / 2:
            note = f"{len(counts):,} different values for {len(cells):,} images"
            return Column([], np.zeros(len(cells), np.int64), note)
    variants = sorted(counts, key=_natural)
    index = {variant: place for place, variant in enumerate(variants)}
    return Column(variants, np.array([index[cell] for cell in cells]), "")


def normalize(name: str) -> str:
    """Return a file's name with accents composed: systems store the same name differently."""
    return unicodedata.normalize("NFC", name)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; expected the images' attributes") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(
            f"{path}: expected text in UTF-8 (spreadsheets can save as 'CSV UTF-8')"
        ) from None


def _check_header(path: Path, line: int, header: list[str]) -> None:
    twice = [name for name, count in Counter(header[1:]).items() if count > 1]
    if len(header) < 2 or "" in header or twice:
        problem = f"{twice[0]!r} twice" if twice and twice[0] else repr(",".join(header))
        raise DatasetError(
            f"{path}, line {line}: expected a line that names the columns, the file and then each "
            f"attribute once; found {problem}"
        )


def _check_rows(path: Path, header: list[str], rows: dict[int, list[str]]) -> None:
    if not rows:
        raise DatasetError(f"{path}: expected at least one image's line, found none")
    seen: dict[Path, int] = {}
    for line, cells in rows.items():
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}, line {line}: expected {len(header)} cells ({', '.join(header)}), "
                f"found {len(cells)}: {','.join(cells)!r}"
            )
        if "" in cells:
            raise DatasetError(
                f"{path}, line {line}: {header[cells.index('')]!r} is empty; write a word for what "
                "is not known, such as unknown, or leave the line out"
            )
        file = Path(normalize(cells[0]))
        if file in seen:
            raise DatasetError(
                f"{path}, line {line}: expected each file once; {cells[0]!r} is also on line "
                f"{seen[file]}"
            )
        seen[file] = line


def _bin(numbers: Sequence[float], count: int) -> tuple[list[str], np.ndarray]:
    """Names of at most ``count`` ranges of about equally many numbers, and each number's range."""
    values, places, repeats = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(repeats) - repeats / 2) / len(numbers)  # of the middle one of equal values
    _, bins = np.unique((ranks * count).astype(int), return_inverse=True)
    ends = [(part[0], part[-1]) for part in (values[bins == i] for i in range(bins.max() + 1))]
    for digits in range(3, 18):  # as few as tell the ranges apart
        names = [
            f"{low:.{digits}g}" if low == high else f"{low:.{digits}g}..{high:.{digits}g}"
            for low, high in ends
        ]
        if len(set(names)) == len(names):
            break
    return names, bins[places]


def _natural(variant: str) -> tuple[float, str]:
    """Sorts numbers by their value, before all other text."""
    is_number = _NUMBER.fullmatch(variant)
    return (_number(variant) if is_number else float("inf"), variant)


def _number(cell: str) -> float:
    return float(cell.replace(",", "."))
