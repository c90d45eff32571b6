"""The command that looks into a backbone's latent space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from gan_backbones import Backbone, load
from gan_backbones.datasets import DatasetError, ImageDataset, open_dataset, to_float
from gan_backbones.latents.exploration import (
    changing_coordinates,
    coordinate_sweep,
    device_of,
    first_label,
    generate,
    label_grid,
    lerp,
    nearest_neighbours,
    slerp,
    truncate,
)
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import batched
from gan_backbones.networks import ConditionalGenerator
from gan_backbones.utils.files import check_output_folder, write_json
from gan_backbones.utils.progress import ProgressBar
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.pictures import save_gif, save_rows
from latentgym.cli.tasks import parse_target
from latentgym.rendering.frame import tile

COLUMNS = 9
PSIS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
NEAREST = 5
REALS = 200  # real images whose own nearest neighbours are looked for, to compare with
FPS = 15
FRAMES = 16  # from one latent of a film to the next
FILM_SIDE = 96  # pixels an image of a film has, at least
RANKED = 5  # coordinates per attribute in the JSON file

Label = Annotated[tuple[str, ...], tyro.conf.arg(metavar="ATTRIBUTE=VARIANT")]


@dataclass
class Exploration:
    """What the pictures are made of."""

    backbone: Backbone
    out: Path
    rows: int
    far: float
    seed: int
    data: ImageDataset | None
    latents: torch.Tensor


def explore(
    backbone: str = "cartoon-faces",
    data: str | None = None,
    rows: int = 5,
    far: float = 50.0,
    label: Label = (),
    seed: int = 0,
    out: Path = Path("runs/explore"),
) -> None:
    """Draw pictures of a generator's latent space: walks, sweeps, truncation, nearest images.

    Args:
        backbone: name or path of a backbone.
        data: the images it was trained on, to look for copies of them: a folder, or READER:FOLDER
            as for train-backbone.
        rows: number of latents, pairs or coordinates in each picture.
        far: largest value of single coordinates, outside of the prior.
        label: for a conditional generator: the label of all pictures but the grid of labels; by
            default each attribute's first variant.
        seed: random seed of the latents.
        out: folder for the pictures.
    """
    check_seed(seed)
    check_counts(rows=rows)
    if not 0 < far < float("inf"):
        raise ValueError(f"far is {far}; it must be a finite number above 0")
    check_output_folder(out)
    loaded = load(backbone)
    conditional = isinstance(loaded.generator, ConditionalGenerator)
    wanted = parse_target(label, "label")
    seen = loaded.condition({**first_label(loaded), **wanted}) if conditional or wanted else loaded
    # Two for each row: pairs need both, the other pictures take the first of them.
    latents = draw_latents(2 * rows, loaded.latent_dim, seed)
    dataset = None if data is None else _open(data, seen)
    exploration = Exploration(seen, out, rows, far, seed, dataset, latents)
    parts: dict[str, Callable[[Exploration], list[Path]]] = {
        "interpolation": draw_interpolation,
        "constants": draw_constants,
        "coordinates": draw_coordinates,
        "truncation": draw_truncation,
    }
    if loaded.classifier is not None and loaded.schema is not None:
        parts["attributes"] = draw_attributes
    if conditional:
        parts["labels"] = draw_labels
    if data is not None:
        parts["neighbours"] = draw_neighbours
    files = []
    with ProgressBar(parts.items(), desc="exploring") as progress:
        for name, draw in progress:
            progress.set_postfix_str(name)
            files += draw(exploration)
    for file in files:
        print(file)


def draw_interpolation(x: Exploration) -> list[Path]:
    """Each pair of latents by the straight line and by the arc; a film of the arcs."""
    pairs = x.latents.split(2)
    walks = [walk(a, b, COLUMNS) for a, b in pairs for walk in (lerp, slerp)]
    names = [f"{i + 1}  {name}" for i in range(len(pairs)) for name in ("linear", "spherical")]
    picture = x.out / "interpolation.png"
    columns = [f"{t:.3g}" for t in np.linspace(0, 1, COLUMNS)]
    save_rows(picture, _rows(x.backbone, walks), names, columns, "from one latent to another")

    stops = list(range(len(x.latents)))
    shown = min(4, len(stops))
    # Every image of the film walks the same round, each from another stop.
    legs = [slerp(x.latents[i], x.latents[(i + 1) % len(stops)], FRAMES + 1)[:-1] for i in stops]
    images = _pictures(x.backbone, torch.cat(legs))
    frames = [
        _film_frame(np.stack([images[(FRAMES * i + frame) % len(images)] for i in range(shown)]))
        for frame in range(min(4, len(stops)) * FRAMES)
    ]
    film = x.out / "interpolation.gif"
    save_gif(film, frames, FPS, rest=1.0)
    return [picture, film]


def draw_constants(x: Exploration) -> list[Path]:
    """Draw the latents all zeros, all ones, all minus ones, and random ones to compare."""
    ones = torch.ones(1, x.backbone.latent_dim)
    named = {"zeros": 0 * ones, "ones": ones, "minus ones": -ones}
    count = min(5, len(x.latents))
    latents = torch.cat([*named.values(), x.latents[:count]])
    columns = [*named, *[f"random {i + 1}" for i in range(count)]]
    picture = x.out / "constants.png"
    title = "constant latents, and random ones to compare"
    save_rows(picture, _rows(x.backbone, [latents]), [""], columns, title)
    return [picture]


def draw_coordinates(x: Exploration) -> list[Path]:
    """One coordinate at a time, within the prior and far outside of it; a film of the inside."""
    latent = x.latents[0]
    near = [-3.0, -1.5, 0.0, 1.5, 3.0]
    middle = [v for v in (10.0, 20.0) if v < x.far]
    values = [-x.far, *[-v for v in reversed(middle)], *near, *middle, x.far]
    coordinates = list(range(min(x.rows, len(latent))))
    sweeps = [coordinate_sweep(latent, i, values) for i in coordinates]
    picture = x.out / "coordinates.png"
    save_rows(
        picture,
        _rows(x.backbone, sweeps),
        [f"z[{i}]" for i in coordinates],
        [f"{value:g}" for value in values],
        "one coordinate of one latent set to",
    )

    there = (3 * np.sin(np.linspace(0, 2 * np.pi, 3 * FRAMES, endpoint=False))).tolist()
    moving = _rows(x.backbone, [coordinate_sweep(latent, i, there) for i in coordinates])
    film = x.out / "coordinates.gif"
    save_gif(film, [_film_frame(moving[:, f]) for f in range(len(there))], FPS, rest=1 / FPS)
    return [picture, film]


def draw_truncation(x: Exploration) -> list[Path]:
    """Latents nearer to the prior's mean and farther from it."""
    starts = x.latents[::2]
    latents = torch.stack([truncate(starts, psi) for psi in PSIS], dim=1)
    picture = x.out / "truncation.png"
    rows = [f"latent {i + 1}" for i in range(len(starts))]
    columns = [f"psi {psi:g}" for psi in PSIS]
    save_rows(picture, _rows(x.backbone, list(latents)), rows, columns, "latents times psi")
    return [picture]


def draw_attributes(x: Exploration) -> list[Path]:
    """For each attribute, the coordinate that changes it most."""
    ranking = changing_coordinates(x.backbone, RANKED, x.seed)
    best = {name: coordinates[0] for name, coordinates in ranking.items()}
    values = np.linspace(-4, 4, COLUMNS).tolist()
    sweeps = [coordinate_sweep(x.latents[0], i, values) for i, _ in best.values()]
    picture = x.out / "attributes.png"
    save_rows(
        picture,
        _rows(x.backbone, sweeps),
        [f"{name}\nz[{i}]" for name, (i, _) in best.items()],
        [f"{value:g}" for value in values],
        "the coordinate that changes each attribute's logits most, set to",
    )
    file = x.out / "attributes.json"
    listing = {
        name: [{"coordinate": i, "mean_change_of_logits": round(effect, 4)} for i, effect in found]
        for name, found in ranking.items()
    }
    write_json(file, listing)
    return [picture, file]


def draw_labels(x: Exploration) -> list[Path]:
    """A conditional generator's grid: rows of equal noise, columns of equal label."""
    columns, images = label_grid(x.backbone, x.latents[::2])
    picture = x.out / "labels.png"
    rows = [f"noise {i + 1}" for i in range(len(images))]
    save_rows(picture, _colour(images), rows, columns, "one noise per row, one label per column")
    return [picture]


def draw_neighbours(x: Exploration) -> list[Path]:
    """Draw samples and the real images nearest to them: does the generator copy its data?"""
    samples = generate(x.backbone, x.latents[::2])
    assert x.data is not None
    real = x.data.images(range(len(x.data)))
    space, describe = _feature_space(x.backbone)
    features = describe(real)
    indices, distances = nearest_neighbours(describe(samples), features, NEAREST)
    chosen = np.random.default_rng(x.seed).permutation(len(real))[:REALS]
    # The nearest of a real image is itself, the second the nearest other one.
    _, among_real = nearest_neighbours(features[torch.from_numpy(chosen)], features, 2)
    usual = among_real[:, 1].median().item()

    images = torch.cat([samples[:, None], real[indices]], dim=1)
    captions = [["", *map(_short, row)] for row in distances.tolist()]
    picture = x.out / "neighbours.png"
    save_rows(
        picture,
        _colour(images),
        [f"{i + 1}" for i in range(len(samples))],
        ["sample", *[f"real {i + 1}" for i in range(NEAREST)]],
        f"real images nearest to samples, by {space}\n"
        f"(nearest real image to a real one: {_short(usual)} in the median)",
        captions,
    )
    return [picture]


def _open(data: str, backbone: Backbone) -> ImageDataset:
    """Real images in the format of the generator's."""
    channels, side = generate(backbone, draw_latents(1, backbone.latent_dim)).shape[1:3]
    dataset = open_dataset(data, side, channels)
    if len(dataset) < NEAREST + 1:
        raise DatasetError(f"{data}: expected {NEAREST + 1} images or more, found {len(dataset)}")
    return dataset


def _feature_space(backbone: Backbone) -> tuple[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Where nearness is measured: its name, and what maps uint8 images to it."""
    features = getattr(backbone.judge, "features", None)
    if not callable(features):
        return "pixels", lambda images: images.flatten(1)
    device = device_of(backbone)
    return "the judge's features", lambda images: batched(
        lambda batch: features(to_float(batch.to(device))), images
    ).cpu()


def _short(distance: float) -> str:
    return f"{distance:.0f}" if distance >= 100 else f"{distance:.3g}"


def _rows(backbone: Backbone, rows: list[torch.Tensor]) -> np.ndarray:
    """Images uint8 ``[R, C, H, W, 3]`` of rows of latents ``[C, latent_dim]``."""
    images = _pictures(backbone, torch.cat(rows))
    return images.reshape(len(rows), -1, *images.shape[1:])


def _pictures(backbone: Backbone, latents: torch.Tensor) -> np.ndarray:
    return _colour(generate(backbone, latents))


def _colour(images: torch.Tensor) -> np.ndarray:
    """uint8 ``[..., C, H, W]`` to ``[..., H, W, 3]``; grey images are repeated."""
    images = images.movedim(-3, -1)
    return images.expand(*images.shape[:-1], 3).numpy()


def _film_frame(images: np.ndarray) -> np.ndarray:
    """A few images as one frame, enlarged without blur."""
    factor = -(-FILM_SIDE // images.shape[1])
    return tile(images.repeat(factor, axis=1).repeat(factor, axis=2), gap=6)
