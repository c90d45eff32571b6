"""How images are divided, and what is said about it."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_backbones.datasets import ImageDataset, describe, find_held_out, list_damaged, split
from gan_backbones.schema import AttributeSchema


class Numbers(ImageDataset):
    """A data set of labels without images."""

    def __init__(self, count, sizes=(), seed=0, test_rows=None):
        rng = np.random.default_rng(seed)
        columns = [rng.choice(size, count, p=rng.dirichlet(np.ones(size))) for size in sizes]
        schema = AttributeSchema({f"a{i}": range(size) for i, size in enumerate(sizes)})
        labels = np.stack(columns, axis=1) if sizes else None
        super().__init__(8, 1, schema if sizes else None, labels)
        self.count, self.test_rows = count, test_rows

    def __len__(self):
        return self.count


def share_errors(data, parts):
    """By how many images each variant's number in each part is off its share."""
    return np.concatenate(
        [
            np.bincount(column[rows], minlength=column.max() + 1)
            - np.bincount(column) * len(rows) / len(data)
            for column in data.labels.T
            for rows in parts.values()
        ]
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 400), st.lists(st.integers(2, 9), max_size=4), st.integers(0, 2**64))
def test_a_split_is_disjoint_complete_and_of_the_sizes_asked_for(count, sizes, seed):
    data = Numbers(count, sizes)
    parts = split(data, (0.5, 0.3, 0.2), seed)
    assert list(parts) == ["train", "judge", "held_out"]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(count))
    assert len(parts["held_out"]) == round(count * 0.2)
    assert len(parts["judge"]) == round((count - len(parts["held_out"])) * 0.3 / 0.8)
    again = split(data, (0.5, 0.3, 0.2), seed)
    assert all(np.array_equal(parts[part], again[part]) for part in parts)


def test_at_most_ten_thousand_are_held_out():
    sizes = {part: len(rows) for part, rows in split(Numbers(52_000)).items()}
    assert sizes == {"train": 31_500, "judge": 10_500, "held_out": 10_000}


def test_every_part_has_its_share_of_every_variant():
    data = Numbers(1500, [3, 4, 9, 5])
    data.labels[:, 0] = np.arange(1500) // 500  # alike: none is rarer than the others
    stratified = np.abs(share_errors(data, split(data)))
    order = np.random.default_rng(0).permutation(1500)
    at_random = dict(enumerate(np.split(order, [900, 1200])))
    assert stratified.mean() < 0.6
    assert stratified.max() < 3
    assert stratified.mean() < np.abs(share_errors(data, at_random)).mean() / 4
    assert not np.array_equal(split(data)["train"], split(data, seed=1)["train"])


def test_three_images_of_a_variant_are_enough_for_every_part():
    data = Numbers(200, [4, 2])
    data.labels[:, 1] = np.isin(np.arange(200), [5, 77, 199])
    for seed in range(5):
        counts = [data.labels[rows, 1].sum() for rows in split(data, seed=seed).values()]
        assert counts == [1, 1, 1]


def test_a_folder_sorted_by_kind_is_divided_fairly():
    data = Numbers(1000, [5])
    data.labels = np.sort(data.labels, axis=0)
    parts = split(data)
    assert np.abs(share_errors(data, parts)).max() < 2
    # The first of a part are as good as any: they are looked at where all would take too long.
    first = np.bincount(data.labels[parts["train"][:200], 0], minlength=5) / 200
    assert np.abs(first - np.bincount(data.labels[:, 0]) / 1000).max() < 0.1


def test_an_official_test_part_is_held_out():
    data = Numbers(100, [3], test_rows=np.arange(70, 90))
    parts = split(data, (0.5, 0.25, 0.25))
    assert sorted(parts["held_out"].tolist()) == list(range(70, 90))
    assert (len(parts["train"]), len(parts["judge"])) == (53, 27)
    assert np.abs(share_errors(data, {part: parts[part] for part in ("train", "judge")})).max() < 5


def test_a_split_is_the_same_for_good():
    """Cards record its arguments only: other numbers would measure with images trained on."""
    data = Numbers(500, [2, 3])
    data.labels = np.stack([np.arange(500) % 2, np.arange(500) // 200], axis=1)
    rows = np.concatenate(list(split(data, seed=7).values()))
    assert zlib.crc32(rows.astype("<i8").tobytes()) == 1554413077


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.6, 0.4, 0.0), (1.2, -0.1, -0.1), (60, 20, 20)])
def test_shares_that_make_no_sense(shares):
    with pytest.raises(ValueError, match=r"^split is \(.*\); expected three positive shares"):
        split(Numbers(10), shares)


def test_cards_tell_what_was_held_out():
    data = Numbers(52_000, [3])
    card = {"split": {"shares": [0.8, 0.1, 0.1], "seed": 5}}
    expected = split(data, (0.8, 0.1, 0.1), 5)["held_out"]
    assert np.array_equal(find_held_out(data, card), expected)
    # Before it was recorded, as for the backbones that ship.
    assert np.array_equal(find_held_out(data, {}), np.arange(42_000, 52_000))
    assert np.array_equal(find_held_out(Numbers(70), {}), np.arange(56, 70))


def test_a_data_set_is_described():
    data = Numbers(1500, [3, 20])
    data.labels[:, 0] = np.arange(1500) % 2
    data.labels[:4, 0] = 2
    data.labels[:, 1] = np.arange(1500) % 20
    data.notes += ["left out: 3 .txt"]
    data.damaged = ["x.png: damaged", "y.png: damaged"]
    assert describe(data, split(data)) == [
        "1,500 images: 900 for training, 300 for the judge's training, 300 held out",
        "left out: 3 .txt",
        "left out: 2 damaged",
        "a0 (3 variants): 0 748, 1 748, 2 4",
        "a1 (20 variants): 75 to 75 images each",
        "warning: fewer than 10 images: a0=2 (4)",
    ]
    assert list_damaged(data) == [
        "left out, as they are damaged: 2",
        "x.png: damaged",
        "y.png: damaged",
    ]
    assert list_damaged(Numbers(9)) == []
    assert describe(Numbers(9), split(Numbers(9))) == [
        "9 images: 5 for training, 2 for the judge's training, 2 held out"
    ]
    (warning,) = describe(Numbers(30, [20]), split(Numbers(30, [20])))[2:]
    assert warning.endswith(", and 8 more")
