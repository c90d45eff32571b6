"""Cartoon faces with exactly known attributes, drawn from DiceBear's avatars.

The labels come first (drawn from the seed), the picture second, so a label is never a guess.
Artists and licences of the styles are credited in NOTICE.
"""

from __future__ import annotations

import importlib.resources
import io
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.files import write_atomically
from gan_backbones.utils.progress import ProgressBar

IMAGE_SIZE = 64
IMAGES_PER_FOLDER = 10_000  # numbered sub-folders, as CartoonSet100k has them
NONE = "none"  # the variant of a part that is missing


@dataclass(frozen=True)
class Attribute:
    """One attribute of a style.

    Attributes:
        option: the DiceBear option that draws it.
        variants: the option's values; colours without their ``#``. ``"none"`` is a missing part.
        none_share: how often the part is missing; the other variants share the rest evenly.
        part: for a colour, the attribute that must be present for the colour to be seen.
    """

    option: str
    variants: tuple[str, ...]
    none_share: float = 0.0
    part: str | None = None

    @property
    def is_colour(self) -> bool:
        return self.option.endswith("Color")


@dataclass(frozen=True)
class Style:
    """A drawing style: its attributes, what is held fixed, and the crop.

    Only variants that a person can tell apart at 64x64 are listed. Hats, dark glasses and an eye
    patch are left out: they hide other attributes, and a label that cannot be seen is a wrong one.

    With a ``shade`` the colours of one variant vary from face to face, up to that share of the way
    towards the neighboring colors in the list. A generator that saw only a few flat colours has
    nothing between them: in its latent space white hair is a plateau without a slope to blond.
    """

    attributes: dict[str, Attribute]
    view_box: str
    licence: str
    shade: float = 0.0
    fixed: dict[str, object] = field(default_factory=dict)

    @property
    def schema(self) -> AttributeSchema:
        return AttributeSchema({name: a.variants for name, a in self.attributes.items()})


STYLES: dict[str, Style] = {
    "avataaars": Style(
        attributes={
            "hair": Attribute("topVariant", ("shortFlat", "bun", "shaggy", "bob", "straight01")),
            "hairColor": Attribute("hairColor", ("2c1b18", "a55728", "d6b370", "e8e1e1")),
            "skinColor": Attribute("skinColor", ("614335", "ae5d29", "edb98a", "ffdbb4")),
            "eyes": Attribute("eyesVariant", ("default", "hearts", "surprised")),
            "eyebrows": Attribute(
                "eyebrowsVariant", ("flatNatural", "angryNatural", "raisedExcited")
            ),
            "mouth": Attribute("mouthVariant", ("smile", "serious", "screamOpen", "grimace")),
            "glasses": Attribute("accessoriesVariant", (NONE, "round", "prescription02"), 0.4),
            "glassesColor": Attribute(
                "accessoriesColor", (NONE, "262e33", "5199e4", "ff488e"), part="glasses"
            ),
            "beard": Attribute(
                "facialHairVariant", (NONE, "beardMajestic", "beardLight", "moustacheFancy"), 0.4
            ),
            "beardColor": Attribute(
                "facialHairColor", (NONE, "2c1b18", "a55728", "e8e1e1"), part="beard"
            ),
        },
        view_box="48 18 184 184",  # the head without the shoulders
        licence='"Avataaars" by Pablo Stanley (https://avataaars.com/), '
        "free for personal and commercial use",
        shade=0.4,
        fixed={"topProbability": 100, "clothesVariant": ["shirtScoopNeck"]},
    ),
    "toon-head": Style(
        attributes={
            "hair": Attribute("hairVariant", ("bun", "sideComed", "spiky", "undercut")),
            "rearHair": Attribute(
                "rearHairVariant",
                (NONE, "longStraight", "longWavy", "neckHigh", "shoulderHigh"),
                0.3,
            ),
            "hairColor": Attribute("hairColor", ("2c1b18", "a55728", "b58143", "d6b370", "724133")),
            "skinColor": Attribute("skinColor", ("f1c3a5", "c68e7a", "b98e6a", "a36b4f", "5c3829")),
            "eyes": Attribute("eyesVariant", ("bow", "happy", "humble", "wide", "wink")),
            "eyebrows": Attribute(
                "eyebrowsVariant", ("angry", "happy", "neutral", "raised", "sad")
            ),
            "mouth": Attribute("mouthVariant", ("agape", "angry", "laugh", "sad", "smile")),
            "beard": Attribute(
                "beardVariant",
                (NONE, "chin", "chinMoustache", "fullBeard", "longBeard", "moustacheTwirl"),
                0.4,
            ),
            "clothes": Attribute(
                "clothesVariant", ("dress", "openJacket", "shirt", "tShirt", "turtleNeck")
            ),
            "clothesColor": Attribute(
                "clothesColor", ("545454", "b11f1f", "0b3286", "147f3c", "eab308", "e8e9e6")
            ),
        },
        view_box="",  # the whole drawing
        licence='"Toon Head" by Johan Melin, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)',
    ),
}


def draw_labels(style: Style, seed: int, index: int) -> list[int]:
    """The variant index of each attribute of image ``index``; depends on nothing else."""
    rng = np.random.default_rng([seed, index])
    labels: dict[str, int] = {}
    for name, attribute in style.attributes.items():
        has_none = attribute.variants[0] == NONE
        choice = int(rng.integers(has_none, len(attribute.variants)))
        if attribute.part is not None:
            missing = labels[attribute.part] == 0
        else:
            missing = has_none and rng.random() < attribute.none_share
        labels[name] = 0 if missing else choice
    return list(labels.values())


def draw_shades(style: Style, seed: int, index: int) -> list[float]:
    """How far each attribute's colour of image ``index`` lies off its variant's, in [-1, 1].

    -0.4 is four tenths of the way to the colour before it in the list. 0 for what has no colour.
    """
    rng = np.random.default_rng([seed, index, 1])
    return [
        float(rng.uniform(-style.shade, style.shade)) if attribute.is_colour else 0.0
        for attribute in style.attributes.values()
    ]


def draw_face(
    style_name: str, labels: Sequence[int], shades: Sequence[float] | None = None
) -> Image.Image:
    """One RGB image of 64x64 pixels on white ground.

    Args:
        style_name: one of `STYLES`.
        labels: the variant index of each attribute.
        shades: as `draw_shades` gives them; by default every colour is exactly its variant's.

    Raises:
        ModuleNotFoundError: the renderer is not installed; the message says how to get it.
    """
    style, renderer = STYLES[style_name], _renderer(style_name)
    import resvg_py
    from dicebear import Avatar

    options: dict[str, object] = {"seed": "0", **style.fixed}
    shades = [0.0] * len(labels) if shades is None else shades
    for (name, attribute), label, shade in zip(
        style.attributes.items(), labels, shades, strict=True
    ):
        variant = attribute.variants[label]
        component = attribute.option.removesuffix("Variant")
        if attribute.is_colour:
            if variant != NONE:
                options[attribute.option] = [f"#{_shaded(attribute.variants, label, shade)}"]
        elif variant == NONE:
            options[f"{component}Probability"] = 0
        else:
            options[attribute.option] = [variant]
            if attribute.variants[0] == NONE or name == "hair":
                options[f"{component}Probability"] = 100
    svg = Avatar(renderer, options).to_json()["svg"]
    if style.view_box:
        svg = re.sub(r'viewBox="[^"]*"', f'viewBox="{style.view_box}"', svg, count=1)
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=IMAGE_SIZE, height=IMAGE_SIZE, background="white"
    )
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def render_cartoon_faces(
    out_dir: str | Path,
    count: int,
    seed: int = 0,
    style: str = "avataaars",
    processes: int | None = None,
) -> Path:
    """Render ``count`` faces into ``out_dir`` in the layout that :class:`CartoonSet` reads.

    The images depend on ``seed`` and their number alone, not on ``processes``. A second call
    renders only what is missing, so an interrupted run resumes where it stopped.

    Args:
        out_dir: gets ``0/000000.png`` and ``.csv`` and so on, ``schema.json`` (the variants'
            names) and ``render.json`` (style, seed and licence).
        count: how many images.
        seed: any non-negative integer.
        style: ``"avataaars"`` (head crop) or ``"toon-head"``.
        processes: how many to render with; all cores by default.

    Returns:
        ``out_dir``.

    Raises:
        ValueError: an unknown style, a count below 1, a negative seed, or a folder that holds
            another style or seed.
        ModuleNotFoundError: the extra ``data`` is not installed.
    """
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; allowed: {', '.join(STYLES)}")
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    _renderer(style)  # a missing renderer is reported before any file is written

    out_dir = Path(out_dir)
    origin = {"style": style, "seed": seed, "licence": STYLES[style].licence}
    schema = STYLES[style].schema.to_json()
    origin_file, schema_file = out_dir / "render.json", out_dir / "schema.json"
    if origin_file.exists():
        found = json.loads(origin_file.read_text())
        if (found["style"], found["seed"]) != (style, seed):
            raise ValueError(
                f"{out_dir} holds style {found['style']!r}, seed {found['seed']}; "
                f"asked for style {style!r}, seed {seed}: choose another folder"
            )
    if schema_file.exists() and schema_file.read_text() != schema:
        raise ValueError(
            f"{schema_file} lists other variants than style {style!r} has: choose another folder"
        )
    write_atomically(origin_file, json.dumps(origin, indent=1).encode())
    write_atomically(schema_file, schema.encode())

    missing = [i for i in range(count) if not _is_done(image_file(out_dir, i))]
    chunks = [missing[i : i + 64] for i in range(0, len(missing), 64)]
    processes = processes or os.cpu_count() or 1
    with (
        ProgressBar(
            total=count, initial=count - len(missing), unit="img", desc="rendering faces"
        ) as bar,
        ProcessPoolExecutor(processes) as pool,
    ):
        jobs = [pool.submit(_render_chunk, out_dir, style, seed, chunk) for chunk in chunks]
        try:
            for job in jobs:
                bar.update(job.result())
        finally:  # after an error or Ctrl-C: do not render the rest first
            pool.shutdown(cancel_futures=True)
    return out_dir


def image_file(root: Path, index: int) -> Path:
    """Return the path of image ``index``; its attributes are in a ``.csv`` of the same name."""
    return root / str(index // IMAGES_PER_FOLDER) / f"{index:06d}.png"


def _is_done(path: Path) -> bool:
    return path.exists() and path.with_suffix(".csv").exists()


def _render_chunk(out_dir: Path, style_name: str, seed: int, indices: list[int]) -> int:
    style = STYLES[style_name]
    for index in indices:
        labels = draw_labels(style, seed, index)
        png = io.BytesIO()
        shades = draw_shades(style, seed, index)
        draw_face(style_name, labels, shades).save(png, "png")
        rows = "".join(
            f'"{name}", {label}, {size}\n'
            for name, label, size in zip(
                style.schema.names, labels, style.schema.sizes, strict=True
            )
        )
        path = image_file(out_dir, index)
        write_atomically(path, png.getvalue())
        write_atomically(path.with_suffix(".csv"), rows.encode())
    return len(indices)


def _shaded(colours: Sequence[str], label: int, shade: float) -> str:
    """The colour ``label``, moved by ``shade`` towards its neighbour; the list's ends stay."""
    beside = label + (1 if shade > 0 else -1)
    if not 0 <= beside < len(colours) or colours[beside] == NONE:
        return colours[label]
    own, other = (np.frombuffer(bytes.fromhex(colours[i]), np.uint8) for i in (label, beside))
    mixed = own + abs(shade) * (other.astype(float) - own)
    return mixed.round().astype(np.uint8).tobytes().hex()


@cache
def _renderer(style_name: str):
    """DiceBear's compiled style; building it takes a while, so each process does it once."""
    try:
        import resvg_py  # noqa: F401
        from dicebear import Style as DiceBearStyle

        folder = importlib.resources.files("dicebear_styles")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"rendering faces needs {error.name}: pip install 'latentgym[data]'", name=error.name
        ) from None
    return DiceBearStyle(json.loads((folder / f"{style_name}.json").read_text()))
