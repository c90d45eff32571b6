import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_backbones.schema import AttributeSchema

names = st.text(min_size=1, max_size=8)
schemas = st.dictionaries(
    names, st.lists(names, min_size=1, max_size=5, unique=True), min_size=1, max_size=6
).map(AttributeSchema)


@st.composite
def schemas_and_targets(draw):
    schema = draw(schemas)
    asked = draw(st.sets(st.sampled_from(schema.names)))
    return schema, {name: draw(st.sampled_from(schema.variants[name])) for name in asked}


@pytest.fixture
def schema():
    return AttributeSchema({"hairColor": ["black", "red"], "glasses": ["none", "round", "square"]})


@given(schemas_and_targets())
def test_decode_inverts_encode(schema_and_target):
    schema, target = schema_and_target
    one_hot = schema.encode(target)
    assert one_hot.dtype == np.float32
    assert one_hot.shape == (schema.size,)
    assert one_hot.sum() == len(target)
    assert schema.decode(one_hot) == target


@given(schemas)
def test_slices_partition_the_one_hot_in_order(schema):
    columns = [column for part in schema.slices.values() for column in range(schema.size)[part]]
    assert columns == list(range(schema.size))
    assert tuple(schema.slices) == schema.names == tuple(schema.variants)
    assert tuple(part.stop - part.start for part in schema.slices.values()) == schema.sizes


@given(schemas, st.integers(0, 2**32 - 1))
def test_encode_indices_agrees_with_encode(schema, seed):
    indices = np.random.default_rng(seed).integers(0, schema.sizes, (4, len(schema.names)))
    rows = [
        schema.encode({n: schema.variants[n][i] for n, i in zip(schema.names, row, strict=True)})
        for row in indices
    ]
    one_hot = schema.encode_indices(indices)
    assert one_hot.dtype == np.float32
    assert np.array_equal(one_hot, rows)


@given(schemas)
def test_json_round_trip_keeps_names_and_order(schema):
    again = AttributeSchema.from_json(schema.to_json())
    assert again == schema
    assert list(again.variants.items()) == list(schema.variants.items())


def test_order_matters_to_equality(schema):
    assert schema != AttributeSchema(dict(reversed(schema.variants.items())))
    assert schema != AttributeSchema({**schema.variants, "glasses": ["round", "none", "square"]})
    assert schema != schema.variants


def test_layout_by_hand(schema):
    assert schema.names == ("hairColor", "glasses")
    assert schema.sizes == (2, 3)
    assert schema.size == 5
    assert schema.slices == {"hairColor": slice(0, 2), "glasses": slice(2, 5)}
    assert schema.index("glasses", "square") == 2
    assert schema.encode({"glasses": "round"}).tolist() == [0, 0, 0, 1, 0]
    assert schema.encode({}).tolist() == [0, 0, 0, 0, 0]
    assert schema.encode_indices([[1, 2], [0, 0]]).tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"hat": "red"}, "unknown attribute 'hat'; allowed: hairColor, glasses"),
        (
            {"hairColor": "red", "glasses": "oval"},
            "unknown variant 'oval' of attribute 'glasses'; allowed: none, round, square",
        ),
    ],
)
def test_unknown_names_list_the_allowed_ones(schema, target, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schema.encode(target)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schema.index(*list(target.items())[-1])


@pytest.mark.parametrize(
    ("one_hot", "message"),
    [
        ([0, 0, 1], "one_hot has shape (3,); expected (5,)"),
        ([[0, 0, 0, 0, 1]], "one_hot has shape (1, 5); expected (5,)"),
        ([1, 1, 0, 0, 0], "one_hot is not one-hot at attribute 'hairColor': [1, 1]"),
        ([1, 0, 0, 0.5, 0], "one_hot is not one-hot at attribute 'glasses': [0.0, 0.5, 0.0]"),
        ([2, -1, 0, 0, 0], "one_hot is not one-hot at attribute 'hairColor': [2, -1]"),
    ],
)
def test_decode_refuses_what_is_not_one_hot(schema, one_hot, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schema.decode(np.array(one_hot))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, -1]], "indices out of range; each attribute's variants: (2, 3)"),
        ([[2, 0]], "indices out of range; each attribute's variants: (2, 3)"),
        ([[0]], "indices have shape (1, 1); expected (N, 2)"),
        ([0, 1], "indices have shape (2,); expected (N, 2)"),
    ],
)
def test_encode_indices_refuses_what_would_hit_a_neighbour(schema, indices, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schema.encode_indices(indices)


def test_a_schema_without_attributes_is_empty():
    schema = AttributeSchema({})
    assert schema.size == 0
    assert schema.decode(schema.encode({})) == {}
    assert schema.encode_indices(np.zeros((3, 0), dtype=int)).shape == (3, 0)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"hair": []}, "attribute 'hair' has no variants"),
        ({"hair": ["bob", "bob"]}, "attribute 'hair' names a variant twice: ['bob', 'bob']"),
    ],
)
def test_bad_variants(variants, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AttributeSchema(variants)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AttributeSchema.from_json(json.dumps(variants))


def test_bad_json():
    with pytest.raises(ValueError, match=r"^attribute schema is not JSON: [^\n]+$"):
        AttributeSchema.from_json('{"hair": ["bob"')


@pytest.mark.parametrize("text", ["[]", "3", '{"hair": "bob"}', '{"hair": [1, 2]}', "null"])
def test_json_of_another_form(text):
    message = "^attribute schema is not a JSON object of lists of variant names$"
    with pytest.raises(ValueError, match=message):
        AttributeSchema.from_json(text)
