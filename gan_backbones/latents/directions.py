"""Action bases: the directions in latent space along which one action moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from gan_backbones import AttributeSchema, Backbone
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import batched
from gan_backbones.networks import ConditionalGenerator
from gan_backbones.utils.cache import cached

DIRECTION_SETS = ("coordinates", "pca", "sefa", "attributes")

DEFAULT_COUNT = 24
DEFAULT_PROBES = 2048
PCA_SIDE = 16
RIDGE = 1e-2

FIT_VERSION = 1
"""To be raised when a fit changes, so that what is cached is computed again."""

FEW = 4
"""Latents by whose outputs networks are known again."""


def direction_matrix(
    backbone: Backbone,
    directions: str | Sequence[Sequence[float]],
    count: int | None = None,
    num_probes: int = DEFAULT_PROBES,
) -> torch.Tensor:
    """Return the directions as rows of unit length, float32 ``[K, latent_dim]``.

    ``"pca"`` and ``"attributes"`` are fitted to random images. The result is kept on disk, see
    `gan_backbones.utils.cache`; computing it shows a progress bar after a second.

    Args:
        backbone: whose latent space it is.
        directions: ``"coordinates"``: the latent's own axes. ``"pca"``: the images' principal
            components, carried over to the latent (as GANSpace does, Härkönen et al. 2020).
            ``"sefa"``: top singular directions of the generator's first layer (Shen & Zhou 2021),
            which change the image most.
            ``"attributes"``: one direction per variant of each editable attribute, which raises
            that variant's logit and leaves the other attributes' as they are, in a linear fit of
            the classifier's logits to the latent. Or a matrix as nested lists, used as it is.
        count: number of PCA or SeFa directions; by default 24, or as many as there are.
        num_probes: number of random images that PCA and attribute directions are fitted to; more
            than ``latent_dim``.

    Raises:
        ValueError: an unknown name, a matrix of the wrong shape or with values that are not
            finite, a ``count`` of less than 1 or more directions than there are, too few probes,
            or a backbone that lacks what a set of directions is made from.
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
        return torch.eye(backbone.latent_dim, dtype=torch.float32)
    if directions == "sefa":
        return sefa_directions(backbone, count)
    is_number = isinstance(num_probes, int) and not isinstance(num_probes, bool)
    if not is_number or num_probes <= backbone.latent_dim:
        raise ValueError(
            f"num_probes is {num_probes!r}; it must be a whole number above latent_dim, "
            f"{backbone.latent_dim}"
        )
    if directions == "pca":
        return pca_directions(backbone, count, num_probes)
    return attribute_directions(backbone, num_probes)


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
def pca_directions(
    backbone: Backbone, count: int | None = None, num_probes: int = DEFAULT_PROBES
) -> torch.Tensor:
    """The images' principal components, each as the latent direction that raises it most.

    As in GANSpace (Härkönen et al. 2020) the components, strongest first, are carried over by a
    linear fit. They are those of random images averaged down to `PCA_SIDE` pixels: a sketch of
    what changes most, which leaves out fine texture.
    """
    latent_dim = backbone.latent_dim
    _checked_count(count, latent_dim)  # before the images are made

    def small_images(latents: torch.Tensor) -> torch.Tensor:
        return adaptive_avg_pool2d(backbone.generator(latents), PCA_SIDE).flatten(1)

    def fit(latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        images = images.double()
        images -= images.mean(dim=0)
        _, components = torch.linalg.eigh(images.T @ images)  # weakest first
        most = min(len(components), latent_dim)
        scores = images @ components.flip(1)[:, :most]
        moves = torch.linalg.lstsq(latents.double(), scores).solution.T
        return normalize(moves.float(), dim=1)

    rows = _fitted("pca", backbone, [backbone.generator], small_images, fit, num_probes)
    return rows[: _checked_count(count, len(rows))]


@lru_cache(maxsize=16)
def sefa_directions(backbone: Backbone, count: int | None = None) -> torch.Tensor:
    """Left singular vectors of the generator's first layer, strongest first (Shen & Zhou 2021)."""
    weight = _first_layer(backbone)
    count = _checked_count(count, min(weight.shape))
    left, _, _ = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :count].T.contiguous()


@lru_cache(maxsize=16)
def attribute_directions(backbone: Backbone, num_probes: int = DEFAULT_PROBES) -> torch.Tensor:
    """One direction per variant, disentangled in a linear fit; needs forward passes alone.

    The fit regresses the classifier's logits of generated images on their latents. Its ridge
    pseudo-inverse then gives, per variant, the smallest latent move that raises that logit alone.
    """
    if backbone.classifier is None or backbone.schema is None:
        raise ValueError("directions='attributes' needs a backbone with a classifier and a schema")
    schema, classifier = backbone.schema, backbone.classifier

    def logits_of(latents: torch.Tensor) -> torch.Tensor:
        return classifier(backbone.generator(latents))

    def fit(latents: torch.Tensor, all_logits: torch.Tensor) -> torch.Tensor:
        parts = [all_logits[:, schema.slices[name]] for name in schema.editable]
        # A common offset of an attribute's logits means nothing.
        logits = torch.cat([part - part.mean(dim=1, keepdim=True) for part in parts], dim=1)
        logits = (logits - logits.mean(dim=0)) / logits.std(dim=0).clamp(min=1e-6)
        # The latents are white, so the least-squares fit is a covariance; K x latent_dim.
        weights = logits.T @ latents / len(latents)
        gram = weights @ weights.T
        eye = torch.eye(len(gram), dtype=gram.dtype)
        moves = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * eye, eye) @ weights
        return normalize(moves, dim=1)

    networks = [backbone.generator, backbone.classifier]
    return _fitted("attributes", backbone, networks, logits_of, fit, num_probes)


def _fitted(
    name: str,
    backbone: Backbone,
    networks: list[nn.Module],
    outputs_of: Callable[[torch.Tensor], torch.Tensor],
    fit: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    num_probes: int,
) -> torch.Tensor:
    """Fit directions to what the networks make of random latents, or read them from the cache.

    Args:
        name: which set of directions.
        backbone: whose directions they are.
        networks: those that ``outputs_of`` uses.
        outputs_of: latents to a row of numbers each.
        fit: latents ``[num_probes, latent_dim]`` and their outputs to directions.
        num_probes: number of latents.
    """

    def compute() -> torch.Tensor:
        latents = _probe_latents(backbone, num_probes)
        outputs = _on_own_device(outputs_of, backbone, latents, desc="finding directions")
        return fit(latents, outputs)

    schema = backbone.schema.to_json() if backbone.schema else None
    settings = {"version": FIT_VERSION, "num_probes": num_probes, "schema": schema}
    few = _on_own_device(outputs_of, backbone, _probe_latents(backbone, FEW))
    return cached(name, networks, settings, few, compute)


def _probe_latents(backbone: Backbone, count: int) -> torch.Tensor:
    return draw_latents(count, backbone.latent_dim)


def _on_own_device(
    function: Callable[[torch.Tensor], torch.Tensor],
    backbone: Backbone,
    latents: torch.Tensor,
    desc: str | None = None,
) -> torch.Tensor:
    """``function`` of all latents, batch by batch where the backbone is; on the CPU."""
    device = next((p.device for p in backbone.generator.parameters()), torch.device("cpu"))
    return batched(function, latents.to(device), desc=desc).cpu()


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


def _given(directions: Sequence[Sequence[float]], latent_dim: int) -> torch.Tensor:
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
