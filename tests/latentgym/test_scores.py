import math

import numpy as np
import pytest
import torch
from backbones import SCHEMA
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from latentgym.scores import (
    ATTRIBUTE_SCORES,
    LOG_FLOOR,
    REALISM_SCORES,
    AttributeColumns,
    target_weights,
    weighted_mean,
)

COLUMNS = list(SCHEMA.slices.values())
ATTRIBUTES = AttributeColumns(COLUMNS)
BOB = torch.from_numpy(SCHEMA.encode({"hair": "bob"}))[None]
logits = arrays(np.float32, (3, SCHEMA.size), elements=st.floats(-80, 80, width=32))


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


def score(name, logits, wanted):
    weights = target_weights(wanted).expand(len(logits), -1)
    log_probabilities = ATTRIBUTES.log_probabilities(logits)
    return ATTRIBUTE_SCORES[name](log_probabilities, weights, ATTRIBUTES.same_attribute)


def test_same_attribute_is_one_within_each_attribute():
    expected = torch.block_diag(*[torch.ones(size, size) for size in SCHEMA.sizes])
    assert torch.equal(ATTRIBUTES.same_attribute, expected)
    assert ATTRIBUTES.starts.tolist() == [part.start for part in COLUMNS]


@given(logits)
def test_labels_and_one_hot_agree_with_numpy(values):
    labels = ATTRIBUTES.labels(torch.from_numpy(values))
    expected = np.stack([values[:, part].argmax(axis=1) for part in COLUMNS], axis=1)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(ATTRIBUTES.one_hot(labels), SCHEMA.encode_indices(expected))


@given(logits)
def test_log_probabilities_are_a_softmax_within_each_attribute(values):
    result = ATTRIBUTES.log_probabilities(torch.from_numpy(values))
    assert result.shape == values.shape and (result <= 0).all() and (result >= LOG_FLOOR).all()
    for columns in COLUMNS:
        part = values[:, columns].astype(np.float64)
        part = part - part.max(axis=1, keepdims=True)
        expected = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(result[:, columns], expected.clip(LOG_FLOOR), atol=1e-4)


@given(logits, st.sampled_from(sorted(ATTRIBUTE_SCORES)))
def test_attribute_scores_are_finite_and_so_are_their_gradients(values, name):
    values = torch.from_numpy(values).requires_grad_(True)
    for target in ({"hair": "bun"}, {"hair": "bob", "glasses": "none"}, {}):
        result = score(name, values, torch.from_numpy(SCHEMA.encode(target))[None])
        (gradient,) = torch.autograd.grad(result.sum(), values)
        assert torch.isfinite(result).all() and torch.isfinite(gradient).all()
        assert (gradient[:, COLUMNS[1]] == 0).all()  # hair colour is free
        if not target:
            assert (result == 0).all()


@pytest.mark.parametrize("name", ATTRIBUTE_SCORES)
def test_attribute_scores_rise_with_the_target_and_ignore_the_free(name):
    values = torch.randn(50, SCHEMA.size, generator=torch.Generator().manual_seed(0))
    more = values + 0.1 * BOB
    assert (score(name, more, BOB) > score(name, values, BOB)).all()
    other = values.clone()
    other[:, 3:] *= -2
    assert torch.equal(score(name, other, BOB), score(name, values, BOB))


def test_attribute_scores_by_hand():
    values = tensor([math.log(2), math.log(1), math.log(1), 0, math.log(3), 0, 0])[:1]
    both = torch.from_numpy(SCHEMA.encode({"hair": "bob", "hairColor": "2c1b18"}))[None]
    expected = {
        "log_probability": (math.log(1 / 2) + math.log(3 / 4)) / 2,
        # p = (1/2, 1/4, 1/4, 1/4, 3/4) against (1, 0, 0, 0, 1)
        "cosine": 100 * (1 / 2 + 3 / 4) / math.sqrt(2 * (1 / 4 + 3 / 16 + 9 / 16)),
        "margin": (math.log(1) + math.log(3)) / 2,
    }
    for name, value in expected.items():
        assert score(name, values, both).item() == pytest.approx(value, rel=1e-5, abs=1e-6)


def test_log_probability_is_bounded_below_and_climbable_where_cosine_is_flat():
    values = tensor([-100, 0, 0, 0, 0, 0, 0])[:1]
    assert score("log_probability", values, BOB).item() == LOG_FLOOR
    slopes = {}
    for name in ATTRIBUTE_SCORES:
        far = tensor([-10, 0, 0, 0, 0, 0, 0])[:1].requires_grad_(True)
        slopes[name] = torch.autograd.grad(score(name, far, BOB).sum(), far)[0][0, 0].item()
    assert slopes["log_probability"] == pytest.approx(1, abs=1e-3)
    assert slopes["margin"] == pytest.approx(1, abs=1e-3)
    assert slopes["cosine"] < 0.01


@pytest.mark.parametrize("odds", [-12, -5, 0, 5, 9, 12])
def test_margin_keeps_its_digits_where_the_target_is_certain(odds):
    values = tensor([odds + math.log(2), 0, 0, 0, 0, 0, 0])[:1]  # two rivals, as likely
    assert score("margin", values, BOB).item() == pytest.approx(odds, abs=1e-4)


def test_margin_is_cut_off_on_both_sides():
    values = torch.stack([1000 * BOB[0], -1000 * BOB[0]])
    expected = [-LOG_FLOOR - math.log(2), LOG_FLOOR]  # two rivals
    assert score("margin", values, BOB).tolist() == pytest.approx(expected)


def test_weighted_mean_is_per_row_and_zero_without_a_target():
    values = tensor([1, 2, 3], [4, 5, 6], [7, 8, 9])
    wanted = tensor([1, 0, 1], [0, 1, 0], [0, 0, 0])
    assert weighted_mean(values, target_weights(wanted)).tolist() == [2, 5, 0]


def test_realism_scores_by_hand():
    values = tensor(-1e4, -1, 0, 2, 1e4)
    assert REALISM_SCORES["logit"](values).tolist() == values.tolist()
    p = [0, 1 / (1 + math.e), 0.5, 1 / (1 + math.exp(-2)), 1]
    assert REALISM_SCORES["probability"](values).tolist() == pytest.approx([100 * v for v in p])
    expected = [LOG_FLOOR, *map(math.log, p[1:])]
    assert REALISM_SCORES["log_probability"](values).tolist() == pytest.approx(expected)


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=9, unique=True))
def test_realism_scores_never_fall_with_the_logit(values):
    for form in REALISM_SCORES.values():
        assert (form(tensor(*sorted(values))).diff() >= 0).all()
