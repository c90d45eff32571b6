"""Image generators to edit: their training, their metrics, and the bundle environments load."""

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
