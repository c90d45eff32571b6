"""Reader of emoji folders: images named by code point, and a table of their categories."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan_backbones.datasets.folders import some_images
from gan_backbones.datasets.images import DatasetError, ImageFiles, note_left_out
from gan_backbones.schema import AttributeSchema

TABLE = "emoji.json"


class EmojiFolder(ImageFiles):
    """Emoji in the layout of emoji-datasource, or in a plain folder, by code point.

    emoji-datasource has ``emoji.json`` and ``img/<vendor>/64/1f600.png`` and so on; skin tones are
    images of their own. A plain folder (such as Fluent's WebP files) is read with a table from
    elsewhere; what its names do not match in it, or the table says is absent, is left out.

    The attribute is the ``category``, or within one chosen category the ``subcategory``.

    Args:
        root: the folder.
        category: only these: a category (``"Smileys & Emotion"``), a subcategory
            (``"face-smiling"``), or the first word of some (``"face"``: all faces).
        table: where ``emoji.json`` is, if not in ``root``.
        vendor: whose images, where ``root`` has several vendors': ``"google"``.
        image_size: images are scaled to this many pixels a side; see `read_image`.
        channels: 3 for RGB, 1 for grey.
        attributes: as for all data sets; here there is one.
        background: colour behind transparent images: a name (``"white"``) or ``"#rrggbb"``.
        damaged: ``"error"``, or ``"skip"`` to leave damaged and missing images out; see
            `ImageFiles`.

    Raises:
        DatasetError: the table is missing or damaged; an image that it lists is missing.
        ValueError: an unknown category or vendor.
    """

    def __init__(
        self,
        root: str | Path,
        category: str | None = None,
        table: str | Path | None = None,
        vendor: str | None = None,
        image_size: int = 64,
        channels: int = 3,
        attributes: Sequence[str] | None = None,
        background: str = "white",
        damaged: str = "error",
    ):
        self.root = Path(root)
        path = Path(table) if table is not None else self.root / TABLE
        entries = read_emoji_table(path)
        folder = _vendor_folder(self.root, vendor)
        left_out: Counter[str] = Counter()
        if folder is not None:
            entries = [e for e in entries if e.get(f"has_img_{folder.parent.name}")]
            files = {e["image"]: folder / e["image"] for e in entries}
            for file in files.values():
                if damaged != "skip" and not file.is_file():
                    raise DatasetError(f"{file}: missing; {path} lists it")
        else:
            found, left_out = some_images(self.root)
            by_code = {file.stem.lower(): file for file in found}
            files = {e["image"]: by_code.get(Path(e["image"]).stem.lower()) for e in entries}
        entries = [e for e in entries if files.get(e["image"]) is not None]
        if not entries:
            raise DatasetError(
                f"{self.root}: expected images named by code point as in {path} "
                "(such as 1f600.png), found none"
            )
        if folder is None:
            left_out[f"not listed in {path.name}"] = len(by_code) - len(entries)
        attribute = "category"
        if category is not None:
            entries, attribute = _of_category(entries, category), "subcategory"
        variants = sorted({e[attribute] for e in entries})
        super().__init__(
            [files[e["image"]] for e in entries],
            image_size,
            channels,
            AttributeSchema({attribute: variants}),
            np.array([[variants.index(e[attribute])] for e in entries]),
            attributes,
            note_left_out(left_out),
            background,
            damaged,
        )


def read_emoji_table(path: Path) -> list[dict[str, Any]]:
    """The emoji of ``emoji.json``, each skin tone an entry of its own, sorted by image.

    Each has ``image``, ``category``, ``subcategory`` and the table's ``has_img_<vendor>``.

    Raises:
        DatasetError: the table is missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{path}: missing; expected emoji-datasource's table") from None
    except ValueError as error:  # not JSON, or not UTF-8
        raise DatasetError(f"{path}: expected JSON ({error})") from None
    entries: dict[str, dict[str, Any]] = {}
    try:
        for emoji in content:
            kind = {key: str(emoji[key]) for key in ("category", "subcategory")}
            for entry in (emoji, *emoji.get("skin_variations", {}).values()):
                flags = {k: bool(v) for k, v in entry.items() if k.startswith("has_img_")}
                image = str(entry["image"])
                entries[image] = {"image": image, **kind, **flags}
    except (AttributeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: expected a list of emoji with image, category and subcategory ({error!r})"
        ) from None
    return [entries[image] for image in sorted(entries)]


def _vendor_folder(root: Path, vendor: str | None) -> Path | None:
    """``img/<vendor>/64`` of emoji-datasource, or None if the folder is a plain one."""
    found = {path.parent.name: path for path in sorted(root.glob("img/*/64"))}
    if vendor is None and len(found) < 2:
        return next(iter(found.values()), None)
    if vendor not in found:
        listing = ", ".join(found) or "none, it is a plain folder"
        raise ValueError(f"vendor is {vendor!r}; {root} has {listing}")
    return found[vendor]


def _of_category(entries: list[dict[str, Any]], category: str) -> list[dict[str, Any]]:
    chosen = [
        e
        for e in entries
        if category in (e["category"], e["subcategory"], e["subcategory"].split("-")[0])
    ]
    if not chosen:
        names = sorted({e["category"] for e in entries})
        raise ValueError(
            f"unknown category {category!r}; allowed: {', '.join(names)}, or a subcategory"
        )
    return chosen
