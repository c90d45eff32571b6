"""Backbones by name: the shipped ones, registered ones, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from importlib.metadata import entry_points
from pathlib import Path

import torch

from gan_backbones.backbone import Backbone, BackboneError
from gan_backbones.loading.graphs import GRAPH_ENDINGS
from gan_backbones.loading.manifest import files_of_manifest, read_generator, read_manifest
from gan_backbones.utils.devices import plain_mode

ENTRY_POINT_GROUP = "latentgym.backbones"

FILE_ENDINGS = (".safetensors", ".json", *GRAPH_ENDINGS)

_SHIPPED = Path(__file__).parent / "weights"
_factories: dict[str, Callable[[], Backbone]] = {}


def register(name: str, factory: Callable[[], Backbone]) -> None:
    """Make ``load(name)`` call ``factory``. A later registration of the same name wins.

    A package can do the same without being imported first: an entry point of the group
    ``latentgym.backbones`` whose name is the backbone's and whose object is the factory.

    Args:
        name: any text without a path separator or the ending of a file that `load` reads.
        factory: called without arguments at each load.

    Raises:
        ValueError: a name that would read as a path.
    """
    if _looks_like_path(name):
        raise ValueError(
            f"name {name!r} looks like a path; choose one without / or {', '.join(FILE_ENDINGS)}"
        )
    _factories[name] = factory


def list_backbones() -> list[str]:
    """All names that :func:`load` knows, sorted."""
    shipped = {file.stem for file in _SHIPPED.glob("*.safetensors")}
    return sorted(shipped | set(_factories) | set(_plugins()))


@plain_mode()
def load(name_or_path: str | Path, device: str | torch.device = "cpu") -> Backbone:
    """Load a backbone by name or from a file.

    Args:
        name_or_path: a name of :func:`list_backbones`, or a path: a ``.safetensors`` file that
            :meth:`Backbone.save` wrote; a ``.json`` manifest (see `read_manifest`), which names
            TorchScript and ONNX files; or one of those, ``.onnx``, ``.ts`` or ``.pt``, for a
            generator alone.
        device: where its networks go.

    Raises:
        BackboneError: no such name (the message lists those there are), or a missing or damaged
            file.
        ModuleNotFoundError: an ONNX file, and ONNX Runtime is not installed.
    """
    name = str(name_or_path)
    if name in _factories:
        backbone = _factories[name]()
    elif (shipped := _SHIPPED / f"{name}.safetensors").is_file():
        backbone = Backbone.read(shipped)
    elif name in (plugins := _plugins()):
        backbone = plugins[name].load()()
    elif _looks_like_path(name):
        backbone = _read(Path(name))
    else:
        raise BackboneError(
            f"unknown backbone {name!r}; known: {', '.join(list_backbones())}, "
            f"or a path to a file that ends in {', '.join(FILE_ENDINGS)}"
        )
    return backbone.to(device)


def version(name_or_path: str | Path) -> Hashable:
    """Return what tells the backbones apart that one name or path stands for over time.

    It changes when a name is registered again, when a file is written again, and when a relative
    path means another file after ``chdir``. So ``(name, version(name))`` is a key to cache what
    was loaded.
    """
    name = str(name_or_path)
    if name in _factories:
        return _factories[name]
    path = _SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        path = Path(name)
    files = [path, *(files_of_manifest(path) if path.suffix == ".json" else ())]
    return tuple(_file_version(file) for file in files)


def _file_version(file: Path) -> Hashable:
    try:
        status = file.stat()
    except OSError:  # loading says what is wrong
        return str(file)
    return file.resolve(), status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> Backbone:
    if path.suffix == ".json":
        return read_manifest(path)
    if path.suffix in GRAPH_ENDINGS:
        return read_generator(path)
    return Backbone.read(path)


def _plugins():
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _looks_like_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.endswith(FILE_ENDINGS)
