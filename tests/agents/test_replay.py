from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import agents.replay
from agents.replay import ReplayBuffer, SumTree

SPACE = spaces.Box(0, 1e6, (2,), np.float32)
GAMMA = 0.5  # so that float32 sums are exact


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def seen(*values):
    """Observations: each the same number in both places."""
    return {"": torch.tensor(values, dtype=torch.float32)[:, None].repeat(1, 2)}


def held(buffer, draws=60):
    """All transitions in the buffer; a miss has a chance below 1e-20."""
    batch = buffer.sample(draws * max(len(buffer), 1), rng())
    assert (batch.observations[:, 0] == batch.observations[:, 1]).all()
    columns = (
        batch.observations[:, 0],
        batch.actions,
        batch.rewards,
        batch.next_observations[:, 0],
        batch.discounts,
    )
    return Counter(set(zip(*(column.tolist() for column in columns), strict=True)))


class Naive:
    """What the buffer should hold, one number at a time, in lists."""

    def __init__(self, capacity, num_envs, n_steps):
        self.capacity, self.n_steps = capacity, n_steps
        self.places = capacity + 2 * (n_steps + 1) * num_envs
        self.stored, self.finished = 0, []
        self.current = [None] * num_envs
        self.unfinished = [[] for _ in range(num_envs)]

    def begin(self, row, observation):
        self.current[row] = self.stored, observation
        self.stored += 1

    def step(self, rows, actions, rewards, terminated, truncated, observations):
        finished = []
        for column, row in enumerate(rows):
            for transition in self.unfinished[row]:
                transition["rewards"].append(rewards[column])
            number, observation = self.current[row]
            self.unfinished[row].append(
                dict(number=number, obs=observation, a=actions[column], rewards=[rewards[column]])
            )
        needed = min(t["number"] for transitions in self.unfinished for t in transitions)
        for column, row in enumerate(rows):
            self.begin(row, observations[column])
            ended = terminated[column] or truncated[column]
            for transition in list(self.unfinished[row]):
                steps = len(transition["rewards"])
                if not (ended or steps == self.n_steps):
                    continue
                self.unfinished[row].remove(transition)
                value = sum(GAMMA**k * r for k, r in enumerate(transition["rewards"]))
                discount = 0.0 if terminated[column] else GAMMA**steps
                finished.append(
                    (
                        (-steps, column),
                        (transition["obs"], transition["a"], value, observations[column], discount),
                        needed,
                    )
                )
        self.finished += [(what, needed) for _, what, needed in sorted(finished)]

    def held(self):
        last = self.finished[-self.capacity :]
        return Counter({what for what, needed in last if needed >= self.stored - self.places})


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    capacity=st.integers(1, 15),
    num_envs=st.integers(1, 3),
    n_steps=st.integers(1, 4),
    reset_later=st.booleans(),
    alpha=st.sampled_from([None, 0.0, 0.5]),
)
def test_it_holds_what_happened_last(data, capacity, num_envs, n_steps, reset_later, alpha):
    capacity = max(capacity, num_envs)
    buffer = ReplayBuffer(SPACE, capacity, num_envs, n_steps, GAMMA, alpha)
    model = Naive(capacity, num_envs, n_steps)
    count = 0

    def number():
        nonlocal count
        count += 1
        return float(count)

    def begin(rows):
        if len(rows):
            first = [number() for _ in rows]
            buffer.begin(np.array(rows), seen(*first))
            for row, observation in zip(rows, first, strict=True):
                model.begin(row, observation)

    begin(range(num_envs))
    waiting = np.zeros(num_envs, dtype=bool)
    ends = st.lists(st.sampled_from("---tu"), min_size=num_envs, max_size=num_envs)
    for flags in data.draw(st.lists(ends, max_size=40)):
        rows = np.flatnonzero(~waiting)
        flags = np.array(flags)[rows]
        step = dict(
            actions=rng(count).initial_seed() + np.arange(len(rows)),
            rewards=np.array([number() for _ in rows]),
            terminated=flags == "t",
            truncated=flags == "u",
        )
        observations = [number() for _ in rows]
        if len(rows):
            buffer.add(rows, **step, observations=seen(*observations))
            model.step(
                rows.tolist(),
                **{k: v.tolist() for k, v in step.items()},
                observations=observations,
            )
        ended = np.zeros(num_envs, dtype=bool)
        ended[rows] = flags != "-"
        begin(np.flatnonzero(waiting if reset_later else ended).tolist())
        waiting = ended if reset_later else np.zeros_like(ended)
        expected = model.held()
        assert len(buffer) == sum(expected.values())
        assert buffer.added == len(model.finished)
    if len(buffer):
        assert held(buffer) == model.held()


def walk(n_steps, ends, length=4, **options):
    """One episode with rewards 1, 2, 4, 8, observations 0 to 4 and actions 10 to 13."""
    buffer = ReplayBuffer(SPACE, 50, 1, n_steps, 0.5, **options)
    buffer.begin(np.array([0]), seen(0))
    for step in range(length):
        last = np.array([step == length - 1])
        buffer.add(
            np.array([0]),
            np.array([10 + step]),
            np.array([2.0**step]),
            last & (ends == "terminated"),
            last & (ends == "truncated"),
            seen(step + 1),
        )
    return buffer


@pytest.mark.parametrize(
    ("ends", "discounts"),
    [("terminated", (0.125, 0, 0, 0)), ("truncated", (0.125, 0.125, 0.25, 0.5))],
)
def test_three_steps_by_hand(ends, discounts):
    assert held(walk(3, ends)) == Counter(
        {
            (0, 10, 1 + 2 / 2 + 4 / 4, 3, discounts[0]),
            (1, 11, 2 + 4 / 2 + 8 / 4, 4, discounts[1]),
            (2, 12, 4 + 8 / 2, 4, discounts[2]),
            (3, 13, 8, 4, discounts[3]),
        }
    )


def test_an_unfinished_transition_waits_and_is_dropped_by_a_new_episode():
    buffer = walk(3, "never", length=2)
    assert len(buffer) == 0
    buffer.begin(np.array([0]), seen(7))
    one = np.array([0])
    buffer.add(one, one, np.array([1.0]), one > 0, one == 0, seen(8))
    assert held(buffer) == Counter({(7, 0, 1, 8, 0.5)})


def filled(count=100, **options):
    """One long episode; the n-th transition has n in every field."""
    buffer = ReplayBuffer(SPACE, count, **options)
    buffer.begin(np.array([0]), seen(0))
    no = np.zeros(1, dtype=bool)
    for n in range(count):
        buffer.add(np.array([0]), np.array([n]), np.array([n]), no, no, seen(n + 1))
    return buffer


def test_sampling_is_uniform_over_what_is_stored():
    actions = filled(40).sample(40_000, rng()).actions
    counts = torch.bincount(actions, minlength=40)
    assert len(counts) == 40
    assert chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [None, 0.6])
def test_sampling_is_reproducible(alpha):
    buffer = filled(alpha=alpha)
    first, again, other = (buffer.sample(20, rng(seed)).actions for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_key_is_stored_in_its_own_dtype():
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (2, 3, 1), np.uint8),
            "wide": spaces.Box(-1, 1, (4,), np.float64),
        }
    )
    buffer = ReplayBuffer(space, 4)
    image, wide = torch.full((1, 2, 3, 1), 200, dtype=torch.uint8), torch.rand(1, 4).double()
    one = np.array([0])
    buffer.begin(one, {"image": image, "wide": wide})
    buffer.add(one, one, one, one > 0, one > 0, {"image": image + 1, "wide": wide + 1})
    batch = buffer.sample(1, rng())
    for observations, more in ((batch.observations, 0), (batch.next_observations, 1)):
        assert torch.equal(observations["image"], image + more)
        assert torch.equal(observations["wide"], wide + more)
        assert observations["image"].dtype == torch.uint8
        assert observations["wide"].dtype == torch.float64


# Priorities ---------------------------------------------------------------------------------------


def test_new_transitions_are_drawn_as_the_highest_are():
    buffer = filled(4, alpha=0.5)
    buffer.update_priorities(torch.arange(4), torch.tensor([1.0, 9.0, 4.0, 1.0]))
    no = np.zeros(1, dtype=bool)
    buffer.add(np.array([0]), np.array([5]), np.array([5]), no, no, seen(6))  # in place of row 0
    actions = buffer.sample(90_000, rng()).actions
    counts = torch.bincount(actions, minlength=6).numpy() / 90_000
    # Square roots: 3 of the new one, which has the highest priority, and 3, 2 and 1.
    np.testing.assert_allclose(counts, np.array([0, 3, 2, 1, 0, 3]) / 9, atol=0.002)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_probabilities_and_weights_against_numpy(alpha, beta):
    count = 37
    buffer = filled(count, alpha=alpha)
    errors = np.random.default_rng(0).normal(size=count).astype(np.float32)
    buffer.update_priorities(torch.arange(count), torch.from_numpy(errors))
    priorities = (np.abs(errors.astype(np.float64)) + 1e-6) ** alpha
    probabilities = priorities / priorities.sum()
    batch = buffer.sample(100_000, rng(), beta)
    counts = np.bincount(batch.actions, minlength=count)
    # From equal shares of the total: each count is within 2 of what is expected.
    np.testing.assert_allclose(counts, 100_000 * probabilities, atol=2)
    weights = (count * probabilities) ** -beta
    drawn = weights[batch.actions.numpy()]
    np.testing.assert_allclose(batch.weights, drawn / drawn.max(), rtol=1e-5)
    assert torch.equal(batch.indices, batch.actions)  # here the n-th lies in row n


@settings(deadline=None)
@given(
    capacity=st.integers(1, 20),
    changes=st.lists(st.tuples(st.integers(0, 19), st.floats(0, 100)), min_size=1, max_size=60),
)
def test_a_sum_tree_against_a_list(capacity, changes):
    tree, model = SumTree(capacity), np.zeros(capacity)
    for row, priority in changes:
        tree.set(np.array([row % capacity]), np.array([priority]))
        model[row % capacity] = priority
    assert (tree.leaves[:capacity] == model).all()
    if model.sum() > 1e-300:
        rows, probabilities = tree.sample(500, rng())
        assert (model[rows] > 0).all()
        np.testing.assert_allclose(probabilities, model[rows] / model.sum())
        expected = 500 * model / model.sum()
        assert (np.abs(np.bincount(rows, minlength=capacity) - expected) <= 2).all()


# Memory -------------------------------------------------------------------------------------------


def test_memory_is_told(caplog):
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with caplog.at_level("INFO", logger="agents"):
        buffer = ReplayBuffer(image, 1000, num_envs=2)
    # Of each transition 12288 bytes of one image, not two, and 40 of numbers.
    assert buffer.nbytes == (1000 + 2 * 2 * 2) * 12288 + 1000 * 40
    assert caplog.messages == ["a replay buffer of 1000 transitions takes up to 0.0124 GB"]


def test_a_buffer_larger_than_memory_is_refused(monkeypatch):
    there = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}
    monkeypatch.setattr(agents.replay.os, "sysconf", there.__getitem__)
    monkeypatch.setattr(torch, "empty", None)  # nothing is allocated
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(ValueError) as caught:
        ReplayBuffer(image, 2_000_000)
    assert str(caught.value) == (
        "a replay buffer of 2000000 transitions needs 24.7 GB of memory; cpu has 17.2 GB"
    )
