import os

# One thread per process, in those that tests start, too: tensors are small, and pytest itself runs
# one process per core.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from backbones import tiny_backbone

from gan_backbones.datasets import render_cartoon_faces


@pytest.fixture(autouse=True)
def one_thread():
    """Some commands set another number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory, worker_id):
    """A cache of this run's own, which pytest's workers and the processes they start share."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    os.environ["LATENTGYM_CACHE"] = str(folder / "cache")


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
