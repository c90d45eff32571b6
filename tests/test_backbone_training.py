"""From images to a checked backbone file, and the conditional VAE's training."""

import json
import shutil
from dataclasses import replace

import imageio.v3 as iio
import pytest
import torch

from gan_backbones import AttributeSchema, check_backbone, load, training
from gan_backbones.cvae_training import CVAEConfig, CVAETrainer
from gan_backbones.datasets import DatasetError, to_float
from gan_backbones.evaluation import generate
from gan_backbones.gan_training import GANConfig
from gan_backbones.training import train_backbone
from latentgym.cli import main

SCHEMA = AttributeSchema({"colour": ["dark", "grey", "bright"]})
TINY = dict(
    iterations=2, batch_size=8, image_size=16, latent_dim=6, discriminator_features=4, seed=3
)
GAN = GANConfig(data="unused", generator_features=4, **TINY)
CVAE = CVAEConfig(data="unused", features=4, **TINY)


def shades(count=96, seed=0):
    """Noisy images of three shades of grey, and which."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count, 1), generator=rng)
    noise = torch.randint(0, 30, (count, 1, 16, 16), generator=rng)
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
    monkeypatch.setattr(training, "evaluate_backbone", lambda *_: {})
    backbone = load(train_backbone(replace(GAN, data=faces, out=tmp_path), "tiny"))
    images = training.open_dataset(faces, 16).images(training.split(70)["judge"])
    latents = torch.randn(14, 6, generator=torch.Generator().manual_seed(3))
    generated = generate(backbone.generator, latents)
    scores = torch.sigmoid(backbone.discriminator(torch.cat([to_float(images), generated])))
    assert scores.mean().item() == pytest.approx(0.5, abs=1e-3)


def test_the_command_line_makes_backbones_of_both_kinds(tmp_path, faces, capsys):
    shared = ["train-backbone", "--data", str(faces), "--features", "4", "--image-size", "16"]
    shared += ["--iterations", "2", "--batch-size", "8", "--name", "tiny"]
    options = ["--objective", "least_squares", "--penalty-kind", "r1", "--augment", "cutout"]
    main([*shared, "--out", str(tmp_path / "gan"), *options])
    text = capsys.readouterr().out
    assert "multiply-adds" in text
    assert str(tmp_path / "gan" / "tiny.safetensors") in text
    main([*shared, "--out", str(tmp_path / "vae"), "--kind", "cvae", "--scale", "0.3"])
    assert "ConditionalGenerator" in capsys.readouterr().out
    assert load(tmp_path / "vae" / "tiny.safetensors").card["cvae"]["scale"] == 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "mse"], "objective is 'mse'; allowed: bce"),
        (["--kind", "cvae", "--objective", "bce"], "objective is 'bce'; a conditional VAE has no"),
        (["--data", "mnist:nowhere"], "nowhere"),
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
        half._step()
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


@pytest.mark.parametrize(("name", "value"), [("scale", 0.0), ("penalty_interval", 0)])
def test_vae_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value}; it must be"):
        replace(CVAE, **{name: value})
