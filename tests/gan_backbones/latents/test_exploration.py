"""Walks, sweeps, nearest images and changing coordinates, against closed forms and brute force."""

import math

import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, SCHEMA, conditional_backbone, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_backbones import AttributeSchema, BackboneError
from gan_backbones.latents.exploration import (
    changing_coordinates,
    coordinate_effects,
    coordinate_sweep,
    generate,
    label_grid,
    lerp,
    nearest_neighbours,
    slerp,
    truncate,
)
from gan_backbones.latents.sampling import draw_latents


def test_latents_are_the_priors_and_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    latents = draw_latents(4000, 5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(latents, draw_latents(4000, 5, seed=3))
    assert not torch.equal(latents, draw_latents(4000, 5, seed=4))
    assert latents.mean(dim=0).abs().max() < 0.06
    assert (latents.std(dim=0) - 1).abs().max() < 0.04


def test_lerp_is_the_straight_line():
    start, end = torch.tensor([0.0, 4.0]), torch.tensor([2.0, -4.0])
    assert lerp(start, end, 5).tolist() == [[0, 4], [0.5, 2], [1, 0], [1.5, -2], [2, -4]]


def test_slerp_is_the_arc_in_the_plane():
    """From angle 0.2 to 1.4, radius 3: the closed form."""
    angles = np.linspace(0.2, 1.4, 7)
    circle = 3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = slerp(torch.tensor(circle[0]).float(), torch.tensor(circle[-1]).float(), 7)
    assert np.allclose(points.numpy(), circle, atol=1e-6)


def test_slerp_in_whites_formula():
    """Norms that differ: sin((1-t)w)/sin(w) a + sin(tw)/sin(w) b, w between the directions."""
    a, b = draw_latents(2, 100, seed=0).double()
    w = math.acos((a @ b / (a.norm() * b.norm())).item())
    expected = [
        math.sin((1 - t) * w) / math.sin(w) * a + math.sin(t * w) / math.sin(w) * b
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert torch.allclose(slerp(a.float(), b.float(), 5).double(), torch.stack(expected), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    dimension=st.integers(2, 200),
    count=st.integers(2, 20),
    scale=st.floats(1e-3, 1e3),
)
def test_slerp_keeps_the_norm_on_the_sphere_and_its_ends_exact(seed, dimension, count, scale):
    a, b = draw_latents(2, dimension, seed)
    a, b = scale * a / a.norm(), scale * b / b.norm()
    for walk in (slerp, lerp):
        points = walk(a, b, count)
        assert points.shape == (count, dimension)
        assert points.dtype == torch.float32
        assert torch.equal(points[0], a)
        assert torch.equal(points[-1], b)
    assert torch.allclose(slerp(a, b, count).norm(dim=1), a.norm().expand(count), rtol=1e-4)
    steps = slerp(a, b, count).diff(dim=0).norm(dim=1)
    assert torch.allclose(steps, steps.mean().expand(count - 1), rtol=1e-2, atol=1e-4 * scale)


def test_slerp_at_its_limits():
    a = draw_latents(1, 9)[0]
    assert torch.equal(slerp(a, 2 * a, 3), lerp(a, 2 * a, 3))
    assert torch.equal(slerp(a, a, 3), a.repeat(3, 1))
    near = a + 1e-5 * draw_latents(1, 9, seed=1)[0]
    assert torch.allclose(slerp(a, near, 3), lerp(a, near, 3), atol=1e-6)
    with pytest.raises(ValueError, match=r"^slerp needs two latents that do not point in opposite"):
        slerp(a, -a, 3)
    with pytest.raises(ValueError, match=r"^slerp needs two latents that are not zero$"):
        slerp(a, torch.zeros(9), 3)
    with pytest.raises(ValueError, match=r"^count is 1; it must be 2 or more$"):
        slerp(a, near, 1)


def test_a_sweep_changes_one_coordinate():
    latent = draw_latents(1, 6)[0]
    before = latent.clone()
    swept = coordinate_sweep(latent, 4, [-50, 0, 50.0])
    assert swept[:, 4].tolist() == [-50, 0, 50]
    others = [0, 1, 2, 3, 5]
    assert torch.equal(swept[:, others], latent[others].repeat(3, 1))
    assert torch.equal(latent, before)
    with pytest.raises(ValueError, match=r"^coordinate is 6; allowed: 0 to 5$"):
        coordinate_sweep(latent, 6, [0])


def test_truncation_scales():
    latents = draw_latents(3, 5)
    assert torch.equal(truncate(latents, 0.5), latents / 2)
    assert not truncate(latents, 0).any()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 7),
    st.integers(1, 12),
    st.integers(0, 1000),
    st.booleans(),
)
def test_nearest_neighbours_by_brute_force(size, count, chunk, seed, whole):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, size + 1))
    pool, queries = rng.integers(0, 256, (size, 4)), rng.integers(0, 256, (count, 4))
    if whole:  # many at the same distance
        pool, queries = pool // 128, queries // 128
    distances = np.sqrt(((queries[:, None] - pool[None]) ** 2).sum(axis=2))
    expected = distances.argsort(axis=1, kind="stable")[:, :k]
    indices, found = nearest_neighbours(
        torch.from_numpy(queries).byte(), torch.from_numpy(pool).byte(), k, chunk
    )
    assert np.array_equal(indices.numpy(), expected)
    assert np.allclose(found.numpy(), np.take_along_axis(distances, expected, 1), rtol=1e-5)


def test_nearest_neighbours_finds_a_copy_at_distance_zero():
    pool = 100 + 1e-3 * draw_latents(50, 300)
    indices, distances = nearest_neighbours(pool[[7]], pool, 2)
    assert indices[0, 0] == 7
    assert distances[0, 0] == 0
    assert distances[0, 1] > 0
    for k in (0, 51):
        with pytest.raises(ValueError, match=f"^k is {k}; allowed: 1 to 50, the size of the pool$"):
            nearest_neighbours(pool, pool, k)


def test_effects_of_a_linear_classifier():
    """logits = W z: an attribute's logits change by 2 * distance * W, less its common part."""
    schema = AttributeSchema({"hair": ["a", "b", "c"], "hat": ["no", "yes"]})
    weights = draw_latents(5, 7, seed=5)
    effects = coordinate_effects(lambda z: z @ weights.T, schema, draw_latents(11, 7), 1.5)
    for row, columns in enumerate((weights[:3], weights[3:])):
        expected = 3 * (columns - columns.mean(dim=0)).abs().mean(dim=0)
        assert torch.allclose(effects[row], expected, atol=1e-5)


def test_a_common_offset_of_an_attribute_is_no_change():
    schema = AttributeSchema({"hair": ["a", "b"], "hat": ["no", "yes"]})

    def score(z):
        """Coordinate 0 raises both hairs alike, 1 a hair, 2 the square of nothing, 3 the hat."""
        return torch.stack([9 * z[:, 0], 9 * z[:, 0] + z[:, 1], z[:, 3], -z[:, 3]], dim=1)

    effects = coordinate_effects(score, schema, draw_latents(8, 4))
    assert torch.allclose(effects, torch.tensor([[0.0, 2, 0, 0], [0, 0, 0, 4]]), atol=1e-5)


def test_the_changing_coordinates_of_a_backbone():
    backbone = tiny_backbone()
    found = changing_coordinates(backbone, count=3, seed=1, latents=16)
    assert list(found) == list(SCHEMA.names)
    latents = draw_latents(16, LATENT_DIM, seed=1)
    for name, ranking in found.items():
        assert len(ranking) == 3
        assert [effect for _, effect in ranking] == sorted((e for _, e in ranking), reverse=True)
        every = []
        for coordinate in range(LATENT_DIM):
            up, down = latents.clone(), latents.clone()
            up[:, coordinate], down[:, coordinate] = 2, -2
            with torch.no_grad():
                logits = [backbone.classifier(backbone.generator(z)) for z in (up, down)]
            change = (logits[0] - logits[1])[:, SCHEMA.slices[name]]
            every.append((change - change.mean(dim=1, keepdim=True)).abs().mean().item())
        best = np.argsort(every)[::-1][:3]
        assert [coordinate for coordinate, _ in ranking] == best.tolist()
        assert [e for _, e in ranking] == pytest.approx([every[i] for i in best], rel=1e-4)
    backbone.classifier = None
    with pytest.raises(ValueError, match=r"^the changing coordinates need a backbone with class"):
        changing_coordinates(backbone)


def test_images_are_whole_numbers():
    backbone, latents = tiny_backbone(), draw_latents(3, LATENT_DIM)
    images = generate(backbone, latents)
    assert images.dtype == torch.uint8
    with torch.no_grad():
        exact = (backbone.generator(latents) + 1) * 127.5
    assert (images - exact).abs().max() <= 0.5 + 1e-4


def test_the_grid_of_labels_and_noises():
    backbone, latents = conditional_backbone(), draw_latents(2, LATENT_DIM)
    names, images = label_grid(backbone, latents)
    assert names == [f"{a}\n{v}" for a, variants in SCHEMA.variants.items() for v in variants]
    assert images.shape == (2, SCHEMA.size, 3, 16, 16)
    label = {"hair": "fro", "hairColor": "a55728", "glasses": "none"}
    assert torch.equal(images[:, 2], generate(backbone.condition(label), latents))
    other = {**label, "hairColor": "2c1b18"}
    assert not torch.equal(images[:, 2], generate(backbone.condition(other), latents))
    with pytest.raises(BackboneError, match="only a ConditionalGenerator takes a label"):
        label_grid(tiny_backbone(), latents)
