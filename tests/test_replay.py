from collections import deque

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from agents.replay import ReplayBuffer

WIDTH = 2


def transitions(first, count):
    """Distinct ones: the n-th has n in every field."""
    n = np.arange(first, first + count)
    wide = np.repeat(n[:, None], WIDTH, axis=1).astype(np.float32)
    return wide, wide + 0.5, n, n + 0.25, n / 1024


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(capacity, count):
    buffer = ReplayBuffer(capacity, WIDTH)
    buffer.add(*transitions(0, count))
    return buffer


@given(st.data(), st.integers(1, 12))
def test_it_holds_the_last_transitions(data, capacity):
    buffer, model, count = ReplayBuffer(capacity, WIDTH), deque(maxlen=capacity), 0
    for size in data.draw(st.lists(st.integers(0, capacity), max_size=8)):
        buffer.add(*transitions(count, size))
        model.extend(range(count, count + size))
        count += size
        assert len(buffer) == len(model)
        if model:  # 40 draws per transition: a miss has a chance below 1e-16
            seen = buffer.sample(40 * capacity, rng()).actions
            assert set(seen.tolist()) == set(model)


def test_fields_come_back_as_stored():
    batch = filled(8, 5).sample(50, rng())
    n = batch.actions
    assert n.dtype == torch.int64
    assert (batch.observations == n[:, None]).all()
    assert batch.observations.shape == (50, WIDTH)
    assert (batch.next_observations == n[:, None] + 0.5).all()
    assert (batch.rewards == n + 0.25).all()
    assert (batch.discounts == n / 1024).all()
    floats = (batch.observations, batch.next_observations, batch.rewards, batch.discounts)
    assert {field.dtype for field in floats} == {torch.float32}


def test_sampling_is_uniform_over_what_is_stored():
    actions = filled(100, 40).sample(40_000, rng()).actions
    counts = torch.bincount(actions, minlength=40)
    assert len(counts) == 40
    assert chisquare(counts.numpy()).pvalue > 1e-3


def test_sampling_is_reproducible():
    buffer = filled(50, 50)
    first, again, other = (buffer.sample(20, rng(seed)).actions for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_integers_and_doubles_are_stored_as_float32():
    buffer = ReplayBuffer(4, WIDTH)
    wide = np.array([[3, 200]], np.uint8)
    buffer.add(wide, wide.astype(np.float64), np.array([1]), np.array([2.5]), np.array([0.5]))
    batch = buffer.sample(1, rng())
    assert batch.observations.tolist() == batch.next_observations.tolist() == [[3.0, 200.0]]
