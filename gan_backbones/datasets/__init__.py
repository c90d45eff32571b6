"""Images with known attributes: the layout of Google's Cartoon Set, and a renderer that fills it."""

from gan_backbones.datasets.cartoon_faces import render_cartoon_faces
from gan_backbones.datasets.cartoon_set import CartoonSet, DatasetError

__all__ = ["CartoonSet", "DatasetError", "render_cartoon_faces"]
