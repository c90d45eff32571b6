"""Images with known attributes: Google's Cartoon Set layout, and a renderer that fills it."""

from gan_backbones.datasets.cartoon_faces import render_cartoon_faces
from gan_backbones.datasets.cartoon_set import CartoonSet, DatasetError

__all__ = ["CartoonSet", "DatasetError", "render_cartoon_faces"]
