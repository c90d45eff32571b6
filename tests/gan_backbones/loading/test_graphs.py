import copy
import json
import pickle
import sys
import warnings

import gymnasium as gym
import numpy as np
import onnx
import pytest
import torch
from foreign import DIGITS, LATENT_DIM, VAE, ConvClassifier, ConvGenerator, latents, seeded
from onnx import TensorProto, helper
from torch import nn

import gan_backbones
import latentgym  # noqa: F401  (registers the environments)
from gan_backbones import BackboneError, check_backbone, read_network
from gan_backbones.networks.inference import fold

LATENTS = latents()
COLUMNS = LATENTS.reshape(-1, LATENT_DIM, 1, 1)


def save_script(network, path, example=None):
    """Script or, given an example input, trace; then save."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        how = torch.jit.script(network) if example is None else torch.jit.trace(network, example)
        torch.jit.save(how, str(path))


def save_freezed(network, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.freeze(torch.jit.script(network.eval())), str(path))


def save_linear_onnx(path, layer=None, *, batch="N", inputs=1, outputs=1, kind=TensorProto.FLOAT):
    """Images ``[N, 3, 8, 8]`` to ``[N, K]``, written node by node."""
    layer = layer or seeded(nn.Linear, 192, 3)
    weights = {"W": layer.weight.detach().T.numpy(), "b": layer.bias.detach().numpy()}
    names = [f"images{i}" for i in range(inputs)]
    scores = [f"scores{i}" for i in range(outputs)]
    cast = helper.make_node("Cast", [names[0]], ["cast"], to=TensorProto.FLOAT)
    graph = helper.make_graph(
        [
            cast,
            helper.make_node("Flatten", ["cast"], ["flat"]),
            *(helper.make_node("Gemm", ["flat", "W", "b"], [name]) for name in scores),
        ],
        "linear",
        [helper.make_tensor_value_info(name, kind, [batch, 3, 8, 8]) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in scores],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(w), n) for n, w in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))


@pytest.fixture(scope="module")
def generator():
    return seeded(ConvGenerator, nn.Sigmoid()).eval()


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    """A generator, two classifiers and a discriminator as files, and their manifest; read-only."""
    folder = tmp_path_factory.mktemp("graphs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        torch.onnx.export(
            generator,
            (COLUMNS,),
            str(folder / "g.onnx"),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    save_script(generator, folder / "g.ts")
    save_script(seeded(ConvClassifier), folder / "c.pt")
    save_linear_onnx(folder / "j.onnx")
    discriminator = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Sigmoid()))
    save_script(discriminator, folder / "d.ts")
    manifest = {
        "generator": "g.onnx",
        "value_range": [0, 1],
        "discriminator": "d.ts",
        "discriminator_output": "probability",
        "classifier": "c.pt",
        "judge": "j.onnx",
        "schema": DIGITS,
        "card": {"licence": "MIT"},
    }
    (folder / "digits.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(params=["g.onnx", "g.ts"])
def generator_file(folder, request):
    return folder / request.param


# Networks -----------------------------------------------------------------------------------------


def check_network(network, inputs, expected):
    assert not any(getattr(module, "training", False) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    moved = nn.Sequential(copy.deepcopy(network)).to("cpu").to(memory_format=torch.channels_last)
    copies = [copy.deepcopy(network), pickle.loads(pickle.dumps(network)), fold(network), moved]
    for each in [network, *copies]:
        torch.testing.assert_close(each(inputs), expected, rtol=1e-5, atol=1e-6)
    for each in copies[:3]:
        assert not any(getattr(module, "training", False) for module in each.modules())
        assert not any(parameter.requires_grad for parameter in each.parameters())


@torch.no_grad()
def test_networks_of_files_are_as_they_were(generator_file, generator):
    check_network(read_network(generator_file), COLUMNS, generator(COLUMNS))
    check_network(read_network(str(generator_file)), COLUMNS[:1], generator(COLUMNS[:1]))


@torch.no_grad()
@pytest.mark.parametrize("save", [save_script, save_freezed, "trace"])
def test_kinds_of_torchscript(save, generator, tmp_path):
    trained = seeded(ConvGenerator, nn.Tanh()).train()
    expected = copy.deepcopy(trained).eval()(COLUMNS)
    if save == "trace":
        save_script(trained.eval(), tmp_path / "g.ts", COLUMNS)
    else:
        save(trained, tmp_path / "g.ts")
    check_network(read_network(tmp_path / "g.ts"), COLUMNS, expected)


def test_what_was_traced_in_training_mode_is_found(tmp_path):
    save_script(seeded(ConvGenerator, nn.Tanh()).train(), tmp_path / "g.ts", COLUMNS)
    with pytest.raises(BackboneError, match=r"the generator (depends on the rest|fails on inputs)"):
        check_backbone(gan_backbones.load(tmp_path / "g.ts"))


def test_reading_is_silent(generator_file, recwarn, capfd):
    warnings.simplefilter("always")
    pickle.loads(pickle.dumps(read_network(generator_file)))
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_gradients_go_through_torchscript_but_not_through_onnx(folder, generator):
    inputs = COLUMNS.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(generator(inputs).sum(), inputs)
    (gradient,) = torch.autograd.grad(read_network(folder / "g.ts")(inputs).sum(), inputs)
    torch.testing.assert_close(gradient, expected)
    with pytest.raises(BackboneError, match=r"g\.onnx: ONNX networks have no gradients$"):
        read_network(folder / "g.onnx")(inputs)


def test_onnx_stays_on_the_cpu(folder):
    network = read_network(folder / "g.onnx")
    with pytest.raises(BackboneError, match=r"ONNX networks run on cpu; cannot move to meta$"):
        network.to("meta")
    with pytest.raises(BackboneError, match="cannot move to meta"):
        gan_backbones.load(folder / "digits.json", device="meta")


def test_onnx_uses_as_many_threads_as_torch(folder, monkeypatch):
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        session = read_network(folder / "g.onnx")._session
        assert session.get_session_options().intra_op_num_threads == threads


def test_onnx_from_another_folder(folder, monkeypatch, generator):
    monkeypatch.chdir(folder)
    pickled = pickle.dumps(read_network("g.onnx"))
    monkeypatch.chdir("/")
    assert len(pickled) < 1000
    torch.testing.assert_close(pickle.loads(pickled)(COLUMNS), generator(COLUMNS).detach())


# Backbones ----------------------------------------------------------------------------------------


def test_a_manifest_names_all_networks(folder, generator):
    backbone = gan_backbones.load(folder / "digits.json")
    check_backbone(backbone)
    assert repr(backbone) == (
        "<Backbone digits: generator, discriminator, classifier, judge; latent_dim 6>"
    )
    assert backbone.card == {"name": "digits", "licence": "MIT"}
    assert backbone.schema.variants == {"digit": tuple(DIGITS["digit"])}
    images = backbone.generator(LATENTS)
    torch.testing.assert_close(images, 2 * generator(COLUMNS).detach() - 1)
    expected = seeded(nn.Linear, 192, 3)((images / 2 + 0.5).flatten(1))
    torch.testing.assert_close(backbone.judge(images), expected)
    expected = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))(images / 2 + 0.5)
    torch.testing.assert_close(backbone.discriminator(images), expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_manifest_makes_an_environment(folder, bf16):
    path = str(folder / "digits.json")
    env = gym.make("LatentEdit-v0", backbone=path, target={"digit": "two"}, bf16=bf16)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    starts = [e.reset(seed=3)[0] for e in (env, again)]
    np.testing.assert_array_equal(*starts)
    rewards = [env.step(action)[1] for action in range(6)]
    assert np.isfinite(rewards).all() and np.any(rewards)


def test_a_file_alone_is_a_generator(generator_file, generator):
    backbone = gan_backbones.load(str(generator_file))
    assert repr(backbone) == "<Backbone g: generator; latent_dim 6>"
    images = backbone.generator(LATENTS)
    torch.testing.assert_close(images, generator(COLUMNS).detach())  # taken as if in [-1, 1]
    with pytest.raises(BackboneError, match=r"none below 0; .* pass value_range=\(0, 1\) to wrap"):
        check_backbone(backbone)  # its images are in [0, 1]


def test_a_file_of_flat_latents(tmp_path):
    decoder = nn.Sequential(*seeded(VAE).decoder, nn.Tanh(), nn.Unflatten(1, (1, 8, 8))).eval()
    save_script(decoder, tmp_path / "g.pt")
    backbone = gan_backbones.load(tmp_path / "g.pt")
    assert backbone.latent_dim == LATENT_DIM
    torch.testing.assert_close(backbone.generator(LATENTS), decoder(LATENTS).detach())


def test_a_file_that_takes_latents_of_any_length(tmp_path):
    save_script(nn.Sequential(nn.Tanh(), nn.Unflatten(1, (1, 2, -1))), tmp_path / "g.ts")
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load(tmp_path / "g.ts")
    assert str(caught.value) == (
        f"{tmp_path}/g.ts: g.ts does not tell the shape of its latents; "
        "name latent_dim in a manifest"
    )
    manifest = {"generator": "g.ts", "latent_dim": 8}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    assert gan_backbones.load(tmp_path / "m.json").generator(torch.zeros(3, 8)).shape[2:] == (2, 4)


# Errors -------------------------------------------------------------------------------------------


def damage(change):
    def write(path, folder):
        source = folder / ("g.onnx" if path.suffix == ".onnx" else "g.ts")
        path.write_bytes(change(source.read_bytes()))

    return write


def content(data):
    return damage(lambda _: data)


def state_dict(path, folder):
    torch.save(nn.Linear(2, 2).state_dict(), path)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return sys.exit, ("payload was run",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("x.onnx", None, "no such file"),
        ("x.ts", None, "no such file"),
        ("x.txt", None, "no graph file; its ending must be one of ('.onnx', '.pt', '.ts')"),
        ("x.onnx", content(b"junk"), "damaged or not an ONNX file ([ONNXRuntimeError] : 7 : INVA"),
        ("x.onnx", content(b""), "damaged or not an ONNX file ([ONNXRuntimeError] : 2 : INVALID"),
        ("x.onnx", damage(lambda b: b[:-50]), "damaged or not an ONNX file ("),
        ("x.onnx", damage(bytes), "damaged or not an ONNX file ("),  # its weights lie elsewhere
        ("x.ts", content(b"junk"), "damaged or not a TorchScript file (Pytorch"),
        ("x.ts", content(b""), "damaged or not a TorchScript file ("),
        ("x.ts", damage(lambda b: b[:-100]), "damaged or not a TorchScript file (PytorchStreamRea"),
        ("x.ts", damage(lambda b: b[: len(b) // 2]), "damaged or not a TorchScript file ("),
        ("x.pt", state_dict, "damaged or not a TorchScript file (PytorchStreamReader failed locat"),
        ("x.pt", content(pickle.dumps(Payload())), "damaged or not a TorchScript file ("),
        (
            "x.onnx",
            lambda path, _: save_linear_onnx(path, batch=1),
            "its batches are of 1; export it with a first axis of any length",
        ),
        (
            "x.onnx",
            lambda path, _: save_linear_onnx(path, inputs=2),
            "it has 2 inputs and 1 outputs; expected one of each",
        ),
        (
            "x.onnx",
            lambda path, _: save_linear_onnx(path, outputs=2),
            "it has 1 inputs and 2 outputs; expected one of each",
        ),
        (
            "x.onnx",
            lambda path, _: save_linear_onnx(path, kind=TensorProto.DOUBLE),
            "its input is tensor(double); expected tensor(float)",
        ),
    ],
)
def test_files_that_are_no_networks(folder, tmp_path, name, write, message):
    path = tmp_path / name
    if write:
        write(path, folder)
    with pytest.raises(BackboneError) as caught:
        read_network(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


NAMES_ONE = {"generator": "g.ts"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "not a JSON file (Expecting property name"),
        ("\udcff", "not a JSON file ('utf-8' codec can't decode byte"),
        ("[1]", "not a manifest; expected a JSON object with a generator"),
        ('{"latent_dim": 6}', "not a manifest; expected a JSON object with a generator"),
        ({"generator": None}, "not a manifest; expected a JSON object with a generator"),
        ({"generator": 5}, "generator is 5; expected a file's path"),
        (NAMES_ONE | {"latents": 6}, "unknown key 'latents'; allowed: generator, latent_dim, "),
        (NAMES_ONE | {"latent_dim": "6"}, "latent_dim is '6'; expected a positive int"),
        (NAMES_ONE | {"latent_dim": None}, "latent_dim is None; expected a positive int"),
        (NAMES_ONE | {"latent_dim": 7}, "the generator fails on inputs of shape (2, 7): "),
        (NAMES_ONE | {"latent_shape": [7]}, "latent_shape is (7,); its product must be latent_dim"),
        (NAMES_ONE | {"value_range": [1]}, "value_range is [1]; expected (black, white), as (-1, "),
        (NAMES_ONE | {"schema": [1]}, "schema is [1]; expected a dict of attribute to variants"),
        (NAMES_ONE | {"card": 5}, "card is 5; expected a dict"),
        (NAMES_ONE | {"classifier": "c.pt"}, "the classifier has no schema; expected one that na"),
    ],
    ids=str,
)
def test_manifests_that_are_wrong(folder, tmp_path, text, message):
    path = tmp_path / "m.json"
    if isinstance(text, dict):
        files = {k: str(folder / v) for k, v in text.items() if str(v).endswith(("ts", "pt"))}
        text = json.dumps({**text, **files})  # an absolute path stays one
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_manifest_that_names_a_missing_file(tmp_path):
    (tmp_path / "m.json").write_text('{"generator": "nets/g.onnx"}')
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load(tmp_path / "m.json")
    assert str(caught.value) == f"{tmp_path / 'nets' / 'g.onnx'}: no such file"


def test_onnx_runtime_is_not_installed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        gan_backbones.load(folder / "g.onnx")
    assert str(caught.value) == (
        f'{folder}/g.onnx: reading it needs ONNX Runtime: pip install "latentgym[onnx]"'
    )
    assert gan_backbones.load(folder / "g.ts").latent_dim == LATENT_DIM
