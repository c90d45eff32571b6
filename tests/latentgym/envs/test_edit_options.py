"""Options of a task that all editing environments share, and how an edit is scored with them."""

import math
import re
import shutil

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from backbones import LATENT_DIM, SCHEMA, tiny_backbone
from edits import (
    IDS,
    images,
    latents_of,
    make,
    make_vec,
    plain,
    probabilities,
    realism,
    sampled,
)
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from gan_backbones import load
from gan_backbones.latents.directions import PCA_SIDE, direction_matrix

RADIUS = math.sqrt(LATENT_DIM)
every_id = pytest.mark.parametrize("env_id", IDS)
single_and_vector = pytest.mark.parametrize("rows", [None, 3], ids=["single", "vector"])
TARGET = {"hair": "bun", "glasses": "none"}


def environment(backbone, rows=None, env_id="LatentEdit-v0", steps=50, **options):
    if rows is None:
        return make(env_id, backbone, steps, **options)
    return make_vec(env_id, backbone, rows, steps, **options)


def edit(env, steps, seed=0):
    """Latents ``[1 + steps, N, latent_dim]`` and what each step returned."""
    env.reset(seed=seed)
    latents, results = [latents_of(env)], []
    for action in sampled(env, steps, seed):
        results.append(env.step(action))
        latents.append(latents_of(env))
    return np.array(latents), results


def paid(results, name):
    """A component of each step's reward ``[steps, N]``."""
    return np.array([np.atleast_1d(result[4]["rewards"][name]) for result in results])


# latent_bound="sphere" ----------------------------------------------------------------------------


@every_id
@single_and_vector
def test_latents_stay_on_the_sphere(tiny_file, env_id, rows):
    env = environment(tiny_file, rows, env_id, latent_bound="sphere", delta=1.5)
    latents, results = edit(env, 20)
    radii = np.linalg.norm(latents.astype(np.float64), axis=-1)
    np.testing.assert_allclose(radii, RADIUS, rtol=1e-6)
    assert all(result[0] in env.observation_space for result in results)
    assert not (latents[0] == latents[-1]).any()


def test_moves_are_put_back_radially(tiny_file):
    env = environment(tiny_file, latent_bound="sphere", delta=0.8)
    latents, _ = edit(env, 20)
    for before, after, action in zip(
        latents[:-1, 0], latents[1:, 0], sampled(env, 20), strict=True
    ):
        moved = before.astype(float)
        moved[action // 2] += 0.8 if action % 2 == 0 else -0.8
        expected = moved * RADIUS / np.linalg.norm(moved)
        np.testing.assert_allclose(after, expected, atol=1e-6)


@single_and_vector
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 1e30])
def test_a_start_is_put_onto_the_sphere(tiny_file, rows, scale):
    env = environment(tiny_file, rows, latent_bound="sphere")
    latent = np.linspace(-1, 2, LATENT_DIM) * scale
    env.reset(seed=0, options={"latent": latent})
    expected = np.broadcast_to(latent * RADIUS / np.linalg.norm(latent), latents_of(env).shape)
    np.testing.assert_allclose(latents_of(env), expected, rtol=1e-6)


def test_a_corner_of_the_sphere_is_in_the_observation_space(tiny_file):
    env = environment(tiny_file, latent_bound="sphere", observation=["latent"])
    for axis in (*np.eye(LATENT_DIM), *-np.eye(LATENT_DIM)):
        observation, _ = env.reset(seed=0, options={"latent": axis})
        assert observation in env.observation_space
        np.testing.assert_allclose(observation, RADIUS * axis, rtol=1e-7)


@single_and_vector
@pytest.mark.parametrize("fault", [0.0, float("nan"), float("inf")])
def test_starts_without_a_direction_are_refused(tiny_file, rows, fault):
    env = environment(tiny_file, rows, latent_bound="sphere")
    env.reset(seed=0)
    message = "options['latent'] must be finite and not all zero"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        env.reset(options={"latent": np.full(LATENT_DIM, fault)})


# attribute_reward="absolute" ----------------------------------------------------------------------


def attribute_scores(backbone, latents, form):
    """The three forms ``[N]``, for `TARGET`."""
    p = probabilities(backbone, latents)
    hair, glasses = SCHEMA.slices["hair"], SCHEMA.slices["glasses"]
    wanted = np.stack([p[:, hair][:, 1], p[:, glasses][:, 0]], axis=1)
    others = np.concatenate([p[:, hair], p[:, glasses]], axis=1)
    return {
        "log_probability": np.log(wanted).mean(axis=1),
        "cosine": 100 * wanted.sum(axis=1) / np.linalg.norm(others, axis=1) / math.sqrt(2),
        "margin": np.log(wanted / (1 - wanted)).mean(axis=1),
    }[form]


@single_and_vector
@pytest.mark.parametrize("form", ["log_probability", "cosine", "margin"])
def test_absolute_attributes_pay_the_score_at_each_step(tiny_file, rows, form):
    options = dict(attribute_score=form, attribute_weight=1.7, target=TARGET)
    env = environment(tiny_file, rows, attribute_reward="absolute", **options)
    latents, results = edit(env, 12)
    scores = [1.7 * attribute_scores(load(tiny_file), now, form) for now in latents]
    np.testing.assert_allclose(paid(results, "attributes"), scores[1:], rtol=1e-3, atol=1e-3)
    # All else is as ever, and so is what is seen.
    relative = environment(tiny_file, rows, attribute_reward="relative", **options)
    _, expected = edit(relative, 12)
    for name in ("realism", "keep", "identity", "success"):
        np.testing.assert_array_equal(paid(results, name), paid(expected, name))
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_equal(one[0], other[0])
        np.testing.assert_equal(one[2:4], other[2:4])
        total = sum(np.asarray(part) for key, part in one[4]["rewards"].items() if key[0] != "_")
        np.testing.assert_allclose(one[1], total, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        paid(expected, "attributes"), np.diff(scores, axis=0), rtol=1e-3, atol=1e-3
    )


def test_absolute_returns_grow_with_the_episode(tiny_file):
    env = environment(
        tiny_file, attribute_reward="absolute", env_id="LatentEditContinuous-v0", target=TARGET
    )
    env.reset(seed=0)
    still = np.zeros(LATENT_DIM)
    rewards = [env.step(still)[1] for _ in range(5)]
    score = 1.3 * attribute_scores(load(tiny_file), latents_of(env), "log_probability")[0]
    assert rewards == pytest.approx([score] * 5, rel=1e-3)


# identity_weight ----------------------------------------------------------------------------------


def likeness(backbone, latents):
    """Of the images of ``latents`` ``[T, N, latent_dim]`` to the first, in 8 bits: ``[T, N]``."""
    shown = np.stack([images(backbone, now) for now in latents])
    starts = np.round(255 * shown[0]) / 255
    return -abs(shown - starts).mean(axis=(2, 3, 4))


@single_and_vector
@pytest.mark.parametrize("channels", [1, 3])
def test_identity_pays_what_likeness_to_the_start_was_lost(rows, channels):
    backbone = tiny_backbone(channels)
    env = environment(backbone, rows, identity_weight=3.0)
    for seed in (0, 1):  # the second episode has another start
        latents, results = edit(env, 12, seed)
        expected = 3.0 * likeness(backbone, latents)
        np.testing.assert_allclose(
            paid(results, "identity").cumsum(axis=0), expected[1:], atol=1e-4
        )
        assert expected[-1].max() < -0.05
        assert abs(expected[0]).max() < 3 * 0.5 / 255


def test_identity_is_in_the_reward_and_costs_nothing_else(tiny_file):
    _, results = edit(environment(tiny_file, identity_weight=2.0), 10)
    _, expected = edit(environment(tiny_file, identity_weight=0.0), 10)
    assert not paid(expected, "identity").any()
    for one, other in zip(results, expected, strict=True):
        np.testing.assert_equal(one[0], other[0])
        assert one[1] == pytest.approx(other[1] + one[4]["rewards"]["identity"], abs=1e-5)
    env = environment(tiny_file, identity_weight=2.0)
    env.reset(seed=0)
    env.step(0)
    assert env.unwrapped.evaluations == 2


def test_identity_of_a_row_is_to_its_own_start(tiny_file):
    env = environment(tiny_file, 3, steps=None, identity_weight=3.0)
    env.reset(seed=0)
    first = latents_of(env)
    env.step([0, 0, 0])
    env.reset(seed=50, options={"reset_mask": np.array([False, True, False])})
    first[1] = latents_of(env)[1]
    env.step([3, 3, 3])
    latents = np.stack([first, latents_of(env)])
    expected = 3.0 * likeness(load(tiny_file), latents)[1]
    total = env.core.potential(env.core.assess(env.core.latents, slice(None)), slice(None))
    np.testing.assert_allclose(total[3], expected, atol=1e-4)


def test_score_foretells_identity(tiny_file):
    env = environment(tiny_file, identity_weight=3.0)
    env.reset(seed=0)
    env.step(0)
    ahead = latents_of(env)
    ahead[0, 2] = np.clip(ahead[0, 2] + np.float32(0.7), -2.5, 2.5)
    both = np.concatenate([latents_of(env), ahead])
    scores = env.unwrapped.score(both)
    _, reward, *_, info = env.step(4)
    assert np.diff(scores["identity"])[0] == pytest.approx(info["rewards"]["identity"], abs=1e-5)
    assert np.diff(scores["potential"])[0] == pytest.approx(reward, abs=1e-3)


# directions="pca" ---------------------------------------------------------------------------------


def test_pca_directions_are_sklearns():
    backbone = tiny_backbone(channels=1)
    rows = direction_matrix(backbone, "pca", 4, num_probes=1024).numpy()
    assert rows.shape == (4, LATENT_DIM) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    latents = torch.randn(1024, LATENT_DIM, generator=torch.Generator().manual_seed(0)).numpy()
    pixels = images(backbone, latents).reshape(1024, -1)  # 16 pixels a side: nothing to average
    components = PCA(4, svd_solver="covariance_eigh").fit_transform(pixels)
    moves = LinearRegression(fit_intercept=False).fit(latents, components).coef_
    moves /= np.linalg.norm(moves, axis=1, keepdims=True)
    np.testing.assert_allclose(abs((moves * rows).sum(axis=1)), 1, atol=1e-4)


class Blocks(torch.nn.Module):
    """32x32 images whose left half follows the first coordinate, and a fine texture the second."""

    def forward(self, latents):
        images = torch.zeros(len(latents), 1, 32, 32)
        images[:, :, :, :16] += 0.1 * latents[:, 0, None, None, None]
        images[:, :, ::2] += 0.3 * latents[:, 1, None, None, None]
        images[:, :, 1::2] -= 0.3 * latents[:, 1, None, None, None]
        images[:, :, :16, 16:] += 0.05 * latents[:, 2, None, None, None]
        return images


def test_pca_leaves_out_what_is_finer_than_its_sketch():
    assert PCA_SIDE == 16
    tiny = tiny_backbone(1)
    backbone = type(tiny)(Blocks(), 4, classifier=tiny.classifier, schema=SCHEMA)
    rows = abs(direction_matrix(backbone, "pca", 2).numpy())
    np.testing.assert_allclose(rows, np.eye(4)[[0, 2]], atol=0.05)


def test_count_of_pca_directions(tiny_file):
    everything = direction_matrix(load(tiny_file), "pca")
    assert len(everything) == LATENT_DIM
    env = environment(tiny_file, directions="pca", num_directions=3)
    assert env.action_space.n == 6
    np.testing.assert_allclose(env.unwrapped.core.directions, everything[:3], atol=1e-5)
    with pytest.raises(ValueError, match=r"^num_directions is 9; allowed: 1 to 8$"):
        environment(tiny_file, directions="pca", num_directions=9)


# compile, bf16 ------------------------------------------------------------------------------------


def assert_close(one, other, atol):
    """The same edits, scored up to ``atol``."""
    assert len(one) == len(other)
    for value, expected in zip(plain(one), plain(other), strict=True):
        if isinstance(value, dict):
            assert value.keys() == expected.keys()
            assert_close(list(value.values()), list(expected.values()), atol)
        elif isinstance(value, list):
            assert_close(value, expected, atol)
        else:
            value, expected = (np.asarray(part).astype(float) for part in (value, expected))
            np.testing.assert_allclose(value, expected, atol=atol)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # what torch says of itself
def test_compiled_networks_score_alike(tiny_file):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    options = dict(identity_weight=1.0, observation=["latent", "attributes", "realism"])
    env, plain_env = (
        environment(tiny_file, 2, steps=None, compile=on, **options) for on in (True, False)
    )
    runs = [[e.reset(seed=0), *[e.step(a) for a in sampled(e, 5)]] for e in (env, plain_env)]
    for one, other in zip(*runs, strict=True):
        assert_close(one, other, 1e-4)
    # Rows that are reset alone, and gradients, go the usual way.
    mask = {"reset_mask": np.array([False, True])}
    assert_close(env.reset(options=mask), plain_env.reset(options=mask), 1e-4)
    latents = torch.randn(2, LATENT_DIM, requires_grad=True)
    env.core.assess(latents, slice(None)).realism.sum().backward()
    assert latents.grad.abs().sum() > 0
    assert counters["frames"] == {"total": 1, "ok": 1} and not counters["graph_break"]


@single_and_vector
def test_bf16_is_another_rounding(tiny_file, rows):
    runs = []
    for bf16 in (False, True):
        env = environment(tiny_file, rows, bf16=bf16, realism_score="logit", steps=100)
        latents, results = edit(env, 10)
        runs.append([latents, paid(results, "realism"), paid(results, "attributes")])
        assert results[0][0].dtype == np.float32
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    differences = [abs(one - other).max() for one, other in zip(*runs, strict=True)]
    assert 0 < differences[1] < 0.1 and 0 < differences[2] < 0.3
    # The rounding is of the networks alone, whose sum of steps does not drift.
    realisms = [realism(load(tiny_file), now) for now in (runs[0][0][0], runs[0][0][-1])]
    gained = [np.log(p / (1 - p)) for p in realisms]
    np.testing.assert_allclose(0.7 * (gained[1] - gained[0]), runs[1][1].sum(axis=0), atol=0.1)
