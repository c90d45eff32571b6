import dataclasses
import re

import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, SCHEMA, tiny_backbone
from torch import nn

from gan_backbones import Backbone
from gan_backbones.latents.directions import (
    DIRECTION_SETS,
    direction_matrix,
    direction_names,
    sefa_directions,
)
from gan_backbones.networks import ConditionalGenerator


@pytest.fixture(scope="module")
def tiny():
    return tiny_backbone()


class Flat(nn.Module):
    """A generator of grey 16x16 images that begins with ``first``."""

    def __init__(self, first, *rest):
        super().__init__()
        self.layers = nn.Sequential(first, *rest)

    def forward(self, latents):
        return torch.tanh(self.layers(latents)).reshape(len(latents), 1, 16, 16)


def test_coordinates_are_the_axes(tiny):
    assert torch.equal(direction_matrix(tiny, "coordinates"), torch.eye(LATENT_DIM))


def test_sefa_is_the_svd_of_the_first_layer(tiny):
    weight = tiny.generator.layers[0].weight.numpy().reshape(LATENT_DIM, -1)
    left, _, _ = np.linalg.svd(weight, full_matrices=False)
    rows = direction_matrix(tiny, "sefa", 3)
    assert rows.shape == (3, LATENT_DIM) and rows.dtype == torch.float32
    np.testing.assert_allclose(abs((rows.numpy() * left[:, :3].T).sum(axis=1)), 1, atol=1e-4)
    strength = np.linalg.norm(direction_matrix(tiny, "sefa").numpy() @ weight, axis=1)
    assert (np.diff(strength) < 0).all()


def test_sefa_leaves_out_a_conditional_generators_label():
    generator = ConditionalGenerator(LATENT_DIM, SCHEMA.size, 4, 3, 16)
    backbone = Backbone(generator, LATENT_DIM, schema=SCHEMA)
    weight = generator.layers[0].weight.flatten(1)[:LATENT_DIM].numpy()
    left, _, _ = np.linalg.svd(weight, full_matrices=False)
    rows = direction_matrix(backbone, "sefa", 3)
    assert rows.shape == (3, LATENT_DIM)
    np.testing.assert_allclose(abs((rows.numpy() * left[:, :3].T).sum(axis=1)), 1, atol=1e-4)


@pytest.mark.parametrize("first", [nn.Linear(6, 256), nn.Linear(6, 4), nn.Linear(40, 256)], ids=str)
def test_sefa_is_orthonormal_and_as_many_as_there_are(first):
    backbone = Backbone(Flat(first, nn.Linear(first.out_features, 256)), first.in_features)
    rows = direction_matrix(backbone, "sefa")
    assert len(rows) == min(24, first.in_features, first.out_features)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-5)
    most = min(first.in_features, first.out_features)
    assert len(direction_matrix(backbone, "sefa", most)) == most
    for count in (0, -1, most + 1, 2.0, "3"):
        message = f"num_directions is {count!r}; allowed: 1 to {most}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            direction_matrix(backbone, "sefa", count)


def test_sefa_of_a_convolution_is_that_of_its_transposed_equal():
    class Convolution(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, latents):
            return self.layer(latents[:, :, None, None])

    weight = torch.randn(5, 9, 1, 1, generator=torch.Generator().manual_seed(0))
    one, other = nn.ConvTranspose2d(5, 9, 1), nn.Conv2d(5, 9, 1)
    one.weight.data, other.weight.data = weight, weight.transpose(0, 1)
    rows = [sefa_directions(Backbone(Convolution(layer), 5), 5) for layer in (one, other)]
    np.testing.assert_allclose((rows[0] * rows[1]).sum(dim=1).abs(), 1, atol=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(7, 256), nn.Sequential(nn.Linear(2, 2))], ids=str)
def test_sefa_needs_a_linear_first_layer(layer):
    backbone = Backbone(Flat(layer), 8)
    with pytest.raises(ValueError, match="needs a generator that begins with a linear layer"):
        direction_matrix(backbone, "sefa")


def test_attribute_directions_have_unit_length_one_per_variant(tiny):
    rows = direction_matrix(tiny, "attributes")
    assert rows.shape == (SCHEMA.size, LATENT_DIM) and rows.dtype == torch.float32
    np.testing.assert_allclose(rows.norm(dim=1), 1, atol=1e-5)
    assert direction_matrix(tiny, "attributes") is rows  # made once


def centred_logits(backbone, latents):
    with torch.no_grad():
        logits = backbone.classifier(backbone.generator(latents))
    for columns in backbone.schema.slices.values():
        logits[:, columns] -= logits[:, columns].mean(dim=1, keepdim=True)
    return logits


def test_an_attribute_direction_raises_its_variant_and_spares_the_others(tiny):
    latents = torch.randn(500, LATENT_DIM, generator=torch.Generator().manual_seed(5))
    before = centred_logits(tiny, latents)

    def effect(direction):
        """Mean change of each logit."""
        return (centred_logits(tiny, latents + 0.5 * direction) - before).mean(dim=0)

    rng = torch.Generator().manual_seed(1)
    random = nn.functional.normalize(torch.randn(25, LATENT_DIM, generator=rng))
    random = torch.stack([effect(direction) for direction in random])
    rows = direction_matrix(tiny, "attributes")
    for columns in SCHEMA.slices.values():
        others = [i for i in range(SCHEMA.size) if not columns.start <= i < columns.stop]
        for column in range(columns.start, columns.stop):
            change = effect(rows[column])
            assert change[column] > 0.1
            # What a random direction spills when it is scaled to the same change of the variant.
            spills = random[:, others].norm(dim=1) / random[:, column].abs() * change[column]
            assert change[others].norm() < spills.median() / 2


def test_attribute_directions_of_a_linear_world_are_its_pseudo_inverse():
    class First(nn.Module):
        """Shows an image's first pixels as logits."""

        def forward(self, images):
            return torch.atanh(images.flatten(1)[:, : SCHEMA.size])

    linear = nn.Linear(12, 256, bias=False)
    torch.nn.init.normal_(linear.weight, 0, 0.3, generator=torch.Generator().manual_seed(2))
    backbone = Backbone(Flat(linear), 12, classifier=First(), schema=SCHEMA)
    rows = direction_matrix(backbone, "attributes")
    change = rows @ linear.weight[: SCHEMA.size].T.detach()
    for columns in SCHEMA.slices.values():
        change[:, columns] -= change[:, columns].mean(dim=1, keepdim=True)
    for columns in SCHEMA.slices.values():
        inside = change[columns, columns].diagonal()
        outside = np.delete(change[columns].numpy(), np.r_[columns], axis=1)
        assert (inside > 0).all() and (abs(outside).max(axis=1) < 0.15 * inside.numpy()).all()


def test_attribute_directions_of_a_generator_without_parameters():
    class Frozen(nn.Module):
        def forward(self, latents):
            return latents.repeat(1, 96).reshape(-1, 3, 16, 16)

    classifier = tiny_backbone().classifier
    backbone = Backbone(Frozen(), LATENT_DIM, classifier=classifier, schema=SCHEMA)
    assert direction_matrix(backbone, "attributes").shape == (SCHEMA.size, LATENT_DIM)


@pytest.mark.parametrize("missing", ["classifier", "schema"])
def test_attribute_directions_need_a_classifier(tiny, missing):
    backbone = dataclasses.replace(tiny, **{missing: None})
    with pytest.raises(ValueError, match="needs a backbone with a classifier and a schema"):
        direction_matrix(backbone, "attributes")


def test_a_given_matrix_is_used_as_it_is(tiny):
    given = np.arange(2 * LATENT_DIM, dtype=np.float32).reshape(2, LATENT_DIM)
    for matrix in (given, given.tolist(), tuple(map(tuple, given.tolist()))):
        rows = direction_matrix(tiny, matrix)
        assert rows.dtype == torch.float32 and np.array_equal(rows, given)
        assert not np.shares_memory(rows.numpy(), given)


NUMBERS = "directions is not a matrix of numbers; expected (K, 8) as nested lists"


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ([1.0] * 8, "directions has shape (8,); expected (K, 8) with K >= 1"),
        ([[1.0] * 7], "directions has shape (1, 7); expected (K, 8) with K >= 1"),
        ([], "directions has shape (0,); expected (K, 8) with K >= 1"),
        (None, "directions has shape (); expected (K, 8) with K >= 1"),
        ([[1.0] * 7 + [float("nan")]], "directions holds values that are not finite"),
        ([[1.0] * 7 + [1e300]], "directions holds values that are not finite"),
        ([[1.0] * 8, [1.0]], NUMBERS),
        ([["up"] * 8], NUMBERS),
        ({"a": 1}, NUMBERS),
        ("", "directions is ''; allowed: coordinates, pca, sefa, attributes, or a matrix"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_bad_directions(tiny, directions, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        direction_matrix(tiny, directions)


@pytest.mark.parametrize("directions", ["coordinates", "attributes", [[1.0] * LATENT_DIM]], ids=str)
def test_a_count_is_for_pca_and_sefa_alone(tiny, directions):
    message = "num_directions is 3; it applies to directions='pca' and 'sefa' alone"
    with pytest.raises(ValueError, match=f"^{message}$"):
        direction_matrix(tiny, directions, 3)


@pytest.mark.parametrize("directions", DIRECTION_SETS)
def test_every_direction_has_a_name_of_its_own(tiny, directions):
    count = len(direction_matrix(tiny, directions))
    names = direction_names(SCHEMA, directions, count)
    assert len(names) == len(set(names)) == count
    if directions == "attributes":  # in the order of the classifier's logits
        for one_hot, (attribute, variant) in zip(np.eye(count), names, strict=True):
            assert one_hot[SCHEMA.slices[attribute]][SCHEMA.index(attribute, variant)] == 1
    else:
        number = {"coordinates": "z[5]", "pca": "pca 5", "sefa": "sefa 5"}[directions]
        assert names[5] == (number,)
