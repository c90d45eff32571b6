"""Results kept on disk: used again for the same networks, never for others."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from backbones import tiny_backbone
from torch import nn

from gan_backbones.latents import directions
from gan_backbones.utils.cache import cache_folder, cached


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGYM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counted:
    """Counts how often it is called; returns another number each time."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return torch.tensor([float(self.calls)])


def linear(scale=1.0):
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.eye(2))
    return layer


OUTPUTS = torch.arange(6.0).view(2, 3)


def test_the_same_networks_and_settings_are_computed_once():
    compute = Counted()
    for _ in range(2):
        assert cached("x", [linear()], {"a": 1}, OUTPUTS, compute) == 1
    assert cached("x", [linear()], {"a": 2}, OUTPUTS, compute) == 2
    assert cached("y", [linear()], {"a": 1}, OUTPUTS, compute) == 3
    assert cached("x", [linear(2)], {"a": 1}, OUTPUTS, compute) == 4
    assert cached("x", [linear(), linear()], {"a": 1}, OUTPUTS, compute) == 5
    assert cached("x", [linear()], {"a": 1}, OUTPUTS, compute) == 1


@pytest.mark.parametrize("outputs", [OUTPUTS + 0.1, OUTPUTS[:1], OUTPUTS * torch.nan])
def test_other_outputs_are_computed_again(outputs):
    compute = Counted()
    cached("x", [], {}, OUTPUTS, compute)
    assert cached("x", [], {}, OUTPUTS + 1e-5, compute) == 1  # rounded otherwise
    assert cached("x", [], {}, outputs, compute) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"{}"])
def test_a_damaged_entry_is_computed_again(folder, damage):
    compute = Counted()
    cached("x", [], {}, OUTPUTS, compute)
    (file,) = folder.glob("x-*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    assert cached("x", [], {}, OUTPUTS, compute) == 2
    assert cached("x", [], {}, OUTPUTS, compute) == 2  # and kept again


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LATENTGYM_CACHE", str(tmp_path / "file" / "cache"))
    compute = Counted()
    assert [cached("x", [], {}, OUTPUTS, compute).item() for _ in range(2)] == [1, 2]


def test_one_computes_while_the_others_wait():
    others, compute = [], Counted()

    def first():
        others.append(pool.submit(cached, "x", [], {}, OUTPUTS, compute))
        return torch.tensor([-1.0])

    with ThreadPoolExecutor(1) as pool:
        assert cached("x", [], {}, OUTPUTS, first) == -1
        assert others[0].result() == -1
    assert compute.calls == 0


def test_an_interrupt_leaves_no_entry_and_no_lock(folder):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("x", [], {}, OUTPUTS, interrupted)
    assert not list(folder.glob("*.safetensors"))
    assert cached("x", [], {}, OUTPUTS, Counted()) == 1


def test_the_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("LATENTGYM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "latentgym"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "latentgym"


class Counting(torch.nn.Module):
    """A generator that counts its images."""

    images = 0

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, latents):
        Counting.images += len(latents)
        return self.generator(latents)


@pytest.mark.parametrize("find", [directions.attribute_directions, directions.pca_directions])
def test_directions_are_found_once_with_as_many_images_as_asked_for(find, monkeypatch, capsys):
    monkeypatch.setattr(Counting, "images", 0)
    monkeypatch.setattr("gan_backbones.metrics.features.DELAY", 0)
    found = []
    for _ in range(2):
        backbone = tiny_backbone()
        backbone.generator = Counting(backbone.generator)
        found.append(find(backbone, num_probes=300))
    assert torch.equal(*found)
    assert Counting.images == 300 + 2 * directions.FEW
    assert capsys.readouterr().err.count("finding directions: 100%") == 1


@pytest.mark.parametrize("probes", [8, 0, -1, 100.0, True, "many"])
def test_too_few_probes(probes):
    with pytest.raises(ValueError, match=r"num_probes is .*; it must be a whole number above lat"):
        directions.direction_matrix(tiny_backbone(), "attributes", num_probes=probes)
