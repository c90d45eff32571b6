import json
import os
from functools import partial

import pytest
import torch
from backbones import LATENT_DIM, SCHEMA, tiny_backbone
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import gan_backbones
from gan_backbones import AttributeSchema, Backbone, BackboneError, check_backbone, registry
from gan_backbones.evaluation import evaluate_backbone, find_weak_attributes
from gan_backbones.networks import (
    ConditionalGenerator,
    Discriminator,
    Generator,
    ResidualDiscriminator,
    ResidualGenerator,
)
from gan_backbones.utils.files import CHECKED, write_atomically

ENDINGS = (".safetensors", ".json", ".onnx", ".pt", ".ts")
LATENTS = torch.randn(5, LATENT_DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone()


@pytest.fixture
def path(backbone, tmp_path):
    backbone.save(tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def outputs(backbone):
    images = backbone.generator(LATENTS)
    judges = [backbone.discriminator, backbone.classifier, backbone.judge]
    return [images, *(network(images) for network in judges if network)]


def edit(path, change):
    """Write the file anew after ``change(metadata, tensors)``."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    metadata["format"] = metadata["format"].removesuffix(CHECKED)  # or any change is damage
    change(metadata, tensors)
    save_file(tensors, path, metadata)


def edit_json(path, key, change):
    def change_metadata(metadata, tensors):
        data = json.loads(metadata[key])
        change(data)
        metadata[key] = json.dumps(data)

    edit(path, change_metadata)


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(channels, tmp_path):
    saved = tiny_backbone(channels)
    saved.card = {"name": "tiny", "figures": {"precision": 0.5, "by": ["a", None, True]}}
    saved.save(tmp_path / "new" / "folder.safetensors")
    read = Backbone.read(tmp_path / "new" / "folder.safetensors")
    for before, after in zip(outputs(saved), outputs(read), strict=True):
        assert torch.equal(before, after)
    assert (read.schema, read.card, read.latent_dim) == (SCHEMA, saved.card, LATENT_DIM)
    assert repr(read) == repr(saved)


def alive(network, *inputs):
    """``network`` after it has seen inputs, with weights that make something of them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in network.parameters():
            if parameter.ndim == 4:
                nn.init.kaiming_normal_(parameter)
        network.train()(*inputs)
    return network


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize(
    ("generator", "discriminator"),
    [
        (partial(Generator, upsampling="upconv"), Discriminator),
        (ResidualGenerator, ResidualDiscriminator),
        (partial(ConditionalGenerator, outputs=SCHEMA.size), partial(Discriminator, norm="batch")),
        (Generator, partial(Discriminator, norm="spectral")),
    ],
    ids=["upconv", "residual", "conditional and batch norm", "spectral norm"],
)
def test_round_trip_of_every_kind(generator, discriminator, side, channels, tmp_path):
    sizes = {"features": 4, "channels": channels, "image_size": side}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, discriminator = generator(LATENT_DIM, **sizes), discriminator(**sizes)
    generator = alive(generator, LATENTS)
    discriminator = alive(discriminator, torch.rand(4, channels, side, side))
    saved = Backbone(generator, LATENT_DIM, discriminator, schema=SCHEMA)
    check_backbone(saved)
    saved.save(tmp_path / "b.safetensors")
    read = Backbone.read(tmp_path / "b.safetensors")
    check_backbone(read)
    assert read.latent_dim == LATENT_DIM
    for before, after in zip(outputs(saved), outputs(read), strict=True):
        assert before.std() > 0
        assert torch.equal(before, after)


def test_round_trip_of_a_generator_alone(backbone, tmp_path):
    Backbone(backbone.generator, LATENT_DIM).save(tmp_path / "g.safetensors")
    read = Backbone.read(tmp_path / "g.safetensors")
    assert torch.equal(outputs(read)[0], outputs(backbone)[0])
    assert list(read.networks) == ["generator"]
    assert (read.schema, read.card) == (None, {})


def test_round_trip_where_one_network_has_two_roles(backbone, tmp_path):
    twice = Backbone(backbone.generator, LATENT_DIM, None, backbone.judge, backbone.judge, SCHEMA)
    twice.save(tmp_path / "twice.safetensors")
    read = Backbone.read(tmp_path / "twice.safetensors")
    assert torch.equal(outputs(read)[1], outputs(read)[2])


def test_channels_last_weights_are_saved(backbone, tmp_path):
    generator = Generator(LATENT_DIM, 4, 3, 16).to(memory_format=torch.channels_last)
    Backbone(generator, LATENT_DIM).save(tmp_path / "g.safetensors")
    read = Backbone.read(tmp_path / "g.safetensors")
    torch.testing.assert_close(read.generator(LATENTS), generator(LATENTS))


def test_networks_are_frozen_and_in_evaluation_mode(path):
    trained = Generator(LATENT_DIM, 4, 3, 16).train()
    for backbone in (Backbone(trained, LATENT_DIM), Backbone.read(path)):
        for network in backbone.networks.values():
            assert not any(module.training for module in network.modules())
            assert not any(parameter.requires_grad for parameter in network.parameters())


def test_to_moves_all_networks(backbone):
    moved = Backbone(Generator(LATENT_DIM, 4, 3, 16), LATENT_DIM)
    assert moved.to("meta") is moved
    assert next(moved.generator.parameters()).device.type == "meta"


class Classifier(nn.Linear):
    """Of the same name as one of ours."""


@pytest.mark.parametrize(
    "network", [nn.Linear(8, 8), Classifier(8, 8), Generator(8, 4, 3, 16)], ids=type
)
def test_saving_a_foreign_network_is_refused(network, backbone, tmp_path):
    foreign = Backbone(backbone.generator, LATENT_DIM, judge=network)
    with pytest.raises(BackboneError) as caught:
        foreign.save(tmp_path / "foreign.safetensors")
    assert str(caught.value) == (
        f"the judge is a {type(network).__name__}, which is no judge of gan_backbones.networks: "
        "a backbone file can only hold those"
    )
    assert not list(tmp_path.iterdir())


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def shortened_header(path):
    path.write_bytes(path.read_bytes()[:200])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("a,b\n1,2\n" * 100)


def pickled(path):
    torch.save({"a": torch.zeros(3)}, path)


def missing(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def foreign(path):
    save_file({"weight": torch.zeros(3)}, path)


def foreign_format(path):
    edit(path, lambda metadata, _: metadata.update(format="latentgym-dqn-1"))


def missing_tensor(path):
    edit(path, lambda _, tensors: tensors.pop("judge.head.weight"))


def missing_tensors(path):
    edit(path, lambda _, tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("ju")])


def surplus_tensor(path):
    edit(path, lambda _, tensors: tensors.update({"judge.extra": torch.zeros(3)}))


def wrong_shape(path):
    edit(path, lambda _, tensors: tensors.update({"classifier.head.bias": torch.zeros(3)}))


def unknown_class(path):
    edit_json(path, "architecture", lambda data: data["judge"].update({"class": "Module"}))


def no_class(path):
    edit_json(path, "architecture", lambda data: data["judge"].pop("class"))


def unknown_argument(path):
    edit_json(path, "architecture", lambda data: data["judge"].update(depth=3))


def unknown_role(path):
    edit_json(path, "architecture", lambda data: data.update(jury=data["judge"]))


def no_generator(path):
    edit_json(path, "architecture", lambda data: data.pop("generator"))


def bad_image_size(path):
    edit_json(path, "architecture", lambda data: data["generator"].update(image_size=20))


def negative_width(path):
    edit_json(path, "architecture", lambda data: data["generator"].update(features=-4))


def text_for_a_number(path):
    edit_json(path, "architecture", lambda data: data["generator"].update(features="4"))


def architecture_is_a_list(path):
    edit(path, lambda metadata, _: metadata.update(architecture="[]"))


def network_is_a_number(path):
    edit_json(path, "architecture", lambda data: data.update(judge=3))


def architecture_is_no_json(path):
    edit(path, lambda metadata, _: metadata.update(architecture="{"))


def no_schema(path):
    edit(path, lambda metadata, _: metadata.pop("schema"))


def schema_is_no_json(path):
    edit(path, lambda metadata, _: metadata.update(schema="hair"))


def schema_is_a_list(path):
    edit(path, lambda metadata, _: metadata.update(schema="[1]"))


def card_is_no_json(path):
    edit(path, lambda metadata, _: metadata.update(card="{'name'"))


def card_is_a_list(path):
    edit(path, lambda metadata, _: metadata.update(card="[1]"))


DAMAGE = {
    missing: "no such file",
    folder: "no such file",
    truncated: "damaged or not a safetensors file (",
    shortened_header: "damaged or not a safetensors file (",
    empty: "damaged or not a safetensors file (",
    text: "damaged or not a safetensors file (",
    pickled: "damaged or not a safetensors file (",
    foreign: "not a backbone; its format is None, expected 'latentgym-backbone-1'",
    foreign_format: "not a backbone; its format is 'latentgym-dqn-1', expected ",
    missing_tensor: "the weights of the judge do not fit: ",
    missing_tensors: "the weights of the judge do not fit: ",
    surplus_tensor: "the weights of the judge do not fit: ",
    wrong_shape: "the weights of the classifier do not fit: ",
    unknown_class: "unknown network class 'Module' for the judge",
    no_class: "its description is damaged (KeyError('class'))",
    unknown_argument: "its description is damaged (TypeError(",
    unknown_role: "unknown network class 'Judge' for the jury",
    no_generator: "its description is damaged (KeyError('generator'))",
    bad_image_size: "its description is damaged (ValueError(",
    negative_width: "its description is damaged (RuntimeError(",
    text_for_a_number: "its description is damaged (TypeError(",
    architecture_is_a_list: "its description is damaged (",
    network_is_a_number: "its description is damaged (",
    architecture_is_no_json: "its description is damaged (JSONDecodeError(",
    no_schema: "its description is damaged (KeyError('schema'))",
    schema_is_no_json: "its description is damaged (ValueError(",
    schema_is_a_list: "its description is damaged (ValueError(",
    card_is_no_json: "its description is damaged (JSONDecodeError(",
    card_is_a_list: "its description is damaged (",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_gives_one_line_that_names_the_file(damage, path):
    damage(path)
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {DAMAGE[damage]}")
    assert "\n" not in message
    assert len(message) < 600


def test_reading_draws_no_random_numbers(path):
    state = torch.get_rng_state()
    Backbone.read(path)
    assert torch.equal(torch.get_rng_state(), state)


# Labels -------------------------------------------------------------------------------------------

LABEL = {"hair": "bun", "hairColor": "a55728", "glasses": "round"}


@pytest.fixture(scope="module")
def conditional():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = ConditionalGenerator(LATENT_DIM, SCHEMA.size, 4, 3, 16)
    tiny = tiny_backbone()
    networks = {**tiny.networks, "generator": alive(generator, LATENTS)}
    return Backbone(latent_dim=LATENT_DIM, schema=SCHEMA, card={"name": "c"}, **networks)


def test_condition_holds_a_label_fixed_in_a_copy(conditional, tmp_path):
    before = [x.clone() for x in outputs(conditional)]
    conditioned = conditional.condition(LABEL)
    labels = torch.from_numpy(SCHEMA.encode(LABEL)).expand(len(LATENTS), -1)
    expected = conditional.generator(LATENTS, labels)
    assert torch.equal(conditioned.generator(LATENTS), expected)
    assert not torch.allclose(expected, before[0], atol=1e-3)
    assert conditioned.card == {"name": "c", "label": LABEL}
    check_backbone(conditioned)
    conditioned.save(tmp_path / "c.safetensors")
    assert torch.equal(Backbone.read(tmp_path / "c.safetensors").generator(LATENTS), expected)

    again = conditioned.condition({**LABEL, "hair": "fro"})
    assert not torch.equal(again.generator(LATENTS), expected)
    conditioned.to("meta")  # the original is not touched by what happens to its copy
    assert all(map(torch.equal, outputs(conditional), before))
    assert conditional.card == {"name": "c"}


def test_condition_refuses_what_it_cannot_do(backbone, conditional):
    other = AttributeSchema({"hair": ["bob", "bun"]})
    no_schema = Backbone(conditional.generator, LATENT_DIM)
    other_schema = Backbone(conditional.generator, LATENT_DIM, schema=other)
    for asked, label, message in (
        (
            backbone,
            LABEL,
            "the generator is a Generator; only a ConditionalGenerator takes a label",
        ),
        (
            conditional,
            {"hair": "bun"},
            "label is {'hair': 'bun'}; it leaves out hairColor, glasses",
        ),
        (conditional, {}, "label is {}; it leaves out hair, hairColor, glasses"),
        (conditional, {**LABEL, "hat": "red"}, "unknown attribute 'hat'; allowed: hair, "),
        (conditional, {**LABEL, "hair": "red"}, "unknown variant 'red' of attribute 'hair'; "),
        (no_schema, LABEL, "the backbone has no schema that names the generator's labels"),
        (other_schema, {"hair": "bob"}, "the generator's label has length 7, the schema 2"),
    ):
        with pytest.raises(ValueError) as caught:
            asked.condition(label)
        assert str(caught.value).startswith(message)


# Atomic writing -----------------------------------------------------------------------------------


def disk_full(*_, **__):
    raise OSError("No space left on device")


class HalfWritten:
    """A file whose disk is full halfway."""

    def __init__(self, descriptor, mode):
        self.file = open(descriptor, mode)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        disk_full()


@pytest.mark.parametrize(("call", "failing"), [("replace", disk_full), ("fdopen", HalfWritten)])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_half_written_file_never_appears(call, failing, old, backbone, tmp_path, monkeypatch):
    path = tmp_path / "tiny.safetensors"
    if old:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match="No space left"):
            backbone.save(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])
    backbone.save(path)
    assert list(tmp_path.iterdir()) == [path]
    Backbone.read(path)


def test_others_may_read_the_file(tmp_path):
    write_atomically(tmp_path / "file", b"data")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "file").read_bytes() == b"data"


# Registry -----------------------------------------------------------------------------------------


@pytest.fixture
def names(monkeypatch):
    """A registry of its own, which ships nothing."""
    monkeypatch.setattr(registry, "_factories", {})
    monkeypatch.setattr(registry, "_plugins", dict)
    monkeypatch.setattr(registry, "_SHIPPED", registry._SHIPPED / "none")


def test_load_by_registered_name(names, backbone):
    gan_backbones.register("b", lambda: backbone)
    gan_backbones.register("a", lambda: None)
    gan_backbones.register("a", tiny_backbone)  # the later one wins
    assert gan_backbones.list_backbones() == ["a", "b"]
    assert gan_backbones.load("b") is backbone
    assert gan_backbones.load("a").card == {"name": "tiny"}


@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_load_by_path(names, path, backbone, as_type, monkeypatch):
    loaded = gan_backbones.load(as_type(path))
    assert torch.equal(outputs(loaded)[1], outputs(backbone)[1])
    monkeypatch.chdir(path.parent)
    assert gan_backbones.load(path.name).schema == SCHEMA


def test_load_a_shipped_one(names, path, monkeypatch):
    monkeypatch.setattr(registry, "_SHIPPED", path.parent)
    assert gan_backbones.list_backbones() == ["tiny"]
    assert gan_backbones.load("tiny").card == {"name": "tiny"}


def test_load_onto_a_device(names, path):
    loaded = gan_backbones.load(path, device="meta")
    assert {p.device.type for n in loaded.networks.values() for p in n.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["a/b", "a\\b", "/a", *("a" + end for end in ENDINGS)])
def test_a_name_that_looks_like_a_path(names, name):
    with pytest.raises(ValueError) as caught:
        gan_backbones.register(name, tiny_backbone)
    expected = f"name {name!r} looks like a path; choose one without / or {', '.join(ENDINGS)}"
    assert str(caught.value) == expected
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load(name)
    assert str(caught.value) == f"{name}: no such file"


def test_an_unknown_name_lists_the_known_ones(names):
    gan_backbones.register("b", tiny_backbone)
    gan_backbones.register("a", tiny_backbone)
    with pytest.raises(BackboneError) as caught:
        gan_backbones.load("c")
    ends = ", ".join(ENDINGS)
    expected = f"unknown backbone 'c'; known: a, b, or a path to a file that ends in {ends}"
    assert str(caught.value) == expected


def test_an_installed_package_brings_its_own(tmp_path, monkeypatch):
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[latentgym.backbones]\nfrom-a-plugin = latentgym_plugin:make\n"
    )
    (tmp_path / "latentgym_plugin.py").write_text(
        "from backbones import tiny_backbone\n"
        "def make():\n    b = tiny_backbone()\n    b.card['name'] = 'plugin'\n    return b\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "from-a-plugin" in gan_backbones.list_backbones()
    assert gan_backbones.load("from-a-plugin").card["name"] == "plugin"


# Figures ------------------------------------------------------------------------------------------


def fake_data(backbone, count=120, seed=1):
    """Images of the backbone itself as if they were real, labelled by its classifier."""
    rng = torch.Generator().manual_seed(seed)
    images = backbone.generator(torch.randn(count, LATENT_DIM, generator=rng))
    images = images.add(1).mul(127.5).round().clamp(0, 255).byte()
    logits = backbone.classifier(images / 127.5 - 1)
    columns = SCHEMA.slices.values()
    return images, torch.stack([logits[:, c].argmax(dim=1) for c in columns], dim=1)


def test_figures_of_a_backbone(backbone):
    state = torch.get_rng_state()
    images, labels = fake_data(backbone)
    figures = evaluate_backbone(backbone, images, labels, seed=2)
    assert json.loads(json.dumps(figures)) == figures
    assert set(figures) == {
        "images",
        "classifier_accuracy",
        "judge_accuracy",
        "classifier_accuracies",
        "judge_accuracies",
        "chance",
        "weak_attributes",
        "agreement",
        "agreement_by_attribute",
        "lowest_share",
        "fd_classifier",
        "kid_classifier",
        "precision",
        "recall",
        "neighbours",
        "realism_quantiles",
        "discriminator",
    }
    assert figures["images"] == 120
    assert figures["classifier_accuracy"] == 1  # its own labels
    assert figures["classifier_accuracies"] == dict.fromkeys(SCHEMA.names, 1)
    for position, name in enumerate(SCHEMA.names):
        share = labels[:, position].bincount().max().item() / 120
        assert figures["chance"][name] == pytest.approx(share, abs=1e-4)
    weak = figures["weak_attributes"]
    assert weak["classifier"] == []
    assert weak["judge"] == find_weak_attributes(figures["judge_accuracies"], figures["chance"])
    assert 0 < figures["judge_accuracy"] < 1
    assert 0 < figures["agreement"] < 1
    by_attribute = figures["agreement_by_attribute"]
    assert list(by_attribute) == list(SCHEMA.names)
    assert sum(by_attribute.values()) / 3 == pytest.approx(figures["agreement"], abs=1e-3)
    for name in ("precision", "recall"):  # the same distribution
        assert 0.7 < figures[name] <= 1
    for quantiles in (figures["realism_quantiles"][kind] for kind in ("real", "generated")):
        assert len(quantiles) == len(figures["realism_quantiles"]["at"])
        assert quantiles == sorted(quantiles)
        assert 0 < quantiles[0] < quantiles[-1] < 1
    both = figures["discriminator"]
    assert both["true_positive_rate"] + both["true_negative_rate"] == pytest.approx(1, abs=0.2)
    assert [sum(row) for row in both["matrix"]] == [120, 120]
    assert both["accuracy"] == pytest.approx((both["matrix"][0][0] + both["matrix"][1][1]) / 240)
    # Two draws of one distribution are far nearer than that and grey.
    grey = evaluate_backbone(backbone, torch.full_like(images, 128), labels, seed=2)
    assert 0 < 5 * figures["fd_classifier"] < grey["fd_classifier"]
    assert 5 * abs(figures["kid_classifier"]) < grey["kid_classifier"]
    assert evaluate_backbone(backbone, images, labels, seed=2) == figures
    assert evaluate_backbone(backbone, images, labels, seed=3) != figures
    assert torch.equal(torch.get_rng_state(), state)


def test_weak_attributes_are_those_near_chance():
    accuracies = {"at chance": 0.6, "near": 0.79, "far": 0.81, "perfect": 1.0, "constant": 0.9}
    chance = {"at chance": 0.6, "near": 0.6, "far": 0.6, "perfect": 0.9, "constant": 1.0}
    assert find_weak_attributes(accuracies, chance) == ["at chance", "near"]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_few_images_are_measured_with_fewer_neighbours(backbone, count):
    images, labels = fake_data(backbone)
    figures = evaluate_backbone(backbone, images[:count], labels[:count])
    assert figures["neighbours"] == min(5, count - 1)
    assert 0 <= figures["precision"] <= 1
    with pytest.raises(ValueError, match="images has 1 images; at least 2"):
        evaluate_backbone(backbone, images[:1], labels[:1])
    with pytest.raises(ValueError, match=f"seed is {2**64}; allowed"):
        evaluate_backbone(backbone, images, labels, 2**64)


def test_a_judge_that_is_the_classifier_agrees(backbone):
    same = Backbone(
        backbone.generator,
        LATENT_DIM,
        backbone.discriminator,
        backbone.classifier,
        backbone.classifier,
        SCHEMA,
    )
    figures = evaluate_backbone(same, *fake_data(backbone))
    assert figures["agreement"] == figures["judge_accuracy"] == 1
    assert set(figures["agreement_by_attribute"].values()) == {1}


def test_a_dropped_variant_has_the_lowest_share(backbone):
    dropping = tiny_backbone()
    dropping.judge.head.bias[1] = -1e6  # never sees hair=bun
    images, labels = fake_data(backbone)
    figures = evaluate_backbone(dropping, images, labels)
    assert figures["lowest_share"] == {"variant": "hair=bun", "ratio": 0}


def test_a_variant_that_the_data_lack_does_not_count(backbone):
    images, labels = fake_data(backbone)
    present = labels[:, 0] != 1
    figures = evaluate_backbone(backbone, images[present], labels[present])
    assert figures["lowest_share"]["variant"] != "hair=bun"
    assert figures["lowest_share"]["ratio"] > 0


def test_shares_are_of_generated_images(backbone):
    images, labels = fake_data(backbone)
    figures = evaluate_backbone(backbone, torch.full_like(images, 128), labels)
    assert figures["lowest_share"]["ratio"] > 0.2  # in grey images the judge sees one variant
