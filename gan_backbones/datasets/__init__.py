"""Image data sets, with and without known attributes; and a renderer of cartoon faces.

All readers have one shape, :class:`ImageDataset`'s; :func:`open_dataset` picks the reader.
"""

from gan_backbones.datasets.cartoon_faces import render_cartoon_faces
from gan_backbones.datasets.cartoon_set import CartoonSet
from gan_backbones.datasets.celeba import CelebA
from gan_backbones.datasets.emoji import EmojiFolder
from gan_backbones.datasets.folders import AttributeTable, ImageFolder
from gan_backbones.datasets.images import DatasetError, ImageDataset, read_image, to_float
from gan_backbones.datasets.mnist import MNIST, FashionMNIST
from gan_backbones.datasets.readers import open_dataset
from gan_backbones.datasets.splitting import find_held_out, split
from gan_backbones.datasets.summary import describe, list_damaged

__all__ = [
    "MNIST",
    "AttributeTable",
    "CartoonSet",
    "CelebA",
    "DatasetError",
    "EmojiFolder",
    "FashionMNIST",
    "ImageDataset",
    "ImageFolder",
    "describe",
    "find_held_out",
    "list_damaged",
    "open_dataset",
    "read_image",
    "render_cartoon_faces",
    "split",
    "to_float",
]
