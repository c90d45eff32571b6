"""One function that finds the reader for a data set."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gan_backbones.datasets.cartoon_set import CartoonSet
from gan_backbones.datasets.celeba import CelebA
from gan_backbones.datasets.emoji import TABLE as EMOJI_TABLE
from gan_backbones.datasets.emoji import EmojiFolder
from gan_backbones.datasets.folders import TABLE, AttributeTable, ImageFolder
from gan_backbones.datasets.images import DatasetError, ImageDataset, find_images
from gan_backbones.datasets.mnist import MNIST, FashionMNIST

READERS: dict[str, Callable[..., ImageDataset]] = {
    "mnist": MNIST,
    "fashion-mnist": FashionMNIST,
    "celeba": CelebA,
    "emoji": EmojiFolder,
    "cartoon-set": CartoonSet,
    "table": AttributeTable,
    "folder": ImageFolder,
}


def open_dataset(
    spec: str | Path, image_size: int = 64, channels: int | None = None, **options: Any
) -> ImageDataset:
    """Open a data set by one line of text.

    Args:
        spec: ``"READER:FOLDER"``, where the reader is ``mnist``, ``fashion-mnist``, ``celeba``,
            ``emoji``, ``cartoon-set``, ``table`` or ``folder``; or a folder alone, whose layout is
            recognised: emoji-datasource (``emoji.json``), a table (``attributes.csv``), Cartoon Set
            (a CSV of the same name as an image, or ``schema.json``), otherwise plain images. After
            a ``?`` the reader's options may follow, separated by semicolons:
            ``"emoji:DIR?category=Smileys & Emotion"``,
            ``"celeba:DIR?attributes=Smiling,Eyeglasses;split=train"``,
            ``"DIR?background=black;damaged=skip"``.
        image_size: side of the images in pixels.
        channels: 3 for RGB, 1 for grey; by default the reader's own: 1 for ``mnist`` and
            ``fashion-mnist``, otherwise 3.
        **options: further arguments of the reader, instead of those after the ``?``.

    Raises:
        DatasetError: a missing or damaged file.
        ValueError: an unknown reader or option.
    """
    spec = str(spec)
    place, _, query = spec.partition("?")
    if os.path.isdir(spec) or os.path.isdir(spec.partition(":")[2]):
        place, query = spec, ""  # the ? belongs to the folder's name
    name, colon, folder = place.partition(":")
    if not colon or (name not in READERS and Path(place).exists()):
        name, folder = recognise(place), place
    if name not in READERS:
        raise ValueError(f"data is {place!r}; allowed: a folder, or one of {_forms()}")
    if not folder:
        raise ValueError(f"data is {place!r}; it lacks the folder: {name}:FOLDER")
    options = {"image_size": image_size, **_read_query(query), **options}
    if channels is not None:
        options["channels"] = channels
    reader = READERS[name]
    parameters = dict(inspect.signature(reader).parameters)
    del parameters["root"]
    for option, value in options.items():
        if option not in parameters:
            raise ValueError(f"{name} has no option {option!r}; allowed: {', '.join(parameters)}")
        if isinstance(value, str) and isinstance(parameters[option].default, int):
            if not value.isdecimal():
                raise ValueError(f"{option} is {value!r}; expected a whole number")
            options[option] = int(value)
    return reader(folder, **options)


def recognise(folder: str | Path) -> str:
    """The name of the reader whose layout a folder has.

    Raises:
        DatasetError: no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; allowed: a folder, or one of {_forms()}")
    if (root / EMOJI_TABLE).exists():
        return "emoji"
    if (root / TABLE).exists():
        return "table"
    tables, _ = find_images(root, (".csv",))
    has_csv = any(file.with_suffix(".png").exists() for file in tables)
    return "cartoon-set" if has_csv or (root / "schema.json").exists() else "folder"


def _read_query(query: str) -> dict[str, Any]:
    """``"split=train;attributes=a,b"`` as arguments."""
    options: dict[str, Any] = {}
    for item in filter(None, query.split(";")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value) or name in options:
            raise ValueError(f"data has the option {item!r}; expected NAME=VALUE, each name once")
        if name in ("image_size", "channels", "download"):
            raise ValueError(f"data has the option {item!r}; pass {name} as an argument")
        options[name] = [v.strip() for v in value.split(",")] if name == "attributes" else value
    return options


def _forms() -> str:
    return ", ".join(f"{name}:FOLDER" for name in READERS)
