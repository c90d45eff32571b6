"""What every data set here is: images, perhaps with attributes, read by number."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from gan_backbones.progress import ProgressBar
from gan_backbones.schema import AttributeSchema

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")

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
    """A data set's file is missing or damaged; the message names file, line and expectation."""


class ImageDataset(Dataset):
    """Images by number, and what is known about them; the readers add where they come from.

    Args:
        image_size: side of the square images in pixels.
        channels: 3 for RGB, 1 for grey.
        schema: the attributes, if any are known.
        labels: variant indices ``[N, A]`` if there is a schema.
        attributes: which of the schema's attributes to keep, in this order; by default all.

    Attributes:
        schema: the :class:`AttributeSchema`, or None.
        labels: variant indices, int64 ``[len(self), len(schema.names)]``, or None.
        image_size, channels: as given.

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
    ):
        check_format(image_size, channels)
        self.image_size = image_size
        self.channels = channels
        if attributes is not None:
            schema, labels = _choose(schema, labels, attributes)
        self.schema = schema
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self._one_hot = None if schema is None else schema.encode_indices(self.labels)

    def __len__(self) -> int:
        raise NotImplementedError

    def images(self, indices: Sequence[int], desc: str = "reading images") -> torch.Tensor:
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
        one_hot = np.zeros(0, np.float32) if self._one_hot is None else self._one_hot[index]
        return image, torch.from_numpy(one_hot.copy())

    def _image(self, index: int) -> torch.Tensor:
        """One image, uint8 ``[channels, H, W]``."""
        raise NotImplementedError


class ImageFiles(ImageDataset):
    """Images that are files of their own, read when they are asked for.

    Args:
        files: the image files.
        image_size, channels, schema, labels, attributes: see :class:`ImageDataset`.

    Attributes:
        files: as given.
    """

    def __init__(
        self,
        files: Sequence[Path],
        image_size: int,
        channels: int,
        schema: AttributeSchema | None = None,
        labels: np.ndarray | None = None,
        attributes: Sequence[str] | None = None,
    ):
        super().__init__(image_size, channels, schema, labels, attributes)
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Sequence[int], desc: str = "reading images") -> torch.Tensor:
        """See :meth:`ImageDataset.images`."""
        size = self.image_size
        stack = torch.empty((len(indices), self.channels, size, size), dtype=torch.uint8)
        for row, index in enumerate(ProgressBar(indices, desc=desc, unit="img")):
            stack[row] = self._image(int(index))
        return stack

    def _image(self, index: int) -> torch.Tensor:
        return read_image(self.files[index], self.image_size, self.channels)


def read_image(file: str | Path, image_size: int, channels: int = 3) -> torch.Tensor:
    """A PNG, JPEG or WebP file as uint8 ``[channels, image_size, image_size]``.

    Transparent images are put on white. Of an image that is not square the central square is
    taken, then it is scaled (Lanczos).

    Raises:
        DatasetError: no such file, or a damaged one.
    """
    file = Path(file)
    try:
        with Image.open(file) as image:
            image = image.convert("RGBA")
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing; expected an image") from None
    except _DAMAGE as error:
        kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}.get(file.suffix.lower(), "PNG")
        raise DatasetError(f"{file}: expected a complete {kind} image ({error})") from None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
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


def find_images(root: str | Path, endings: Iterable[str] = ENDINGS) -> list[Path]:
    """The image files in ``root`` and its sub-folders, sorted; hidden files are left out."""
    endings = tuple(endings)
    return sorted(
        path
        for path in Path(root).rglob("*")
        if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


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
