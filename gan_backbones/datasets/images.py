"""What every data set here is: images, perhaps with attributes, read by number."""

from __future__ import annotations

import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from torch.utils.data import Dataset

from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.images import to_float
from gan_backbones.utils.progress import ProgressBar
from gan_backbones.utils.validation import check_choice

ENDINGS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WebP",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PGM",
}
"""Endings of the files that are read as images, and the names of their formats."""

# Pillow raises these at damaged files, depending on where the damage is.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class DatasetError(ValueError):
    """A data set's file is missing or damaged; the message names file, line and expectation.

    The message is one printable line, whatever the file's name.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class ImageDataset(Dataset):
    """Images by number, and what is known about them; the readers add where they come from.

    Args:
        image_size: side of the square images in pixels.
        channels: 3 for RGB, 1 for grey.
        schema: the attributes, if any are known.
        labels: variant indices ``[N, A]`` if there is a schema.
        attributes: which of the schema's attributes to keep, in this order; by default all. An
            attribute with a single variant is always left out: there is nothing to edit.
        notes: lines of text about what the reader left out or changed.

    Attributes:
        schema: the :class:`AttributeSchema`, or None.
        labels: variant indices, int64 ``[len(self), len(schema.names)]``, or None.
        image_size, channels: as given.
        test_rows: numbers of the images of an official test part, int64, or None: without one, or
            if only a part of the data set was asked for.
        notes: as given, and which attributes have a single variant.
        damaged: error messages of the images left out because they are damaged.

    Raises:
        ValueError: an argument that is not allowed, or an unknown attribute.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        schema: AttributeSchema | None = None,
        labels: np.ndarray | None = None,
        attributes: Sequence[str] | None = None,
        notes: Iterable[str] = (),
    ):
        check_format(image_size, channels)
        self.image_size = image_size
        self.channels = channels
        if attributes is not None:
            schema, labels = _choose(schema, labels, attributes)
        schema, labels, left_out = _drop_single_variants(schema, labels)
        self.notes = [printable(note) for note in (*notes, *left_out)]
        self.damaged: list[str] = []
        self.test_rows: np.ndarray | None = None
        self.schema = schema
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        raise NotImplementedError

    def images(
        self, indices: Sequence[int] | np.ndarray, desc: str = "reading images"
    ) -> torch.Tensor:
        """The images ``indices`` in memory: uint8 ``[len(indices), channels, H, W]``.

        Args:
            indices: which, in this order: a range, list or array.
            desc: what the progress bar says.

        Raises:
            DatasetError: an image that is missing or damaged.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 ``[channels, H, W]`` in [-1, 1] and its one-hot attributes float32 ``[K]``.

        Without attributes K is 0.
        """
        if not 0 <= index < len(self):  # iteration ends by it
            raise IndexError(f"index is {index}; the data set has {len(self)} images")
        image = to_float(self._image(index))
        if self.schema is None or self.labels is None:
            return image, torch.zeros(0)
        one_hot = self.schema.encode_indices(self.labels[index : index + 1])[0]
        return image, torch.from_numpy(one_hot)

    def _image(self, index: int) -> torch.Tensor:
        """One image, uint8 ``[channels, H, W]``."""
        raise NotImplementedError


class ImageFiles(ImageDataset):
    """Images that are files of their own, read when they are asked for.

    Args:
        files: the image files.
        image_size, channels, schema, labels, attributes, notes: see :class:`ImageDataset`.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.
        damaged: ``"error"``: reading a damaged image raises; ``"skip"``: all images are read once
            at the start, and damaged ones are left out, with their labels.
        known_damage: error messages of items that the reader left out already.

    Attributes:
        files: as given, without damaged ones if they are skipped.

    Raises:
        DatasetError: all images are damaged, and they are skipped.
    """

    def __init__(
        self,
        files: Sequence[Path],
        image_size: int,
        channels: int,
        schema: AttributeSchema | None = None,
        labels: np.ndarray | None = None,
        attributes: Sequence[str] | None = None,
        notes: Iterable[str] = (),
        background: str = "white",
        damaged: str = "error",
        known_damage: Sequence[str] = (),
    ):
        check_choice("damaged", damaged, ("error", "skip"))
        try:
            ImageColor.getrgb(background)
        except (ValueError, AttributeError):
            raise ValueError(
                f"background is {background!r}; expected a colour such as white, black or #ffcc00"
            ) from None
        if known_damage and not files:
            raise _all_damaged(known_damage)
        super().__init__(image_size, channels, schema, labels, attributes, notes)
        self.background = background
        self.files = list(files)
        self.damaged = list(known_damage)
        if damaged == "skip":
            self._skip_damaged()

    def __len__(self) -> int:
        return len(self.files)

    def images(
        self, indices: Sequence[int] | np.ndarray, desc: str = "reading images"
    ) -> torch.Tensor:
        """See :meth:`ImageDataset.images`."""
        size = self.image_size
        stack = torch.empty((len(indices), self.channels, size, size), dtype=torch.uint8)
        for row, index in enumerate(ProgressBar(indices, desc=desc, unit="img")):
            stack[row] = self._image(int(index))
        return stack

    def _image(self, index: int) -> torch.Tensor:
        return read_image(self.files[index], self.image_size, self.channels, self.background)

    def _skip_damaged(self) -> None:
        kept = []
        for index in ProgressBar(range(len(self.files)), desc="checking images", unit="img"):
            try:
                self._image(index)
            except DatasetError as error:
                self.damaged.append(str(error))
            else:
                kept.append(index)
        if not kept:
            raise _all_damaged(self.damaged)
        self.files = [self.files[index] for index in kept]
        if self.labels is not None:
            self.labels = self.labels[kept]


def read_image(
    file: str | Path, image_size: int, channels: int = 3, background: str = "white"
) -> torch.Tensor:
    """Return an image as viewers show it: uint8 ``[channels, image_size, image_size]``.

    The orientation that a camera noted (EXIF) is applied, 16 bits are scaled to 8, transparency
    shows the background, and an animation is its first frame. The central square of an image that
    is not square is taken, then it is scaled (Lanczos).

    Args:
        file: an image file, of one of the formats in `ENDINGS`.
        image_size: side of the result in pixels.
        channels: 3 for RGB, 1 for grey.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.

    Raises:
        DatasetError: no such file, a damaged one, or one of 32 bits a channel.
    """
    file = Path(file)
    kind = ENDINGS.get(file.suffix.lower(), "PNG or other")
    try:
        with Image.open(file) as opened:
            # Pillow reads 16-bit grey as 32-bit integers where it has no mode of its own for it.
            is_16_bit = opened.mode.startswith("I;16") or (
                opened.mode == "I" and opened.format in ("PNG", "PPM")
            )
            if opened.mode in ("I", "F") and not is_16_bit:
                raise DatasetError(f"{file}: expected 8 or 16 bits a channel, found 32")
            opened.load()
            try:
                image = ImageOps.exif_transpose(opened)
            except _DAMAGE:  # of the camera's notes only
                image = opened
            if is_16_bit:
                image = _to_8_bits(image)
            image = image.convert("RGBA")
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing; expected an image") from None
    except DatasetError:
        raise
    except _DAMAGE as error:
        raise DatasetError(f"{file}: expected a complete {kind} image ({error})") from None
    image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    image = image.convert("RGB" if channels == 3 else "L")
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image).reshape(image_size, image_size, channels)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def find_images(
    root: str | Path, endings: Iterable[str] = tuple(ENDINGS), ignored: Iterable[str] = ()
) -> tuple[list[Path], Counter[str]]:
    """Find the image files in a folder and its sub-folders.

    Symbolic links are followed, as torchvision's ImageFolder does; a folder that can be reached in
    several ways is read once. Hidden files and folders (``.name``, ``__MACOSX``) are left out.

    Args:
        root: the folder.
        endings: endings of the files to find, in lower case.
        ignored: endings of other files that are not counted.

    Returns:
        The files, sorted, and how many others there are of each kind: an ending, ``"hidden"`` (a
        hidden folder counts once) or ``"broken link"``.

    Raises:
        DatasetError: a folder that cannot be read.
    """
    endings = tuple(endings)
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    seen = {os.path.realpath(root)}
    for folder, subfolders, names in os.walk(root, onerror=_refuse, followlinks=True):
        visible = sorted(name for name in subfolders if not _is_hidden(name))
        left_out["hidden"] += len(subfolders) - len(visible) + sum(map(_is_hidden, names))
        subfolders[:] = []
        for name in visible:
            target = os.path.realpath(os.path.join(folder, name))
            if target not in seen:
                seen.add(target)
                subfolders.append(name)
        for name in names:
            path = Path(folder, name)
            if _is_hidden(name):
                continue
            if path.suffix.lower() not in endings:
                left_out[path.suffix.lower() or "without ending"] += 1
            elif path.is_file():
                files.append(path)
            else:
                left_out["broken link"] += 1
    for ending in ignored:
        del left_out[ending]
    return sorted(files), left_out


def note_left_out(kinds: Mapping[str, int]) -> list[str]:
    """Return a list of one line that says how many of which kinds were left out, if any were."""
    listing = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
    return [f"left out: {listing}"] if listing else []


def printable(text: str) -> str:
    """Return ``text`` with line breaks and whatever else cannot be printed escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text)
    )


def check_format(image_size: int, channels: int) -> None:
    """Raise a ValueError unless images can be made of that size and number of channels."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise ValueError(f"image_size is {image_size!r}; it must be a whole number, 1 or more")
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels!r}; allowed: 1 (grey), 3 (RGB)")


def _choose(
    schema: AttributeSchema | None, labels: np.ndarray | None, attributes: Sequence[str]
) -> tuple[AttributeSchema, np.ndarray]:
    """Schema and labels of some attributes only."""
    if schema is None or labels is None:
        raise ValueError(f"attributes is {attributes!r}; this data set has none")
    if isinstance(attributes, str) or not attributes or len(set(attributes)) < len(attributes):
        raise ValueError(f"attributes is {attributes!r}; expected a list that names each once")
    for name in attributes:
        if name not in schema.names:
            raise ValueError(f"unknown attribute {name!r}; allowed: {', '.join(schema.names)}")
    columns = [schema.names.index(name) for name in attributes]
    chosen = AttributeSchema({name: schema.variants[name] for name in attributes})
    return chosen, np.asarray(labels)[:, columns]


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits; Pillow's own conversion cuts values off at 255."""
    grey = np.asarray(image, np.uint32)
    scaled = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        opaque = np.where(grey == transparent, 0, 255).astype(np.uint8)
        scaled.putalpha(Image.fromarray(opaque))
    return scaled


def _drop_single_variants(
    schema: AttributeSchema | None, labels: np.ndarray | None
) -> tuple[AttributeSchema | None, np.ndarray | None, list[str]]:
    """Schema and labels of the attributes that can be edited, and notes on the others."""
    if schema is None:
        return None, None, []
    single = [name for name, variants in schema.variants.items() if len(variants) == 1]
    notes = [
        f"left out: {name} (its only variant is {schema.variants[name][0]!r})" for name in single
    ]
    several = [name for name in schema.names if name not in single]
    return *(_choose(schema, labels, several) if several else (None, None)), notes


def _all_damaged(errors: Sequence[str]) -> DatasetError:
    return DatasetError(f"all {len(errors)} images are damaged; the first: {errors[0]}")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename}: cannot be read ({error.strerror})")
