import pytest
import torch

from gan_backbones.datasets import render_cartoon_faces

torch.set_num_threads(1)  # small tensors: more threads only cost time


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """A folder of 70 rendered faces, seed 3; read-only."""
    return render_cartoon_faces(tmp_path_factory.mktemp("faces"), 70, seed=3, processes=1)
