import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import gan_backbones
import latentgym  # noqa: F401  (registers the environments)
from gan_backbones.backbone_checker import check_backbone
from gan_backbones.metrics import batched
from gan_backbones.training.classifiers import predict_attributes

FILE = Path(gan_backbones.__file__).parent / "weights" / "cartoon-faces.safetensors"


def test_the_file_is_small_and_loads_fast():
    assert FILE.stat().st_size <= 16e6
    began = time.perf_counter()
    gan_backbones.load("cartoon-faces")
    assert time.perf_counter() - began < 1


def test_it_is_listed_and_its_card_tells_its_origin():
    assert "cartoon-faces" in gan_backbones.list_backbones()
    card = gan_backbones.load("cartoon-faces").card
    assert "Pablo Stanley" in card["data"]["licence"]
    assert card["command"].startswith("latentgym train-backbone")
    assert card["images"]["train"] >= 30_000
    figures = card["held_out"]
    assert figures["images"] == 10_000
    for name, bar in {
        "classifier_accuracy": 0.985,
        "judge_accuracy": 0.985,
        "agreement": 0.9,
        "precision": 0.7,
        "recall": 0.5,
    }.items():
        assert figures[name] >= bar
    assert figures["lowest_share"]["ratio"] >= 0.25


def test_its_networks_work_together_on_generated_images():
    backbone = gan_backbones.load("cartoon-faces")
    latents = torch.randn(400, 100, generator=torch.Generator().manual_seed(7))
    images = batched(backbone.generator, latents)
    seen = [
        predict_attributes(batched(network, images), backbone.schema)
        for network in (backbone.classifier, backbone.judge)
    ]
    assert (seen[0] == seen[1]).double().mean() > 0.88
    for column, size in zip(seen[1].T, backbone.schema.sizes, strict=True):
        assert len(column.unique()) == size  # no variant is missing
    realism = torch.sigmoid(batched(backbone.discriminator, images))
    assert 0.05 < realism.quantile(0.25) < realism.quantile(0.75) < 0.95  # not pinned to an end


def test_the_digits_are_small_measured_and_edited():
    assert (FILE.parent / "mnist.safetensors").stat().st_size <= 8e6
    assert "mnist" in gan_backbones.list_backbones()
    backbone = gan_backbones.load("mnist")
    check_backbone(backbone)
    assert backbone.schema.variants == {"digit": tuple("0123456789")}
    card = backbone.card
    assert card["command"].startswith("latentgym train-backbone --data mnist:")
    figures = card["held_out"]
    assert figures["images"] == 10_000
    for name, bar in {
        "classifier_accuracy": 0.985,
        "judge_accuracy": 0.985,
        "agreement": 0.85,
        "precision": 0.8,
        "recall": 0.85,
    }.items():
        assert figures[name] >= bar
    assert figures["lowest_share"]["ratio"] >= 0.5

    env = gym.make("LatentEdit-v0", backbone="mnist", target={"digit": "7"})
    env.reset(seed=0)
    _, reward, *_ = env.step(0)
    assert np.isfinite(reward)


def test_the_default_environment_works_at_once():
    env = gym.make("LatentEdit-v0", render_mode="rgb_array")
    env.reset(seed=0)
    _, reward, *_ = env.step(0)
    assert np.isfinite(reward)
    assert env.render().dtype == np.uint8
