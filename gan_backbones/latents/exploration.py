"""Exploring a latent space: interpolation, sweeps, nearest images, effects of coordinates.

All of it needs forward passes alone. Latents go in and come out as float32 ``[N, latent_dim]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from gan_backbones.backbone import Backbone
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import batched
from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.images import to_uint8


def lerp(start: torch.Tensor, end: torch.Tensor, count: int) -> torch.Tensor:
    """Points on the straight line between two latents.

    Half way between two random latents of many dimensions the norm is only 0.7 times theirs, where
    the prior has hardly any mass: see `slerp`.

    Args:
        start: ``[latent_dim]``.
        end: ``[latent_dim]``.
        count: how many points, 2 at least; the first is ``start``, the last ``end``.

    Returns:
        ``[count, latent_dim]``.
    """
    points = torch.stack([(1 - t) * start.double() + t * end.double() for t in _steps(count)])
    return _with_ends(points, start, end)


def slerp(start: torch.Tensor, end: torch.Tensor, count: int) -> torch.Tensor:
    """Points on the arc between two latents, at equal angles (White 2016).

    Between two latents of one norm all points have that norm, so the walk stays where the prior
    has its mass.

    Args:
        start: ``[latent_dim]``.
        end: ``[latent_dim]``.
        count: how many points, 2 at least; the first is ``start``, the last ``end``.

    Returns:
        ``[count, latent_dim]``. Where the latents point the same way, the straight line.

    Raises:
        ValueError: one of them is zero, or they point in opposite ways: there is no one arc.
    """
    a, b = start.double(), end.double()
    if not (a.norm() > 0 and b.norm() > 0):
        raise ValueError("slerp needs two latents that are not zero")
    a_unit, b_unit = a / a.norm(), b / b.norm()
    # Better than the arc cosine of the product, which is blunt at small angles.
    angle = 2 * math.atan2((a_unit - b_unit).norm().item(), (a_unit + b_unit).norm().item())
    if math.pi - angle < 1e-6:
        raise ValueError("slerp needs two latents that do not point in opposite ways")
    if angle < 1e-6:
        return lerp(start, end, count)
    points = [
        (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
        for t in _steps(count)
    ]
    return _with_ends(torch.stack(points), start, end)


def coordinate_sweep(
    latent: torch.Tensor, coordinate: int, values: Sequence[float]
) -> torch.Tensor:
    """Copies of one latent with one coordinate set to each of the values.

    Args:
        latent: ``[latent_dim]``.
        coordinate: which of its coordinates.
        values: what to set it to.

    Returns:
        ``[len(values), latent_dim]``.
    """
    if not 0 <= coordinate < len(latent):
        raise ValueError(f"coordinate is {coordinate}; allowed: 0 to {len(latent) - 1}")
    swept = latent.repeat(len(values), 1)
    swept[:, coordinate] = torch.tensor(values, dtype=latent.dtype)
    return swept


def truncate(latents: torch.Tensor, psi: float) -> torch.Tensor:
    """Latents drawn towards the prior's mean, 0, by the factor psi.

    The truncation of StyleGAN (Karras et al. 2019): below 1 images get more typical and less
    diverse, above 1 the reverse.
    """
    return psi * latents


def nearest_neighbours(
    queries: torch.Tensor, pool: torch.Tensor, k: int, chunk: int = 1000
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of a pool to each query, by Euclidean distance.

    Args:
        queries: ``[N, F]`` of any dtype.
        pool: ``[M, F]`` of any dtype; never held as floats as a whole, so it may be large.
        k: how many.
        chunk: rows of the pool looked at together.

    Returns:
        Indices int64 and distances float32, each ``[N, k]``, nearest first; of equal ones the
        first.

    Raises:
        ValueError: a ``k`` below 1 or above M.
    """
    if not 1 <= k <= len(pool):
        raise ValueError(f"k is {k}; allowed: 1 to {len(pool)}, the size of the pool")
    exact = queries.double()
    best = torch.full((len(queries), 0), math.inf, dtype=torch.float64)
    indices = torch.zeros((len(queries), 0), dtype=torch.int64)
    for first in range(0, len(pool), chunk):
        part = pool[first : first + chunk].double()
        # By matrix product, which is fast; in float64, to keep precision for near copies.
        squares = exact.square().sum(1, keepdim=True) + part.square().sum(1) - 2 * exact @ part.T
        numbers = torch.arange(first, first + len(part)).expand(len(queries), -1)
        best, order = torch.cat([best, squares], 1).sort(dim=1, stable=True)
        best, order = best[:, :k], order[:, :k]
        indices = torch.cat([indices, numbers], 1).gather(1, order)
    distances = [
        (row - pool[chosen].double()).norm(dim=1)
        for row, chosen in zip(exact, indices, strict=True)
    ]
    return indices, torch.stack(distances).float()


def coordinate_effects(
    score: Callable[[torch.Tensor], torch.Tensor],
    schema: AttributeSchema,
    latents: torch.Tensor,
    distance: float = 2.0,
) -> torch.Tensor:
    """How much each coordinate of the latent changes each attribute.

    The coordinate is set to plus and to minus ``distance`` in every latent; the effect is the mean
    absolute difference of the attribute's logits. A common offset of an attribute's logits, which
    means nothing to its softmax, does not count.

    Args:
        score: maps latents ``[N, latent_dim]`` to attribute logits ``[N, schema.size]``.
        schema: the attributes.
        latents: ``[N, latent_dim]``, in which the others' values stay as they are.
        distance: how far out to go.

    Returns:
        float32 ``[len(schema.names), latent_dim]``.
    """
    effects = torch.empty(len(schema.names), latents.shape[1], dtype=torch.float32)
    for coordinate in range(latents.shape[1]):
        moved = latents.repeat(2, 1)
        moved[: len(latents), coordinate] = distance
        moved[len(latents) :, coordinate] = -distance
        up, down = score(moved).chunk(2)
        for row, columns in enumerate(schema.slices.values()):
            change = (up - down)[:, columns]
            change = change - change.mean(dim=1, keepdim=True)
            effects[row, coordinate] = change.abs().mean()
    return effects


def changing_coordinates(
    backbone: Backbone, count: int = 5, seed: int = 0, latents: int = 32, distance: float = 2.0
) -> dict[str, list[tuple[int, float]]]:
    """The coordinates of the latent that change each attribute most, by the classifier.

    Args:
        backbone: with classifier and schema.
        count: how many coordinates per attribute.
        seed: of the latents that are looked at.
        latents: how many of them.
        distance: see `coordinate_effects`.

    Returns:
        By attribute, coordinates and their effects, the largest first.

    Raises:
        ValueError: the backbone has no classifier or schema.
    """
    if backbone.classifier is None or backbone.schema is None:
        raise ValueError("the changing coordinates need a backbone with classifier and schema")
    device, generator, classifier = device_of(backbone), backbone.generator, backbone.classifier
    effects = coordinate_effects(
        lambda z: batched(lambda batch: classifier(generator(batch)), z.to(device)).cpu(),
        backbone.schema,
        draw_latents(latents, backbone.latent_dim, seed),
        distance,
    )
    strongest, order = effects.sort(dim=1, descending=True, stable=True)
    return {
        name: list(zip(order[row, :count].tolist(), strongest[row, :count].tolist(), strict=True))
        for row, name in enumerate(backbone.schema.names)
    }


def generate(backbone: Backbone, latents: torch.Tensor) -> torch.Tensor:
    """The images of some latents, uint8 ``[N, C, H, W]`` on the CPU."""
    images = batched(backbone.generator, latents.to(device_of(backbone)))
    return to_uint8(images).cpu()


def label_grid(backbone: Backbone, latents: torch.Tensor) -> tuple[list[str], torch.Tensor]:
    """A conditional generator's images: rows of equal noise, columns of equal label.

    With several attributes each column names one variant; the other attributes have their first.

    Args:
        backbone: whose generator takes a label; see :meth:`Backbone.condition`.
        latents: ``[R, latent_dim]``, one per row.

    Returns:
        The columns' names, and the images uint8 ``[R, columns, C, H, W]``.

    Raises:
        BackboneError: a generator that takes no label.
    """
    names, columns = [], []
    first = first_label(backbone)
    variants_of = backbone.schema.variants if backbone.schema else {}
    for attribute, variants in variants_of.items():
        for variant in variants:
            names.append(variant if len(first) == 1 else f"{attribute}\n{variant}")
            conditioned = backbone.condition({**first, attribute: variant})
            columns.append(generate(conditioned, latents))
    return names, torch.stack(columns, dim=1)


def first_label(backbone: Backbone) -> dict[str, str]:
    """The label of each attribute's first variant."""
    variants = backbone.schema.variants if backbone.schema else {}
    return {name: names[0] for name, names in variants.items()}


def device_of(backbone: Backbone) -> torch.device:
    """Where the generator is."""
    return next((p.device for p in backbone.generator.parameters()), torch.device("cpu"))


def _steps(count: int) -> Iterator[float]:
    if count < 2:
        raise ValueError(f"count is {count}; it must be 2 or more")
    return (i / (count - 1) for i in range(count))


def _with_ends(points: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """The points as float32, the first and last without rounding."""
    points = points.float()
    points[0], points[-1] = start, end
    return points
