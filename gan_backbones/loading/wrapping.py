"""Anybody's networks as a backbone: shapes and value ranges converted to those environments use."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from types import MethodType
from typing import Any

import torch
from torch import nn

from gan_backbones.backbone import Backbone, BackboneError
from gan_backbones.backbone_checker import check_latent_dim, run, sample_inputs
from gan_backbones.loading.graphs import TorchScriptNetwork
from gan_backbones.networks.inference import copy_network
from gan_backbones.schema import AttributeSchema
from gan_backbones.utils.devices import plain_mode

Network = Callable[[torch.Tensor], torch.Tensor]

DISCRIMINATOR_OUTPUTS = ("logit", "probability")


@plain_mode()
def wrap(
    generator: Network,
    latent_dim: int,
    *,
    latent_shape: Sequence[int] | None = None,
    image_shape: Sequence[int] | None = None,
    value_range: Sequence[float] = (-1.0, 1.0),
    discriminator: Network | None = None,
    discriminator_output: str = "logit",
    classifier: Network | None = None,
    judge: Network | None = None,
    schema: AttributeSchema | Mapping[str, Sequence[str]] | None = None,
    name: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> Backbone:
    """Make a backbone of networks that were not made for it.

    A network is an ``nn.Module`` (TorchScript too), a method of one, such as ``vae.decode``, or any
    other callable. Modules are copied, and the copies frozen and put in evaluation mode: yours stay
    as they are. Other callables are used as they are: what they use inside must be in evaluation
    mode already, and stays on its device.

    Two images are made to see whether all fits; `check_backbone` tests more.

    Args:
        generator: latents float32 ``[N, *latent_shape]`` to images ``[N, C, H, W]``, C being 1 or
            3, with values in ``value_range``; values outside are clamped.
        latent_dim: length of the latent, whose prior is N(0, I).
        latent_shape: of one latent as ``generator`` wants it; by default ``(latent_dim,)``.
            Many DCGANs want ``(latent_dim, 1, 1)``.
        image_shape: ``(C, H, W)``, to which the outputs of ``generator`` are reshaped. Needed if it
            returns ``[N, H * W]`` or ``[N, H, W]``.
        value_range: black and white as all networks of this call know them: those that judge
            images get them as ``generator`` makes them, as float32 ``[N, C, H, W]``. One that
            wants something else needs a layer in front, in an ``nn.Sequential``.
        discriminator: images to realism, N values of any shape.
        discriminator_output: what these are: ``"logit"``, or ``"probability"`` if the
            discriminator ends in a sigmoid.
        classifier: images to attribute logits or log-probabilities ``[N, schema.size]``.
        judge: another classifier, best trained on other images; it only evaluates.
        schema: the attributes and their variants, in the order of the classifier's outputs. An
            attribute with one variant alone is left out of targets and directions; a warning says
            so.
        name: for the model card.
        card: the model card; plain JSON data.

    Raises:
        ValueError: an argument out of range; the message names it and what is allowed.
        BackboneError: a network fails, or returns what does not fit.

    Example:
        >>> mlp = nn.Sequential(nn.Linear(2, 64), nn.Sigmoid())
        >>> wrap(mlp, 2, image_shape=(1, 8, 8), value_range=(0, 1), name="dots")
        <Backbone dots: generator; latent_dim 2>
    """
    check_latent_dim(latent_dim)
    latent_shape = (latent_dim,) if latent_shape is None else _shape("latent_shape", latent_shape)
    if math.prod(latent_shape) != latent_dim:
        raise ValueError(
            f"latent_shape is {latent_shape}; its product must be latent_dim, {latent_dim}"
        )
    if image_shape is not None:
        image_shape = _shape("image_shape", image_shape)
    value_range = _range(value_range)
    if discriminator_output not in DISCRIMINATOR_OUTPUTS:
        raise ValueError(
            f"discriminator_output is {discriminator_output!r}; "
            f"allowed: {', '.join(DISCRIMINATOR_OUTPUTS)}"
        )
    if schema is not None and not isinstance(schema, AttributeSchema):
        if not isinstance(schema, Mapping):
            raise ValueError(f"schema is {schema!r}; expected a dict of attribute to variants")
        schema = AttributeSchema(schema)
    if schema is not None:
        for attribute in set(schema.names) - set(schema.editable):
            warnings.warn(
                f"attribute {attribute!r} has one variant alone; edits leave it out", stacklevel=2
            )
    if card is not None and not isinstance(card, Mapping):
        raise ValueError(f"card is {card!r}; expected a dict")

    def judging(kind: type[nn.Module], role: str, network: Network | None, *settings: str):
        return None if network is None else kind(_own(role, network), value_range, *settings)

    backbone = Backbone(
        WrappedGenerator(_own("generator", generator), latent_shape, image_shape, value_range),
        latent_dim,
        judging(WrappedDiscriminator, "discriminator", discriminator, discriminator_output),
        judging(WrappedClassifier, "classifier", classifier),
        judging(WrappedClassifier, "judge", judge),
        schema,
        {**({"name": name} if name else {}), **(card or {})},
    )
    _probe(backbone)
    return backbone


class WrappedGenerator(nn.Module):
    """Latents ``[N, latent_dim]`` to images float32 ``[N, C, H, W]`` in [-1, 1]; see `wrap`."""

    def __init__(
        self,
        network: nn.Module,
        latent_shape: tuple[int, ...],
        image_shape: tuple[int, ...] | None,
        value_range: tuple[float, float],
    ):
        super().__init__()
        self.network = network
        self.latent_shape, self.image_shape = latent_shape, image_shape
        self.value_range = value_range

    def values(self, latents: torch.Tensor) -> torch.Tensor:
        """Images as the network makes them, float32 ``[N, C, H, W]``, not clamped."""
        values = _call(self.network, latents.reshape(len(latents), *self.latent_shape))
        return values.reshape(len(latents), *self.image_shape) if self.image_shape else values

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return to_images(self.values(latents), self.value_range)


class WrappedDiscriminator(nn.Module):
    """Images in [-1, 1] to realism logits float32 ``[N]``; see `wrap`."""

    def __init__(self, network: nn.Module, value_range: tuple[float, float], output: str):
        super().__init__()
        self.network = network
        self.value_range, self.output = value_range, output

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        realism = _call(self.network, to_values(images, self.value_range)).reshape(len(images))
        # Within what float32 tells from 1, so that the logit stays finite.
        return torch.logit(realism, 1e-6) if self.output == "probability" else realism


class WrappedClassifier(nn.Module):
    """Images in [-1, 1] to attribute logits float32 ``[N, K]``; see `wrap`."""

    def __init__(self, network: nn.Module, value_range: tuple[float, float]):
        super().__init__()
        self.network = network
        self.value_range = value_range

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return _call(self.network, to_values(images, self.value_range)).flatten(1)


class Function(nn.Module):
    """A callable that is no module. Copies share it."""

    def __init__(self, function: Network):
        super().__init__()
        self.function = function

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(inputs)

    def __deepcopy__(self, memo):
        return self  # what a function holds on to cannot be copied in general


class Method(nn.Module):
    """A method of a module, with that module as a part."""

    def __init__(self, method: MethodType):
        super().__init__()
        self.owner, self.function = method.__self__, method.__func__

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self.owner, inputs)


def to_images(values: torch.Tensor, value_range: tuple[float, float]) -> torch.Tensor:
    """Map ``value_range`` linearly to [-1, 1] and clamp."""
    low, high = value_range
    return (values * (2 / (high - low)) - (high + low) / (high - low)).clamp(-1, 1)


def to_values(images: torch.Tensor, value_range: tuple[float, float]) -> torch.Tensor:
    """The inverse of `to_images`, float32 and contiguous, as most code expects."""
    low, high = value_range
    return (images.float() * ((high - low) / 2) + (high + low) / 2).contiguous()


def _own(role: str, network: Network) -> nn.Module:
    """A module of ours to freeze, which does what ``network`` does."""
    if not callable(network):
        raise ValueError(f"{role} is {network!r}; expected an nn.Module or a callable")
    if isinstance(network, MethodType) and isinstance(network.__self__, nn.Module):
        network = Method(network)
    if not isinstance(network, nn.Module):
        return Function(network)
    network = copy_network(network)
    return TorchScriptNetwork(network) if isinstance(network, torch.jit.ScriptModule) else network


def _call(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    outputs = network(inputs)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"it returns a {type(outputs).__name__}; expected a tensor")
    return outputs.float()


def _probe(backbone: Backbone) -> None:
    """Make two images, so that what does not fit is known at once."""
    latents = sample_inputs(backbone, 2)
    generator: Any = backbone.generator
    try:
        images = run(backbone, "generator", generator, latents)
    except BackboneError as error:
        shapes = f"latent_shape={generator.latent_shape}, image_shape={generator.image_shape}"
        raise BackboneError(f"{error} (with {shapes})") from error.__cause__
    low, high = generator.value_range
    with torch.no_grad():
        mean = generator.values(latents).mean().item()
    if not low <= mean <= high:
        raise BackboneError(
            f"value_range is ({low:g}, {high:g}), but the generator's images have mean {mean:.3g}"
        )
    for role, network in backbone.networks.items():
        if role != "generator":
            run(backbone, role, network, images)


def _shape(argument: str, shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"{argument} is {shape!r}; expected a tuple of positive ints")
    return tuple(shape)


def _range(value_range: Sequence[float]) -> tuple[float, float]:
    is_pair = isinstance(value_range, Sequence) and len(value_range) == 2
    if not (
        is_pair
        and all(isinstance(value, Real) and math.isfinite(value) for value in value_range)
        and value_range[0] < value_range[1]
    ):
        raise ValueError(
            f"value_range is {value_range!r}; expected (black, white), as (-1, 1), (0, 1) or "
            "(0, 255)"
        )
    return float(value_range[0]), float(value_range[1])
