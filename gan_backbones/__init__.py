"""Image generators to edit: their training, their metrics, and the bundle environments load."""

from gan_backbones.backbone import Backbone, BackboneError
from gan_backbones.gan_training import GANConfig, GANTrainer
from gan_backbones.registry import list_backbones, load, register
from gan_backbones.schema import AttributeSchema

__all__ = [
    "AttributeSchema",
    "Backbone",
    "BackboneError",
    "GANConfig",
    "GANTrainer",
    "list_backbones",
    "load",
    "register",
]
