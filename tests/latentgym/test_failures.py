"""Networks that fail and damaged files: one clear line, and no edit that goes on regardless."""

import dataclasses
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import tiny_backbone
from edits import IDS, make, make_vec, sampled
from torch import nn

from gan_backbones import BackboneError

NOT_FINITE = "the backbone's networks returned a score that is not finite; the edit cannot continue"


class Spoilable(nn.Module):
    """A network whose outputs pass through ``spoil``, once one is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.spoil = network, None

    def forward(self, inputs):
        outputs = self.network(inputs)
        return outputs if self.spoil is None else self.spoil(outputs)


@pytest.fixture(scope="module")
def spoilable():
    """A backbone of such networks."""
    tiny = tiny_backbone()
    return dataclasses.replace(tiny, **{r: Spoilable(n) for r, n in tiny.networks.items()})


def nan(outputs):
    return outputs * float("nan")


def infinite(outputs):
    return outputs + float("inf")


def one_nan(outputs):
    outputs = outputs.clone()
    outputs[tuple(size - 1 for size in outputs.shape)] = float("nan")
    return outputs


def twice(outputs):
    return torch.cat([outputs, outputs])


def none_left(outputs):
    return outputs[:0]


def wider(outputs):
    return torch.cat([outputs, outputs], dim=-1)


def narrower(outputs):
    return outputs[..., :-1]


def deeper(outputs):
    return outputs[..., None]


def flat(outputs):
    return outputs.flatten()


SPOILT = [
    *[(role, nan) for role in ("generator", "discriminator", "classifier")],
    *[(role, one_nan) for role in ("generator", "discriminator", "classifier")],
    *[(role, infinite) for role in ("discriminator", "classifier")],
    *[(role, deeper) for role in ("generator", "discriminator", "classifier", "judge")],
    *[(role, twice) for role in ("generator", "discriminator", "classifier", "judge")],
    *[(role, none_left) for role in ("generator", "discriminator", "classifier", "judge")],
    *[(role, wider) for role in ("generator", "classifier", "judge")],
    *[(role, narrower) for role in ("generator", "classifier", "judge")],
    *[(role, flat) for role in ("generator", "classifier", "judge")],
]
every_failure = pytest.mark.parametrize(
    ("role", "spoil"), SPOILT, ids=[f"{role} {spoil.__name__}" for role, spoil in SPOILT]
)


def environment(backbone, rows, env_id="LatentEdit-v0", limit=2, **options):
    """A single one, or one of ``rows``; each step may be the last of its episode."""
    if rows is None:
        return make(env_id, backbone, **options).unwrapped
    return make_vec(env_id, backbone, rows, limit, **options)


def assert_fails(call, role, spoil, rows):
    if spoil in (nan, one_nan, infinite):
        with pytest.raises(FloatingPointError, match=f"^{re.escape(NOT_FINITE)}$"):
            call()
        return
    before = {"discriminator": (rows,), "generator": (rows, 3, 16, 16)}.get(role, (rows, 7))
    shape = tuple(spoil(torch.zeros(before)).shape)
    message = f"the {role} returned shape {shape}; expected {before}"
    with pytest.raises(BackboneError, match=f"^{re.escape(message)}$"):
        call()


@every_failure
@pytest.mark.parametrize("rows", [None, 3], ids=["single", "vector"])
def test_a_step_that_fails_ends_the_edit(spoilable, rows, role, spoil):
    env, untouched = environment(spoilable, rows), environment(spoilable, rows)
    actions = sampled(env, 3)
    env.reset(seed=0)
    env.step(actions[0])
    network = env.core.assessor.networks[role]
    network.spoil = spoil
    try:
        assert_fails(lambda: env.step(actions[1]), role, spoil, rows or 1)
    finally:
        network.spoil = None
    for method in ("step", "get_state"):
        with pytest.raises(gym.error.ResetNeeded, match=f"^call reset before {method}$"):
            env.step(actions[1]) if method == "step" else env.get_state()
    np.testing.assert_equal(env.reset(seed=4), untouched.reset(seed=4))
    for action in actions:
        np.testing.assert_equal(env.step(action), untouched.step(action))


@every_failure
@pytest.mark.parametrize("rows", [None, 3], ids=["single", "vector"])
def test_a_reset_that_fails_begins_nothing(spoilable, rows, role, spoil):
    env, untouched = environment(spoilable, rows), environment(spoilable, rows)
    action = sampled(env, 1)[0]
    env.reset(seed=0)
    env.step(action)
    network = env.core.assessor.networks[role]
    network.spoil = spoil
    try:
        assert_fails(env.reset, role, spoil, rows or 1)
    finally:
        network.spoil = None
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before step$"):
        env.step(action)
    np.testing.assert_equal(env.reset(seed=4), untouched.reset(seed=4))
    np.testing.assert_equal(env.step(action), untouched.step(action))


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_reset_that_fails_within_a_step_ends_all_edits(spoilable, env_id, mode):
    env = environment(spoilable, 2, env_id, limit=1, autoreset_mode=mode)
    actions = sampled(env, 1)[0]
    env.reset(seed=0)
    if mode == "NextStep":
        env.step(actions)
    network, calls = env.core.assessor.networks["discriminator"], []

    def spoil(outputs):
        calls.append(outputs)
        return nan(outputs) if len(calls) > (mode == "SameStep") else outputs

    network.spoil = spoil
    try:
        with pytest.raises(FloatingPointError, match=f"^{re.escape(NOT_FINITE)}$"):
            env.step(actions)
    finally:
        network.spoil = None
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before step$"):
        env.step(actions)
    env.reset()
    env.step(actions)


def test_an_impossible_start_leaves_the_edit_as_it_was(spoilable, monkeypatch):
    monkeypatch.setattr("latentgym.core.MAX_START_DRAWS", 40)
    for rows in (None, 2):
        options = dict(start="lacks_target", target={"hair": "bun"})
        env, untouched = (environment(spoilable, rows, **options) for _ in range(2))
        action = sampled(env, 1)[0]
        for each in (env, untouched):
            each.reset(seed=0)
        judge = env.core.assessor.networks["judge"]
        judge.spoil = lambda logits: logits + 100 * torch.eye(7)[1]
        try:
            with pytest.raises(RuntimeError, match=r"^40 random starts all show the target"):
                env.reset()
        finally:
            judge.spoil = None
        np.testing.assert_equal(env.get_state(), untouched.get_state())
        np.testing.assert_equal(env.step(action), untouched.step(action))


def test_a_refused_action_does_not_end_the_edit(spoilable):
    for rows in (None, 2):
        env, untouched = environment(spoilable, rows), environment(spoilable, rows)
        action = sampled(env, 1)[0]
        for each in (env, untouched):
            each.reset(seed=0)
        with pytest.raises(ValueError, match=r"allowed: (Multi)?Discrete"):
            env.step(1000)
        np.testing.assert_equal(env.step(action), untouched.step(action))


def test_scoring_a_latent_that_is_not_finite_does_not_end_the_edit(spoilable):
    env, untouched = environment(spoilable, None), environment(spoilable, None)
    for each in (env, untouched):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=r"^latents holds values that are not finite$"):
        env.score(np.full((1, 8), np.nan))
    np.testing.assert_equal(env.step(0), untouched.step(0))


# What cannot even be made; see also test_latent_edit.test_bad_arguments ---------------------------


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "folder"])
@pytest.mark.parametrize("rows", [None, 2], ids=["single", "vector"])
def test_a_damaged_backbone_file_is_named(tiny_file, tmp_path, damage, rows):
    path = tmp_path / "damaged.safetensors"
    content = Path(tiny_file).read_bytes()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"cut": content[:-100], "foreign": b"GIF89a" * 99, "empty": b""}[damage])
    with pytest.raises(BackboneError, match=f"^{re.escape(str(path))}: [^\n]+$"):
        environment(str(path), rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": -0.5}, "delta is -0.5; it must be a finite number above 0"),
        ({"delta": float("inf")}, "delta is inf; it must be a finite number above 0"),
        ({"delta": None}, "delta is None; it must be a finite number above 0"),
        ({"latent_bound": 0}, "latent_bound is 0; it must be a finite number above 0, or 'sphere'"),
        ({"latent_bound": "cube"}, "latent_bound is 'cube'; it must be a finite number above 0, "),
        ({"latent_bound": None}, "latent_bound is None; it must be a finite number above 0, or "),
        ({"attribute_reward": "both"}, "attribute_reward is 'both'; allowed: relative, absolute"),
        ({"identity_weight": -1}, "identity_weight is -1; it must be a finite number, 0 or more"),
        ({"identity_weight": "1"}, "identity_weight is '1'; it must be a finite number, 0 or more"),
        ({"success_bonus": float("nan")}, "success_bonus is nan; it must be a finite number, 0 or"),
        ({"directions": [[0.0] * 7]}, "directions has shape (1, 7); expected (K, 8) with K >= 1"),
        ({"backbone": ""}, "unknown backbone ''; known: "),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [None, 2], ids=["single", "vector"])
def test_bad_arguments(tiny_file, options, message, rows):
    options = {"backbone": tiny_file, **options}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        environment(options.pop("backbone"), rows, **options)


@pytest.mark.parametrize(
    ("spoil", "shape"), [(flat, (1536,)), (twice, (4, 3, 16, 16)), (wider, (2, 3, 16, 32))]
)
def test_generators_of_other_shapes(spoilable, spoil, shape):
    network = Spoilable(spoilable.generator.network)
    network.spoil = spoil
    backbone = dataclasses.replace(spoilable, generator=network)
    if spoil is wider:  # images need not be square
        assert environment(backbone, None).core.image_shape == shape[1:]
        return
    message = f"the generator makes images of shape {shape} from 2 latents; expected (2, 1 or 3, H"
    with pytest.raises(BackboneError, match=f"^{re.escape(message)}"):
        environment(backbone, None)
