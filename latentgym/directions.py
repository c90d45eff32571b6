"""Action bases: the directions in latent space along which one action moves."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from gan_backbones import AttributeSchema, Backbone
from gan_backbones.metrics import batched
from gan_backbones.networks import ConditionalGenerator

DIRECTION_SETS = ("coordinates", "pca", "sefa", "attributes")

DEFAULT_COUNT = 24
PROBE_LATENTS = 8192
PCA_SIDE = 16
RIDGE = 1e-2


def direction_matrix(
    backbone: Backbone, directions: str | list[list[float]], count: int | None = None
) -> torch.Tensor:
    """The directions as rows of unit length, float32 ``[K, latent_dim]``.

    Args:
        backbone: whose latent space it is.
        directions: ``"coordinates"``: the latent's own axes. ``"pca"``: the images' principal
            components, carried over to the latent (as GANSpace does, Härkönen et al. 2020).
            ``"sefa"``: top singular directions of the generator's first layer (Shen & Zhou 2021),
            which change the image most.
            ``"attributes"``: one direction per variant of each editable attribute, which raises
            that variant's logit and leaves the other attributes' as they are, in a linear fit of
            the classifier's logits to the latent. Or a matrix as nested lists, used as it is.
        count: how many PCA or SeFa directions; by default 24, or as many as there are.

    Raises:
        ValueError: an unknown name, a matrix of the wrong shape or with values that are not
            finite, a ``count`` of less than 1 or more directions than there are, or a backbone
            that lacks what a set of directions is made from.
    """
    if isinstance(directions, str) and directions not in DIRECTION_SETS:
        raise ValueError(
            f"directions is {directions!r}; allowed: {', '.join(DIRECTION_SETS)}, or a matrix"
        )
    if count is not None and not (isinstance(directions, str) and directions in ("pca", "sefa")):
        raise ValueError(
            f"num_directions is {count!r}; it applies to directions='pca' and 'sefa' alone"
        )
    if not isinstance(directions, str):
        return _given(directions, backbone.latent_dim)
    if directions == "coordinates":
        return torch.eye(backbone.latent_dim)
    if directions == "pca":
        return pca_directions(backbone, count)
    if directions == "sefa":
        return sefa_directions(backbone, count)
    return attribute_directions(backbone)


def direction_names(schema: AttributeSchema, directions: str, count: int) -> list[tuple[str, ...]]:
    """What the ``count`` directions of one of the `DIRECTION_SETS` are called.

    Returns:
        ``("hairColor", "a55728")`` for an attribute's variant, else ``("z[17]",)`` or the like.
    """
    if directions == "attributes":
        return [(name, variant) for name in schema.editable for variant in schema.variants[name]]
    if directions == "coordinates":
        return [(f"z[{i}]",) for i in range(count)]
    return [(f"{directions} {i}",) for i in range(count)]


@lru_cache(maxsize=16)
def pca_directions(backbone: Backbone, count: int | None = None) -> torch.Tensor:
    """The images' principal components, each as the latent direction that raises it most.

    As in GANSpace (Härkönen et al. 2020) the components, strongest first, are carried over by a
    linear fit. They are those of random images averaged down to `PCA_SIDE` pixels: a sketch of
    what changes most, which leaves out fine texture.
    """
    latents = _probe_latents(backbone)
    images = _on_own_device(
        lambda batch: adaptive_avg_pool2d(backbone.generator(batch), PCA_SIDE).flatten(1),
        backbone,
        latents,
    ).double()
    images -= images.mean(dim=0)
    count = _checked_count(count, min(images.shape[1], backbone.latent_dim))
    _, components = torch.linalg.eigh(images.T @ images)  # weakest first
    scores = images @ components.flip(1)[:, :count]
    moves = torch.linalg.lstsq(latents.double(), scores).solution.T
    return normalize(moves.float(), dim=1)


@lru_cache(maxsize=16)
def sefa_directions(backbone: Backbone, count: int | None = None) -> torch.Tensor:
    """Left singular vectors of the generator's first layer, strongest first (Shen & Zhou 2021)."""
    weight = _first_layer(backbone)
    count = _checked_count(count, min(weight.shape))
    left, _, _ = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :count].T.contiguous()


@lru_cache(maxsize=16)
def attribute_directions(backbone: Backbone) -> torch.Tensor:
    """One direction per variant, disentangled in a linear fit; needs forward passes alone.

    The fit regresses the classifier's logits of generated images on their latents. Its ridge
    pseudo-inverse then gives, per variant, the smallest latent move that raises that logit alone.
    """
    if backbone.classifier is None or backbone.schema is None:
        raise ValueError("directions='attributes' needs a backbone with a classifier and a schema")
    latents = _probe_latents(backbone)
    all_logits = _on_own_device(
        lambda batch: backbone.classifier(backbone.generator(batch)), backbone, latents
    )
    schema = backbone.schema
    parts = [all_logits[:, schema.slices[name]] for name in schema.editable]
    # A common offset of an attribute's logits means nothing.
    logits = torch.cat([part - part.mean(dim=1, keepdim=True) for part in parts], dim=1)
    # The latents are white, so the least-squares fit is a covariance; K x latent_dim.
    logits = (logits - logits.mean(dim=0)) / logits.std(dim=0).clamp(min=1e-6)
    fit = logits.T @ latents / len(latents)
    gram = fit @ fit.T
    eye = torch.eye(len(gram))
    moves = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * eye, eye) @ fit
    return normalize(moves, dim=1)


def _probe_latents(backbone: Backbone) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(PROBE_LATENTS, backbone.latent_dim, generator=rng)


def _on_own_device(
    function: Callable[[torch.Tensor], torch.Tensor], backbone: Backbone, latents: torch.Tensor
) -> torch.Tensor:
    """``function`` of all latents, batch by batch where the backbone is; on the CPU."""
    device = next((p.device for p in backbone.generator.parameters()), torch.device("cpu"))
    return batched(function, latents.to(device)).cpu()


def _checked_count(count: int | None, most: int) -> int:
    count = min(DEFAULT_COUNT, most) if count is None else count
    if not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"num_directions is {count!r}; allowed: 1 to {most}")
    return count


def _first_layer(backbone: Backbone) -> torch.Tensor:
    """The first layer's weight as ``[latent_dim, outputs]``."""
    for module in backbone.generator.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.T
        elif isinstance(module, nn.ConvTranspose2d):
            weight = module.weight.flatten(1)
        elif isinstance(module, nn.Conv2d):
            weight = module.weight.transpose(0, 1).flatten(1)
        else:
            continue
        if isinstance(backbone.generator, ConditionalGenerator):  # the label follows the latent
            weight = weight[: backbone.latent_dim]
        if len(weight) == backbone.latent_dim:
            return weight.detach().float().cpu()
        break
    raise ValueError("directions='sefa' needs a generator that begins with a linear layer")


def _given(directions: list[list[float]], latent_dim: int) -> torch.Tensor:
    try:
        matrix = torch.from_numpy(np.array(directions, dtype=np.float32))
    except (TypeError, ValueError):
        raise ValueError(
            f"directions is not a matrix of numbers; expected (K, {latent_dim}) as nested lists"
        ) from None
    if matrix.ndim != 2 or matrix.shape[1] != latent_dim or not len(matrix):
        raise ValueError(
            f"directions has shape {tuple(matrix.shape)}; expected (K, {latent_dim}) with K >= 1"
        )
    if not torch.isfinite(matrix).all():
        raise ValueError("directions holds values that are not finite")
    return matrix
