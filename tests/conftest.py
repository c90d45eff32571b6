import pytest
import torch
from backbones import tiny_backbone

from gan_backbones.datasets import render_cartoon_faces


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: more threads only cost time; some commands set another number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of 70 rendered faces, seed 3; read-only."""
    return render_cartoon_faces(tmp_path_factory.mktemp("faces"), 70, seed=3, processes=1)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory):
    """The path of a saved tiny backbone."""
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    tiny_backbone().save(path)
    return str(path)
