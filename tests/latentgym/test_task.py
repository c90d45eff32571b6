"""What a task holds on to: its own copies, the file as it was, attributes that can be edited."""

import os
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import tiny_backbone
from edits import IDS, arguments, make, make_vec

import gan_backbones
from gan_backbones import AttributeSchema, Backbone
from latentgym.task import EditTask


@pytest.fixture(params=[make, make_vec], ids=["single", "vector"])
def build(request):
    return request.param


@pytest.mark.parametrize("env_id", IDS)
def test_what_was_passed_may_change_afterwards(build, env_id, tiny_file):
    passed = {"target": {"hair": "bob"}, "directions": [[1.0] + 7 * [0.0]]}
    env = build(env_id, tiny_file, **passed)
    spec = env.spec.to_json()
    passed["target"]["hair"] = "fro"
    passed["directions"][0][1] = 1.0
    assert env.spec.to_json() == spec
    _, info = env.reset(seed=0)
    wanted = env.unwrapped.core.schema.encode({"hair": "bob"})
    np.testing.assert_array_equal(np.atleast_2d(info["target"])[0], wanted)
    assert env.unwrapped.core.directions.tolist() == [[1.0] + 7 * [0.0]]


def brighter(backbone: Backbone) -> Backbone:
    """The backbone with other images."""
    with torch.no_grad():
        backbone.generator.layers[-2].bias.add_(0.3)
    return backbone


def first_frame(**options) -> np.ndarray:
    env = gym.make("LatentEditPixels-v0", **arguments("LatentEditPixels-v0", **options))
    observation, _ = env.reset(seed=0)
    return observation["image"]


def test_a_file_saved_again_is_loaded_again(tmp_path):
    file = tmp_path / "b.safetensors"
    tiny_backbone().save(file)
    old_env = make("LatentEditPixels-v0", str(file))
    old, _ = old_env.reset(seed=0)
    assert np.array_equal(first_frame(backbone=str(file)), old["image"])
    brighter(tiny_backbone()).save(file)
    assert not np.array_equal(first_frame(backbone=str(file)), old["image"])
    old_env.reset(options={"target": {"hair": "bob"}})
    again, _ = old_env.reset(seed=0)
    assert np.array_equal(again["image"], old["image"])  # an environment keeps its own


def test_a_name_registered_again_is_loaded_again(monkeypatch):
    monkeypatch.setattr(gan_backbones.registry, "_factories", {})
    gan_backbones.register("mine", tiny_backbone)
    old = first_frame(backbone="mine")
    gan_backbones.register("mine", lambda: brighter(tiny_backbone()))
    assert not np.array_equal(first_frame(backbone="mine"), old)


def test_a_relative_path_means_the_file_in_the_present_folder(tmp_path, monkeypatch):
    frames = []
    for name, change in (("one", lambda backbone: backbone), ("two", brighter)):
        folder = tmp_path / name
        folder.mkdir()
        change(tiny_backbone()).save(folder / "b.safetensors")
        os.utime(folder / "b.safetensors", (1, 1))
        monkeypatch.chdir(folder)
        frames.append(first_frame(backbone="./b.safetensors"))
    assert not np.array_equal(*frames)


def test_the_same_file_is_loaded_once(tiny_file):
    first, second = EditTask(tiny_file), EditTask(tiny_file, delta=0.1)
    assert first.loaded_backbone is second.loaded_backbone


@pytest.fixture
def constant():
    """The tiny backbone with an attribute of one variant in the middle."""
    tiny = tiny_backbone()
    variants = dict(tiny.schema.variants)
    glasses = variants.pop("glasses")
    schema = AttributeSchema({**variants, "hat": ["none"], "glasses": glasses})

    def with_hat(network):
        return lambda images: torch.cat(
            [network(images)[:, :5], torch.zeros(len(images), 1), network(images)[:, 5:]], dim=1
        )

    with pytest.warns(UserWarning, match="attribute 'hat' has one variant alone; edits leave it"):
        return gan_backbones.wrap(
            tiny.generator,
            tiny.latent_dim,
            discriminator=tiny.discriminator,
            classifier=with_hat(tiny.classifier),
            judge=with_hat(tiny.judge),
            schema=schema,
        )


def test_an_attribute_of_one_variant_is_no_target_and_no_direction(constant):
    options = dict(target=None, directions="attributes", start="lacks_target")
    env = make("LatentEdit-v0", constant, **options)
    assert env.action_space.n == 2 * 7  # the other attributes' variants, up and down
    assert env.unwrapped.core.directions.isfinite().all()
    for seed in range(20):
        _, info = env.reset(seed=seed)
        assert "hat" not in constant.schema.decode(info["target"])
    plain = make("LatentEdit-v0", tiny_backbone(), **options)
    torch.testing.assert_close(env.unwrapped.core.directions, plain.unwrapped.core.directions)


@pytest.mark.parametrize("target", [{"hat": "none"}, ["hat"]])
def test_an_attribute_of_one_variant_cannot_be_asked_for(constant, target):
    message = "target names 'hat', which has one variant alone; allowed: hair, hairColor, glasses"
    with pytest.raises(ValueError, match=message):
        make("LatentEdit-v0", constant, target=target)


def test_a_backbone_of_constant_attributes_cannot_be_edited(constant):
    bare = Backbone(
        constant.generator,
        constant.latent_dim,
        constant.discriminator,
        constant.classifier,
        schema=AttributeSchema({"hat": ["none"]}),
    )
    with pytest.raises(ValueError, match="no attribute with two or more variants"):
        make("LatentEdit-v0", bare, target=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"terminate_on_success": "False"}, "terminate_on_success is 'False'; allowed: True, Fal"),
        ({"compile": "False"}, "compile is 'False'; allowed: True, False"),
        ({"bf16": 0}, "bf16 is 0; allowed: True, False"),
        ({"delta": True}, "delta is True; it must be a finite number above 0"),
        ({"delta": "0.5"}, "delta is '0.5'; it must be a finite number above 0"),
        ({"success_bonus": False}, "success_bonus is False; it must be a finite number, 0 or more"),
        ({"device": "gpu"}, "device is 'gpu'; torch cannot use it: "),
        ({"device": "cuda:99"}, "device is 'cuda:99'; torch cannot use it: "),
    ],
    ids=str,
)
def test_wrong_types_are_one_line(options, message, tiny_file):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        EditTask(tiny_file, **options)


def test_a_judge_that_is_no_good_is_told(build):
    backbone = tiny_backbone()
    weak = {"classifier": ["hair"], "judge": ["glasses"]}
    backbone.card["held_out"] = {"weak_attributes": weak}
    with pytest.warns(UserWarning, match="judge is little better than chance at glasses: is_succ"):
        build("LatentEdit-v0", backbone, target=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("LatentEdit-v0", backbone, target={"hair": "bob"})


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros(8), r"latents has shape \(8,\); expected \(N, 8\)"),
        (np.full((2, 8), np.nan), "latents holds values that are not finite"),
        (np.full((2, 8), 1j), "latents is .*; expected an array of real numbers"),
        ([["a"] * 8], "latents is .*; expected an array of real numbers"),
        ([[1.0], [1.0, 2.0]], "latents is .*; expected an array of real numbers"),
    ],
    ids=str,
)
def test_latents_to_score(tiny_file, latents, message):
    env = make("LatentEdit-v0", tiny_file)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"^{message}$"):
        env.unwrapped.score(latents)
    assert env.unwrapped.score(np.zeros((0, 8)))["potential"].shape == (0,)
    score = env.unwrapped.score(np.zeros((1, 8)))["potential"]
    assert env.unwrapped.score(torch.zeros(1, 8, dtype=torch.float64))["potential"] == score
