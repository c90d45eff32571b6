"""Image generators to edit: their training, their metrics, and the bundle environments load."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_backbones.backbone import Backbone, BackboneError
    from gan_backbones.backbone_checker import check_backbone
    from gan_backbones.loading.graphs import read_network
    from gan_backbones.loading.wrapping import wrap
    from gan_backbones.registry import list_backbones, load, register
    from gan_backbones.schema import AttributeSchema
    from gan_backbones.training.gan import GANConfig, GANTrainer

__all__ = [
    "AttributeSchema",
    "Backbone",
    "BackboneError",
    "GANConfig",
    "GANTrainer",
    "check_backbone",
    "list_backbones",
    "load",
    "read_network",
    "register",
    "wrap",
]

_MODULES = {
    "AttributeSchema": "schema",
    "Backbone": "backbone",
    "BackboneError": "backbone",
    "GANConfig": "training.gan",
    "GANTrainer": "training.gan",
    "check_backbone": "backbone_checker",
    "list_backbones": "registry",
    "load": "registry",
    "read_network": "loading.graphs",
    "register": "registry",
    "wrap": "loading.wrapping",
}
_PACKAGES = ("datasets", "latents", "loading", "metrics", "networks", "training")


def __getattr__(name: str) -> Any:
    """Import on first use: accelerate and torchvision take seconds, and agents need neither."""
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value
