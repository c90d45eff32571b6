"""Edits of a conditional generator, whose label is held fixed."""

import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import SCHEMA, conditional_backbone
from edits import IDS, latents_of, make, make_vec, sampled
from gymnasium.envs.registration import EnvSpec

from gan_backbones import BackboneError, load

LABEL = {"hair": "fro", "hairColor": "2c1b18", "glasses": "none"}
OTHER = {"hair": "bob", "hairColor": "a55728", "glasses": "round"}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("conditional") / "conditional.safetensors"
    conditional_backbone().save(path)
    return str(path)


def decoded(backbone, latents, label):
    """Images uint8 ``[N, C, H, W]``, the label given to the generator outright."""
    labels = torch.from_numpy(SCHEMA.encode(label)).expand(len(latents), -1)
    with torch.no_grad():
        images = backbone.generator(torch.from_numpy(latents), labels)
    return ((images + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)


def shown(env):
    """The current images uint8 ``[N, C, H, W]``."""
    core = env.unwrapped.core
    return np.asarray(core.images(core.latents)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("rows", [None, 3], ids=["single", "vector"])
def test_every_image_of_an_edit_is_of_the_label(file, env_id, rows):
    backbone = load(file)
    env = (
        make(env_id, file, label=LABEL)
        if rows is None
        else make_vec(env_id, file, rows, label=LABEL)
    )
    env.reset(seed=0)
    for action in [None, *sampled(env, 4)]:
        if action is not None:
            env.step(action)
        latents = latents_of(env)
        difference = shown(env).astype(int) - decoded(backbone, latents, LABEL)
        assert np.abs(difference).max() <= 1  # batch norm is folded: rounding
        assert np.abs(shown(env).astype(int) - decoded(backbone, latents, OTHER)).mean() > 1
    assert env.unwrapped.backbone.card["label"] == LABEL


def test_the_scores_are_of_the_label_too(file):
    backbone, env = load(file), make("LatentEdit-v0", file, label=LABEL)
    env.reset(seed=0)
    labels = torch.from_numpy(SCHEMA.encode(LABEL))[None]
    with torch.no_grad():
        images = backbone.generator(torch.from_numpy(latents_of(env)), labels)
        realism = torch.sigmoid(backbone.discriminator(images)).item()
    _, info = env.reset(seed=0)
    assert info["scores"]["realism"] == pytest.approx(realism, abs=1e-4)


def test_the_label_survives_the_spec(file):
    env = make("LatentEdit-v0", file, label=LABEL)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.core.task.label == LABEL
    first, second = env.reset(seed=3)[0], again.reset(seed=3)[0]
    assert np.array_equal(first, second)
    assert np.array_equal(shown(env), shown(again))


def test_two_labels_of_one_backbone_object_stay_apart():
    backbone = conditional_backbone()
    first = make("LatentEdit-v0", backbone, label=LABEL)
    second = make("LatentEdit-v0", backbone, label=OTHER)
    vector = make_vec("LatentEdit-v0", backbone, label=LABEL)
    for env in (first, second, vector):
        env.reset(seed=0)
    latents = latents_of(first)
    assert np.array_equal(latents, latents_of(second))
    assert np.abs(shown(first).astype(int) - decoded(backbone, latents, LABEL)).max() <= 1
    assert np.abs(shown(second).astype(int) - decoded(backbone, latents, OTHER)).max() <= 1
    assert not backbone.generator.label.any()
    # Environments of one label share their prepared networks.
    assert first.unwrapped.core.assessor.networks is vector.unwrapped.core.assessor.networks
    assert first.unwrapped.core.assessor.networks is not second.unwrapped.core.assessor.networks


def test_a_backbone_that_was_conditioned_before_needs_no_label():
    backbone = conditional_backbone().condition(LABEL)
    env = make("LatentEdit-v0", backbone)
    env.reset(seed=0)
    expected = decoded(backbone, latents_of(env), LABEL)
    assert np.abs(shown(env).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (None, ValueError, "label is None; this backbone's generator is a conditional one and"),
        ("fro", ValueError, "label is 'fro'; expected a dict of attribute to variant, or None"),
        ({"hair": 2}, ValueError, "label is {'hair': 2}; expected a dict of attribute to variant"),
        ({"hair": ["fro"]}, ValueError, "label is {'hair': ['fro']}; expected a dict"),
        ({"hair": "fro"}, BackboneError, "label is {'hair': 'fro'}; it leaves out hairColor, gl"),
        ({**LABEL, "hat": "no"}, ValueError, "unknown attribute 'hat'; allowed: hair, hairColor"),
        ({**LABEL, "hair": "x"}, ValueError, "unknown variant 'x' of attribute 'hair'; allowed: "),
    ],
)
@pytest.mark.parametrize("rows", [None, 2], ids=["single", "vector"])
def test_a_wrong_label_says_what_is_allowed(file, label, error, message, rows):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        if rows is None:
            make("LatentEdit-v0", file, label=label)
        else:
            make_vec("LatentEdit-v0", file, rows, label=label)


def test_a_label_for_a_generator_that_takes_none(tiny_file):
    message = "the generator is a Generator; only a ConditionalGenerator takes a label"
    with pytest.raises(BackboneError, match=f"^{re.escape(message)}$"):
        make("LatentEdit-v0", tiny_file, label=LABEL)
