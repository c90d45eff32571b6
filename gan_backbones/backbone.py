"""The bundle that an environment loads: frozen networks, attribute schema and model card."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan_backbones import networks
from gan_backbones.networks.inference import copy_network
from gan_backbones.schema import AttributeSchema, Target
from gan_backbones.utils.devices import plain_mode
from gan_backbones.utils.files import read_safetensors, write_safetensors

FORMAT = "latentgym-backbone-1"
ROLES = ("generator", "discriminator", "classifier", "judge")


class BackboneError(ValueError):
    """A backbone cannot be found, read or used; the message says what is wrong."""


@dataclass(eq=False)
class Backbone:
    """A frozen generator with all that judges its images.

    The networks are put in evaluation mode and frozen. Any ``nn.Module`` with the stated
    inputs and outputs will do, and `gan_backbones.wrap` adapts others; those of
    :mod:`gan_backbones.networks` can also be saved.

    Attributes:
        generator: latents float32 ``[N, latent_dim]`` to images float32 ``[N, C, H, W]`` in
            [-1, 1]; deterministic, each image independent of its neighbours in the batch.
        latent_dim: length of the latent, whose prior is N(0, I).
        discriminator: images to realism logits ``[N]``.
        classifier: images to attribute logits ``[N, schema.size]``; rewards are made of it.
        judge: another such classifier, trained on other images. It only evaluates, so it exposes
            an agent that games the classifier.
        schema: the attributes.
        card: the model card: data, licence, command, seed, measured figures. Plain JSON data.
    """

    generator: nn.Module
    latent_dim: int
    discriminator: nn.Module | None = None
    classifier: nn.Module | None = None
    judge: nn.Module | None = None
    schema: AttributeSchema | None = None
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for network in self.networks.values():
            network.requires_grad_(False).eval()

    def __repr__(self) -> str:
        name = self.card.get("name", "unnamed")
        return f"<Backbone {name}: {', '.join(self.networks)}; latent_dim {self.latent_dim}>"

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks it has, by role."""
        return {role: net for role in ROLES if (net := getattr(self, role)) is not None}

    def to(self, device: str | torch.device) -> Backbone:
        """Move all networks to ``device``, in place; returns itself."""
        for network in self.networks.values():
            network.to(device)
        return self

    @plain_mode()
    def condition(self, label: Target) -> Backbone:
        """A copy whose generator makes images of one label, whatever the latent.

        Args:
            label: a variant for every attribute, such as ``{"digit": "7"}``.

        Returns:
            An independent copy; its card tells the ``label``.

        Raises:
            BackboneError: the generator is not a conditional one of this schema, or ``label``
                leaves an attribute out.
            ValueError: an unknown attribute or variant.
        """
        if not isinstance(self.generator, networks.ConditionalGenerator):
            raise BackboneError(
                f"the generator is a {type(self.generator).__name__}; only a ConditionalGenerator "
                "takes a label"
            )
        if self.schema is None:
            raise BackboneError("the backbone has no schema that names the generator's labels")
        outputs = self.generator.config["outputs"]
        if self.schema.size != outputs:
            raise BackboneError(
                f"the generator's label has length {outputs}, the schema {self.schema.size}"
            )
        one_hot = torch.from_numpy(self.schema.encode(label))
        missing = [name for name in self.schema.names if name not in label]
        if missing:
            raise BackboneError(f"label is {dict(label)}; it leaves out {', '.join(missing)}")
        copies = {role: copy_network(network) for role, network in self.networks.items()}
        generator: Any = copies["generator"]
        generator.label.copy_(one_hot)
        card = {**self.card, "label": dict(label)}
        return Backbone(latent_dim=self.latent_dim, schema=self.schema, card=card, **copies)

    @plain_mode()
    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically. Loading it never runs code.

        Raises:
            BackboneError: a network that is not one of :mod:`gan_backbones.networks` for its role.
        """
        architecture, tensors = {}, {}
        for role, given in self.networks.items():
            network: Any = networks.bake(given)
            kind = type(network).__name__
            if type(network) not in networks.KINDS[role]:
                raise BackboneError(
                    f"the {role} is a {kind}, which is no {role} of gan_backbones.networks: "
                    "a backbone file can only hold those"
                )
            architecture[role] = {"class": kind, **network.config}
            for key, value in network.state_dict().items():
                # Copied: safetensors refuses memory that two roles share.
                tensors[f"{role}.{key}"] = value.cpu().clone(memory_format=torch.contiguous_format)
        metadata = {
            "format": FORMAT,
            "architecture": json.dumps(architecture),
            "schema": self.schema.to_json() if self.schema else "",
            "card": json.dumps(self.card),
        }
        write_safetensors(path, tensors, metadata)

    @classmethod
    @plain_mode()
    def read(cls, path: str | Path) -> Backbone:
        """Read a file that :meth:`save` wrote.

        Raises:
            BackboneError: the file is missing, damaged, or not a backbone.
        """
        try:
            metadata, tensors = read_safetensors(path, "backbone", FORMAT)
        except ValueError as error:
            raise BackboneError(str(error)) from None
        try:
            architecture = json.loads(metadata["architecture"])
            loaded = {
                role: _rebuild(role, config, tensors) for role, config in architecture.items()
            }
            schema = metadata["schema"] and AttributeSchema.from_json(metadata["schema"])
            return cls(
                latent_dim=architecture["generator"]["latent_dim"],
                schema=schema or None,
                card=dict(json.loads(metadata["card"])),
                **loaded,
            )
        except BackboneError as error:
            raise BackboneError(f"{path}: {error}") from None
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise BackboneError(f"{path}: its description is damaged ({error!r})") from None


def _rebuild(role: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> nn.Module:
    name = config["class"]
    kind = {kind.__name__: kind for kind in networks.KINDS.get(role, ())}.get(name)
    if kind is None:
        raise BackboneError(f"unknown network class {name!r} for the {role}")
    arguments = {name: value for name, value in config.items() if name != "class"}
    with torch.device("meta"):  # no time spent on initial weights that are overwritten at once
        network = kind(**arguments)
    weights = {
        key.removeprefix(f"{role}."): value
        for key, value in tensors.items()
        if key.startswith(f"{role}.")
    }
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())  # it has several lines
        raise BackboneError(f"the weights of the {role} do not fit: {message}") from None
    return network
