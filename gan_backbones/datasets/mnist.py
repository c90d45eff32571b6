"""Readers of MNIST and Fashion-MNIST in torchvision's layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchvision
from torch.nn import functional as F
from torchvision.datasets.mnist import read_image_file, read_label_file

from gan_backbones.datasets.images import DatasetError, ImageDataset, check_format
from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.validation import check_choice

SIDE, PADDED = 28, 32
PREFIXES = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}


class MNIST(ImageDataset):
    """Handwritten digits (LeCun et al. 1998), one attribute ``digit``; white on black.

    Reads the original files from ``<root>/MNIST/raw``, as torchvision lays them out.

    The images have 28 pixels a side. They are padded with black to 32, which leaves every pixel as
    it was, and only scaled where another size is asked for.

    Args:
        root: the folder that contains ``MNIST``.
        split: ``"train"`` (60,000), ``"test"`` (10,000), or ``"all"``, the test images
            last; these are held out from training.
        image_size: side of the images in pixels.
        channels: 1 for grey; 3 repeats it.
        attributes: as for all data sets; here there is one.
        download: fetch the files first where they are missing, through torchvision.

    Raises:
        DatasetError: a file is missing or damaged, or cannot be downloaded.
        ValueError: an unknown split.
    """

    attribute: ClassVar[str] = "digit"
    variants: ClassVar[tuple[str, ...]] = tuple("0123456789")
    source: ClassVar[type[torchvision.datasets.MNIST]] = torchvision.datasets.MNIST

    def __init__(
        self,
        root: str | Path,
        split: str = "all",
        image_size: int = 32,
        channels: int = 1,
        attributes: Sequence[str] | None = None,
        download: bool = False,
    ):
        check_format(image_size, channels)
        check_choice("split", split, PREFIXES)
        self.root = Path(root)
        raw = self.root / self.source.__name__ / "raw"
        if download:
            _download(self.source, self.root, raw)
        pixels, targets = [], []
        for prefix in PREFIXES[split]:
            images_file = raw / f"{prefix}-images-idx3-ubyte"
            labels_file = raw / f"{prefix}-labels-idx1-ubyte"
            count, *sides = check_idx(images_file, 3)
            if sides != [SIDE, SIDE]:
                raise DatasetError(
                    f"{images_file}: expected images of {SIDE} x {SIDE} pixels, "
                    f"found {sides[0]} x {sides[1]}"
                )
            (labelled,) = check_idx(labels_file, 1)
            if labelled != count:
                raise DatasetError(
                    f"{labels_file}: expected {count} labels, one for each image of "
                    f"{images_file}; found {labelled}"
                )
            pixels.append(read_image_file(str(images_file)))
            labels = read_label_file(str(labels_file))
            if (labels >= len(self.variants)).any():
                raise DatasetError(
                    f"{labels_file}: expected labels from 0 to {len(self.variants) - 1}, "
                    f"found {int(labels.max())}"
                )
            targets.append(labels)
        self._pixels = torch.cat(pixels)
        labels = torch.cat(targets).numpy()[:, None]
        schema = AttributeSchema({self.attribute: self.variants})
        super().__init__(image_size, channels, schema, labels, attributes)
        if split == "all":
            self.test_rows = np.arange(len(pixels[0]), len(self._pixels))

    def __len__(self) -> int:
        return len(self._pixels)

    def images(
        self, indices: Sequence[int] | np.ndarray, desc: str = "reading images"
    ) -> torch.Tensor:
        """See :meth:`ImageDataset.images`; they are in memory already, so there is no bar."""
        chosen = self._pixels[torch.as_tensor(np.asarray(indices, dtype=np.int64))][:, None]
        margin = (PADDED - SIDE) // 2
        chosen = F.pad(chosen, (margin,) * 4)
        if self.image_size != PADDED:
            size = (self.image_size, self.image_size)
            chosen = F.interpolate(chosen, size=size, mode="bilinear", antialias=True)
        return chosen.repeat(1, self.channels, 1, 1)

    def _image(self, index: int) -> torch.Tensor:
        return self.images([index])[0]


class FashionMNIST(MNIST):
    """Pictures of clothes (Xiao et al. 2017), one attribute ``clothes``; else as :class:`MNIST`.

    Reads ``<root>/FashionMNIST/raw``.
    """

    attribute = "clothes"
    variants = tuple(torchvision.datasets.FashionMNIST.classes)
    source = torchvision.datasets.FashionMNIST


def check_idx(file: Path, dimensions: int) -> tuple[int, ...]:
    """The sizes an idx file of bytes states, if the file is whole.

    The format: two zero bytes, a byte for the type (8: unsigned bytes), one for the number of
    dimensions, each dimension's size as a big-endian 32-bit number, then the bytes.

    Raises:
        DatasetError: missing, of another kind, or of another length than its header states.
    """
    try:
        length = file.stat().st_size
        with file.open("rb") as stream:
            header = stream.read(4 + 4 * dimensions)
    except FileNotFoundError:
        packed = file.with_name(f"{file.name}.gz")
        hint = f"; {packed.name} is there: unpack it" if packed.exists() else ""
        raise DatasetError(f"{file}: missing; expected an idx file{hint}") from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read ({error})") from None
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic or len(header) < 4 + 4 * dimensions:
        raise DatasetError(
            f"{file}: expected an idx file of bytes in {dimensions} dimensions, "
            f"which begins with {magic.hex(' ')}; found {header[:4].hex(' ') or 'an empty file'}"
        )
    sizes = tuple(np.frombuffer(header, ">u4", offset=4).astype(int).tolist())
    expected = len(header) + math.prod(sizes)
    if length != expected:
        raise DatasetError(
            f"{file}: expected {expected} bytes as its header states, found {length}"
        )
    return sizes


def _download(source: type[torchvision.datasets.MNIST], root: Path, raw: Path) -> None:
    try:
        source(str(root), download=True)
    except (RuntimeError, OSError, ValueError) as error:
        if all((raw / name.removesuffix(".gz")).exists() for name, _ in source.resources):
            return  # there, but damaged: what is wrong with it is said by its reader
        names = ", ".join(name.removesuffix(".gz") for name, _ in source.resources)
        message = " ".join(str(error).split())
        raise DatasetError(
            f"{raw}: cannot download {source.__name__} ({message}); put {names} there"
        ) from None
