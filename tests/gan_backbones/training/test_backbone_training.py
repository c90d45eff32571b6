"""From images to a checked backbone file, and the conditional VAE's training."""

import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import imageio.v3 as iio
import pytest
import torch

from gan_backbones import AttributeSchema, check_backbone, load
from gan_backbones.datasets import DatasetError, to_float
from gan_backbones.evaluation import generate
from gan_backbones.training import pipeline
from gan_backbones.training.cvae import CVAEConfig, CVAETrainer
from gan_backbones.training.gan import GANConfig
from gan_backbones.training.pipeline import train_backbone
from gan_backbones.utils.locks import FolderInUseError
from latentgym.cli import backbone_figures, main

SCHEMA = AttributeSchema({"colour": ["dark", "grey", "bright"]})
TINY = dict(
    iterations=2,
    batch_size=8,
    image_size=16,
    latent_dim=6,
    discriminator_features=4,
    classifier_updates=12,
    seed=3,
)
GAN = GANConfig(data="unused", generator_features=4, **TINY)
CVAE = CVAEConfig(data="unused", features=4, **TINY)


def shades(count=96, seed=0):
    """Noisy images of three shades of grey, and which."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, 1), generator=rng, device="cpu")
    noise = torch.randint(0, 30, (count, 1, 16, 16), generator=rng, device="cpu")
    return (labels[:, :, None, None] * 110 + noise).to(torch.uint8), labels


def vae(out, **changes):
    return CVAETrainer(replace(CVAE, out=out, **changes), *shades(), SCHEMA)


def checkpoint(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def weights(state):
    return torch.cat([v.flatten().double() for part in state.values() for v in part.values()])


# Backbones ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(architecture="residual"),
        dict(norm="spectral", objective="hinge", penalty_kind="none", upsampling="upconv"),
        dict(norm="batch", objective="bce", penalty_kind="none", channels=1),
    ],
    ids=["shipped recipe", "residual", "spectral", "batch, grey"],
)
def test_labelled_images_give_all_four_networks(tmp_path, faces, changes):
    file = train_backbone(replace(GAN, data=faces, out=tmp_path, **changes), "tiny", {"by": "me"})
    assert file == tmp_path / "tiny.safetensors"
    backbone = load(file)
    check_backbone(backbone)
    assert list(backbone.networks) == ["generator", "discriminator", "classifier", "judge"]
    assert backbone.card["by"] == "me"
    assert backbone.card["images"] == {"train": 42, "judge": 14, "held_out": 14}
    assert backbone.card["split"] == {"shares": [0.6, 0.2, 0.2], "seed": 3}
    cost = backbone.card["cost"]["generator"]
    assert cost["parameters"] == sum(p.numel() for p in backbone.generator.parameters())
    assert backbone.card["gan"]["objective"] == changes.get("objective", "relativistic")
    assert iio.imread(tmp_path / "tiny.png").shape[2] == 3


def test_images_without_attributes_give_generator_and_discriminator(tmp_path, faces):
    data = tmp_path / "images"
    data.mkdir()
    for file in sorted(faces.rglob("*.png")):
        shutil.copy(file, data)
    backbone = load(train_backbone(replace(GAN, data=data, out=tmp_path / "run"), "tiny"))
    check_backbone(backbone)
    assert list(backbone.networks) == ["generator", "discriminator"]
    assert backbone.schema is None
    assert set(backbone.card["held_out"]) == {"images", "realism_quantiles", "discriminator"}
    with pytest.raises(DatasetError, match=r"a conditional VAE needs images with attributes$"):
        train_backbone(replace(CVAE, data=data, out=tmp_path / "vae"), "tiny")


def test_a_conditional_vae_gives_a_generator_whose_label_can_be_set(tmp_path, faces):
    backbone = load(train_backbone(replace(CVAE, data=faces, out=tmp_path), "tiny"))
    check_backbone(backbone)
    assert list(backbone.networks) == ["generator", "discriminator", "classifier", "judge"]
    assert 0 <= backbone.card["held_out"]["label_accuracy"] <= 1
    label = backbone.card["label"]
    assert list(label) == list(backbone.schema.names)
    other = {**label, "glasses": "round" if label["glasses"] == "none" else "none"}
    latents = torch.zeros(1, 6)
    images = [b.generator(latents) for b in (backbone, backbone.condition(other))]
    assert not torch.equal(*images)


def test_the_discriminator_is_calibrated(tmp_path, faces, monkeypatch):
    """A probability: on images it has not seen, its mean is the share of real ones."""
    monkeypatch.setattr(pipeline, "evaluate_backbone", lambda *_: {})
    backbone = load(train_backbone(replace(GAN, data=faces, out=tmp_path), "tiny"))
    data = pipeline.open_dataset(faces, 16)
    images = data.images(pipeline.split(data, seed=GAN.seed)["judge"])
    latents = torch.randn(14, 6, generator=torch.Generator().manual_seed(3))
    generated = generate(backbone.generator, latents)
    scores = torch.sigmoid(backbone.discriminator(torch.cat([to_float(images), generated])))
    assert scores.mean().item() == pytest.approx(0.5, abs=1e-3)


def test_a_training_tells_what_it_trains_with(tmp_path, faces, capsys):
    data = tmp_path / "faces"
    shutil.copytree(faces, data)
    damaged = data / "0" / "000005.png"
    damaged.write_bytes(b"damaged")
    arguments = ["train-backbone", "--data", f"{data}?damaged=skip;attributes=hair,glasses"]
    arguments += ["--features", "4", "--image-size", "16", "--iterations", "2", "--batch-size", "8"]
    main([*arguments, "--split", "0.5", "0.25", "0.25", "--out", str(tmp_path), "--name", "tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "69 images: 35 for training, 17 for the judge's training, 17 held out",
        "left out: 1 damaged",
    ]
    assert lines[2].startswith("hair (5 variants): shortFlat ")
    assert lines[lines.index("left out, as they are damaged: 1") + 1].startswith(f"{damaged}: ")
    card = load(tmp_path / "tiny.safetensors").card
    assert card["images"] == {"train": 35, "judge": 17, "held_out": 17}
    assert card["split"]["shares"] == [0.5, 0.25, 0.25]


def test_the_command_line_makes_backbones_of_both_kinds(tmp_path, faces, capsys):
    shared = ["train-backbone", "--data", str(faces), "--features", "4", "--image-size", "16"]
    shared += [
        "--iterations",
        "2",
        "--classifier-updates",
        "12",
        "--batch-size",
        "8",
        "--name",
        "tiny",
    ]
    options = ["--objective", "least_squares", "--penalty-kind", "r1", "--augment", "cutout"]
    main([*shared, "--out", str(tmp_path / "gan"), *options])
    text = capsys.readouterr().out
    assert "multiply-adds" in text
    assert str(tmp_path / "gan" / "tiny.safetensors") in text
    main([*shared, "--out", str(tmp_path / "vae"), "--kind", "cvae", "--scale", "0.3"])
    assert "ConditionalGenerator" in capsys.readouterr().out
    assert load(tmp_path / "vae" / "tiny.safetensors").card["cvae"]["scale"] == 0.3


@pytest.fixture
def no_training(monkeypatch):
    """Training even one step fails the test."""

    def step(trainer):
        raise AssertionError("trained")

    monkeypatch.setattr(pipeline.GANTrainer, "train_step", step)
    monkeypatch.setattr(pipeline, "train_classifier", step)


@pytest.mark.parametrize("config", [GAN, CVAE], ids=["gan", "cvae"])
def test_the_state_of_torch_changes_nothing(tmp_path, faces, config):
    config = replace(config, data=faces)
    plain = load(train_backbone(replace(config, out=tmp_path / "plain"), "tiny"))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            file = train_backbone(replace(config, out=tmp_path / "odd"), "tiny")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    odd = load(file)
    assert odd.card == plain.card
    for role, network in plain.networks.items():
        found = odd.networks[role].state_dict()
        assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())


def test_a_finished_command_says_so_at_once(tmp_path, faces, capsys, monkeypatch):
    command = ["train-backbone", "--data", str(faces), "--features", "4", "--image-size", "16"]
    command += [
        "--iterations",
        "2",
        "--classifier-updates",
        "12",
        "--batch-size",
        "8",
        "--out",
        str(tmp_path),
    ]
    main(command)
    text = capsys.readouterr().out
    file = tmp_path / "backbone.safetensors"
    first = text[text.index("backbone: ") :]  # before it stands what was trained with
    assert first.startswith(f"backbone: {file}\n")
    content = file.read_bytes()
    monkeypatch.setattr(pipeline.GANTrainer, "train", lambda trainer: 1 / 0)
    monkeypatch.setattr(pipeline, "train_classifier", lambda *args, **kwargs: 1 / 0)
    main(command)
    again = capsys.readouterr()
    assert again.out == first
    assert f"{file} is finished; delete the file to make it again" in again.err
    with pytest.raises(
        SystemExit, match=r"of another configuration \(gan.iterations 2 -> 3\): choose"
    ):
        main([*command, "--iterations", "3"])
    assert file.read_bytes() == content
    file.write_bytes(b"no backbone")
    with pytest.raises(SystemExit, match=f"{file}: damaged .*: choose another name, or move"):
        main(command)


def test_finished_stages_are_not_repeated(tmp_path, faces, monkeypatch):
    """Interrupted in each stage, the result is that of a run without interrupts."""
    config = replace(GAN, data=faces)
    whole = load(train_backbone(replace(config, out=tmp_path / "whole"), "tiny"))
    calls = []

    def stop_at(stage, function, role=None):
        def patched(*args, **kwargs):
            if role is None or role in kwargs["desc"]:
                calls.append(stage)
                if calls.count(stage) == 1:
                    raise KeyboardInterrupt
            return function(*args, **kwargs)

        return patched

    train_classifier = stop_at("classifier", pipeline.train_classifier, "classifier")
    monkeypatch.setattr(pipeline, "train_classifier", stop_at("judge", train_classifier, "judge"))
    for name in ("fit_platt", "evaluate_backbone", "check_backbone"):
        monkeypatch.setattr(pipeline, name, stop_at(name, getattr(pipeline, name)))
    stages = ["fit_platt", "classifier", "judge", "evaluate_backbone", "check_backbone"]
    for _ in stages:
        with pytest.raises(KeyboardInterrupt):
            train_backbone(replace(config, out=tmp_path / "parts"), "tiny")
    parts = load(train_backbone(replace(config, out=tmp_path / "parts"), "tiny"))
    assert [calls.count(stage) for stage in stages] == [6, 2, 2, 3, 2]
    assert parts.card == whole.card
    for role, network in whole.networks.items():
        found = parts.networks[role].state_dict()
        assert all(torch.equal(value, found[key]) for key, value in network.state_dict().items())


def test_the_folder_is_locked_until_the_backbone_is_written(tmp_path, faces, monkeypatch):
    config = replace(GAN, data=faces, out=tmp_path)
    refused = []

    def start_another():
        try:
            train_backbone(config, "other")
        except FolderInUseError as error:
            refused.append(str(error))

    def check(backbone):
        thread = threading.Thread(target=start_another)
        thread.start()
        thread.join()

    monkeypatch.setattr(pipeline, "check_backbone", check)
    train_backbone(config, "tiny")
    assert len(refused) == 1
    assert refused[0].startswith(f"{tmp_path} is in use by process ")


@pytest.fixture
def few_faces(tmp_path, faces):
    """A function that makes a folder of so many faces."""

    def make(count):
        folder = tmp_path / f"{count} faces"
        folder.mkdir()
        shutil.copy(faces / "schema.json", folder)
        for file in sorted(faces.rglob("*.png"))[:count]:
            shutil.copy(file, folder)
            shutil.copy(file.with_suffix(".csv"), folder)
        return folder

    return make


def test_ten_images_are_enough(tmp_path, few_faces, capsys):
    config = replace(GAN, data=few_faces(10), out=tmp_path / "run", batch_size=6)
    backbone = load(train_backbone(config, "tiny"))
    assert backbone.card["images"] == {"train": 6, "judge": 2, "held_out": 2}
    assert backbone.card["held_out"]["neighbours"] == 1


def test_too_few_images_are_refused_before_the_first_step(tmp_path, few_faces, no_training):
    config = replace(GAN, data=few_faces(7), out=tmp_path / "run", batch_size=2)
    message = (
        f"of the 7 images in {config.data} training gets 4, the judge 2 and the held-out part 1; "
        "each needs at least 2: add images"
    )
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}$"):
        train_backbone(config, "tiny")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ValueError, "name is ''; allowed: a file's name"),
        ("folder", ValueError, "folder.safetensors is a folder; choose another name"),
        ("x" * 300, OSError, "cannot be written to out, "),
    ],
)
def test_outputs_are_checked_before_the_first_step(
    tmp_path, faces, no_training, name, error, message
):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(error, match=message):
        train_backbone(replace(GAN, data=faces, out=tmp_path), name)


def test_a_file_in_place_of_the_folder_is_named(tmp_path, faces, no_training):
    (tmp_path / "run").touch()
    with pytest.raises(OSError, match=f"cannot be written to out, {tmp_path / 'run'} "):
        train_backbone(replace(GAN, data=faces, out=tmp_path / "run"), "tiny")


def test_room_and_packages_are_checked_before_the_first_step(
    tmp_path, faces, no_training, monkeypatch
):
    config = replace(GAN, data=faces, out=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
        with pytest.raises(OSError, match=f"{tmp_path} has 0 MB free on its disk; the training"):
            train_backbone(config, "tiny")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install latentgym\[tensorboard\]"):
        train_backbone(replace(config, tensorboard=True), "tiny")


def test_warnings_are_summarized(tmp_path):
    trained = pipeline.GANTrainer(replace(GAN, out=tmp_path), shades()[0])
    lines = [[], ["mode collapse: a"], [], ["mode collapse: b", "discriminator overfits: c"]]
    (tmp_path / "log.jsonl").write_text(
        '{"iteration": 1, "gap": 0.5}\n'
        + "".join(
            json.dumps({"iteration": number, "warnings": warnings}) + "\n"
            for number, warnings in enumerate(lines)
        )
    )
    collapse, overfits = trained.warnings()
    assert collapse.pop("advice").startswith("lower learning_rate")
    assert collapse == {
        "warning": "mode collapse", "first": 1, "last": 3, "count": 2, "checks": 4,
    }  # fmt: skip
    assert (overfits["first"], overfits["last"], overfits["count"]) == (3, 3, 1)


def test_the_summary_tells_of_weak_attributes_and_warnings(capsys):
    figures = {
        "chance": {"colour": 0.33, "size": 0.5},
        "classifier_accuracies": {"colour": 0.99, "size": 0.9},
        "judge_accuracies": {"colour": 0.47, "size": 0.95},
        "weak_attributes": {"classifier": [], "judge": ["colour"]},
    }
    backbone_figures._print_accuracies(figures)
    backbone_figures.print_warnings(
        [dict(warning="mode collapse", first=500, last=900, count=2, checks=9, advice="do this")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["colour", "99.00%", "47.00%", "33.00%", "weak"]
    assert lines[2].split() == ["size", "90.00%", "95.00%", "50.00%"]
    assert lines[3].startswith("warning: the judge hardly recognizes colour (less than half")
    assert lines[4:] == [
        "warning: mode collapse at 2 of 9 checks (iterations 500 to 900); what may help: do this"
    ]


def test_figures_are_written_into_a_new_folder(tmp_path, faces, capsys):
    file = train_backbone(replace(GAN, data=faces, out=tmp_path), "tiny")
    out = tmp_path / "missing" / "x.json"
    command = ["benchmark", "backbone", "--data", str(faces), "--backbone", str(file)]
    main([*command, "--out", str(out), "--seed", "3"])
    assert json.loads(out.read_text()) == load(file).card["held_out"]
    folder = tmp_path / "y.json"
    folder.mkdir()
    with pytest.raises(SystemExit, match=f"out is {folder}, which is a folder; expected a file"):
        main([*command, "--out", str(folder)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--penalty", "0"], "penalty is 0.0; allowed with penalty_kind 'r1_r2': finite and above"),
        (
            ["--seed", str(2**64)],
            "seed is 18446744073709551616; allowed: a whole number at least 0",
        ),
        (["--features", "0"], "features is 0; allowed: a whole number at least 1"),
        (["--name", "a/b"], "name is 'a/b'; allowed: a file's name, without folders"),
        (["--batch-size", "43"], "the held-out part 14; allowed: at most 42"),
        (["--kind", "cvae", "--objective", "bce"], "objective is 'bce'; a conditional VAE has no"),
        (["--data", "mnist:nowhere"], "nowhere"),
        (["--split", "0.8", "0.1", "0.2"], "split is (0.8, 0.1, 0.2); expected three positive"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, faces, options, message):
    with pytest.raises(SystemExit) as stop:
        main(["train-backbone", "--data", str(faces), "--out", str(tmp_path), *options])
    assert str(stop.value).startswith("latentgym: ")
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)


def test_training_speed_is_measured(tmp_path, capsys):
    out = tmp_path / "speed.json"
    options = ["--features", "4", "--batch-size", "4", "--image-size", "16"]
    options += ["--seconds", "0"]
    main(["benchmark", "gan-training", *options, "--iterations", "1", "--out", str(out)])
    report = json.loads(out.read_text())
    assert report["times_as_fast_as_plain"]["plain fp32 loop"] == 1
    assert all(speed > 0 for speed in report["images_per_second"].values())
    assert "| trainer, shipped recipe |" in capsys.readouterr().out


# The conditional VAE ------------------------------------------------------------------------------


def test_the_vae_learns_what_labels_mean(tmp_path):
    trained = vae(tmp_path, iterations=200, batch_size=16, learning_rate=5e-3, features=8)
    trained.train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_vae"] < lines[0]["loss_vae"]
    trained.vae.eval()
    latents = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3).repeat(20)[:, None]
    images = generate(trained.generator, latents, labels, SCHEMA)
    means = images.mean(dim=(1, 2, 3)).view(20, 3).mean(dim=0)
    expected = (torch.tensor([0, 110, 220]) + 14.5) / 127.5 - 1
    assert torch.allclose(means, expected, atol=0.15)
    # The grid: one latent a row, one label a column.
    samples = trained._samples()
    assert samples.shape == (9, 1, 16, 16)


def test_the_vae_resumes_bit_for_bit(tmp_path):
    vae(tmp_path / "whole", iterations=4).train()
    half = vae(tmp_path / "halves", iterations=4)
    for _ in range(2):
        half.train_step()
        half.iteration += 1
    half.save()
    vae(tmp_path / "halves", iterations=4).train()
    whole, halves = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "halves")
    assert torch.equal(weights(halves["networks"]), weights(whole["networks"]))
    with pytest.raises(ValueError, match=r"\(scale 1\.0 -> 0\.4\)"):
        vae(tmp_path / "halves", iterations=4, scale=0.4).train()


def test_a_watching_discriminator_changes_nothing_for_the_vae(tmp_path):
    states = []
    for features in (4, 8):
        trained = vae(tmp_path / str(features), discriminator_features=features)
        trained.train()
        states.append(weights({"vae": dict(trained.vae.named_parameters())}))
    assert (states[0] - states[1]).abs().max() == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.0),
        ("scale", torch.inf),
        ("penalty_interval", 0),
        ("features", 1.5),
        ("seed", -1),
    ],
)
def test_vae_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}; allowed: a"):
        replace(CVAE, **{name: value})
