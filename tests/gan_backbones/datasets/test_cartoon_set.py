import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gan_backbones.datasets import CartoonSet, DatasetError

# The real set's attributes and numbers of variants, in its CSV files' order.
REAL = {
    "eye_angle": 3,
    "eye_lashes": 2,
    "eye_lid": 2,
    "chin_length": 3,
    "eyebrow_weight": 2,
    "eyebrow_shape": 14,
    "eyebrow_thickness": 4,
    "face_shape": 7,
    "facial_hair": 15,
    "hair": 111,
    "eye_color": 5,
    "face_color": 11,
    "hair_color": 10,
    "glasses": 12,
    "glasses_color": 7,
    "eye_slant": 3,
    "eyebrow_width": 3,
    "eye_eyebrow_distance": 3,
}
SMALL = {"hair": 3, "glasses": 2}
FACE = (200, 100, 50)


def write_item(path, indices, sizes, side=8):
    """A face as the real set draws it: opaque in the middle, transparent black corners."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    image.paste((*FACE, 255), (side // 4, side // 4, side * 3 // 4, side * 3 // 4))
    image.save(path, "png")
    rows = [f'"{name}", {i}, {n}\n' for (name, n), i in zip(sizes.items(), indices, strict=True)]
    path.with_suffix(".csv").write_text("".join(rows))


def real_items(count):
    rng = np.random.default_rng(0)
    return [[int(rng.integers(size)) for size in REAL.values()] for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    """Four small items ``a`` to ``d`` whose attributes say which they are."""
    for name, indices in zip("abcd", ([0, 0], [1, 1], [2, 0], [2, 1]), strict=True):
        write_item(tmp_path / f"{name}.png", indices, SMALL)
    return tmp_path


@pytest.mark.parametrize(
    "paths",
    [
        [f"cs1088{number}.png" for number in range(5)],  # as CartoonSet10k
        [f"{number % 3}/cs1088{number}.png" for number in range(5)],  # as CartoonSet100k
        [f"cartoonset100k/{number}/cs{number}.png" for number in range(5)],  # its parent folder
    ],
)
def test_layouts_of_the_real_set(tmp_path, paths):
    indices = dict(zip(paths, real_items(5), strict=True))
    for path in paths:
        write_item(tmp_path / path, indices[path], REAL, side=500)
    data = CartoonSet(tmp_path)
    assert len(data) == 5
    assert data.damaged == []
    assert data.schema.names == tuple(REAL)
    assert data.schema.sizes == tuple(REAL.values())
    assert data.schema.variants["eye_angle"] == ("0", "1", "2")
    assert data.files == [tmp_path / path for path in sorted(paths)]
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [indices[path] for path in sorted(paths)]
    for image, one_hot in data:
        assert image.shape == (3, 64, 64)
        assert image.dtype == torch.float32
        assert one_hot.shape == (sum(REAL.values()),) == (217,)
        assert one_hot.dtype == torch.float32
        assert one_hot.sum() == 18
    _, one_hot = data[2]
    decoded = data.schema.decode(one_hot.numpy())
    assert [int(variant) for variant in decoded.values()] == indices[sorted(paths)[2]]


def test_transparent_corners_are_white_and_the_range_is_minus_one_to_one(tmp_path):
    write_item(tmp_path / "x.png", real_items(1)[0], REAL, side=500)
    data = CartoonSet(tmp_path)
    image, _ = data[0]
    assert torch.equal(image[:, :12, :12], torch.ones(3, 12, 12))
    expected = torch.tensor(FACE) / 127.5 - 1
    assert torch.allclose(image[:, 32, 32], expected, atol=1e-6)
    assert image.min() >= -1
    assert image.max() <= 1
    black = Image.new("L", (64, 64), 0)
    black.save(tmp_path / "x.png")
    assert torch.equal(data[0][0], -torch.ones(3, 64, 64))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_png_mode_reads(tmp_path, mode):
    write_item(tmp_path / "x.png", [0, 0], SMALL)
    Image.new(mode, (8, 8)).save(tmp_path / "x.png")
    image, _ = CartoonSet(tmp_path)[0]
    assert image.shape == (3, 64, 64)


def test_the_rendered_layout(faces):
    data = CartoonSet(faces)
    assert len(data) == 70
    assert data.schema.names[:3] == ("hair", "hairColor", "skinColor")
    assert data.schema.variants["hair"][0] == "shortFlat"  # names come from schema.json
    image, one_hot = data[7]
    assert image.shape == (3, 64, 64)
    assert one_hot.shape == (data.schema.size,)
    with Image.open(faces / "0" / "000007.png") as file:
        pixels = np.asarray(file.convert("RGB"))
    pixels = pixels.transpose(2, 0, 1)
    assert np.allclose(image.numpy(), pixels / 127.5 - 1, atol=1e-6)
    assert np.array_equal(data.images(range(6, 9))[1].numpy(), pixels)


def test_images_are_scaled_and_in_the_order_asked_for(faces):
    data = CartoonSet(faces, image_size=32)
    assert data[0][0].shape == (3, 32, 32)
    some = data.images([5, 2])
    assert some.shape == (2, 3, 32, 32)
    assert some.dtype == torch.uint8
    assert torch.equal(some[1], data.images(range(3))[2])
    assert not torch.equal(some[0], some[1])


def test_an_item_may_be_changed_without_changing_the_data(folder):
    data = CartoonSet(folder)
    image, one_hot = data[1]
    image.zero_()
    one_hot.zero_()
    assert data[1][0].abs().sum() > 0
    assert data[1][1].tolist() == [0, 1, 0, 0, 1]


def test_iteration_ends(folder):
    assert len(list(CartoonSet(folder))) == 4
    with pytest.raises(IndexError):
        CartoonSet(folder)[4]


def test_hidden_files_are_not_items(folder):
    (folder / "._a.png").write_bytes(b"as left by other systems' archives")
    (folder / "readme.txt").touch()
    write_item(folder / ".ipynb_checkpoints" / "a.png", [0, 0], SMALL)
    data = CartoonSet(folder)
    assert len(data) == 4
    assert data.notes == ["left out: 2 hidden, 1 .txt"]


def truncate(file):
    file.write_bytes(file.read_bytes()[:60])


# Damage to item "c" and the message, in which {} is the folder.
DAMAGE = {
    "missing CSV": (
        lambda d: (d / "c.csv").unlink(),
        "{}/c.csv: missing; expected the PNG's attributes",
    ),
    "empty CSV": (
        lambda d: (d / "c.csv").write_text("\n"),
        "{}/c.csv: expected at least one attribute line, found none",
    ),
    "binary CSV": (
        lambda d: (d / "c.csv").write_bytes(b"\x89PNG\xff"),
        "{}/c.csv: expected text",
    ),
    "index too high": (
        lambda d: (d / "c.csv").write_text('"hair", 3, 3\n"glasses", 0, 2\n'),
        "{}/c.csv, line 1: index 3 of attribute 'hair' is out of range; expected 0 to 2",
    ),
    "index negative": (
        lambda d: (d / "c.csv").write_text('"hair", 2, 3\n\n"glasses", -1, 2\n'),
        "{}/c.csv, line 3: index -1 of attribute 'glasses' is out of range; expected 0 to 1",
    ),
    "malformed line": (
        lambda d: (d / "c.csv").write_text('"hair", 2, 3\n"glasses", 0\n'),
        '{}/c.csv, line 2: expected "attribute", index, number_of_variants; found \'"glasses", 0\'',
    ),
    "not a number": (
        lambda d: (d / "c.csv").write_text('"hair", two, 3\n"glasses", 0, 2\n'),
        '{}/c.csv, line 1: expected "attribute", index, number_of_variants; '
        "found '\"hair\", two, 3'",
    ),
    "number of variants differs": (
        lambda d: (d / "c.csv").write_text('\n"hair", 2, 3\n"glasses", 0, 5\n'),
        "{}/c.csv, line 3: expected attribute 'glasses' of 2 variants as in {}/a.csv, "
        "found 'glasses' of 5",
    ),
    "order differs": (
        lambda d: (d / "c.csv").write_text('"glasses", 0, 2\n"hair", 2, 3\n'),
        "{}/c.csv, line 1: expected attribute 'hair' of 3 variants as in {}/a.csv, "
        "found 'glasses' of 2",
    ),
    "too few attributes": (
        lambda d: (d / "c.csv").write_text('"hair", 2, 3\n'),
        "{}/c.csv: expected 2 attributes as in {}/a.csv, found 1",
    ),
    "too many attributes": (
        lambda d: (d / "c.csv").write_text('"hair", 2, 3\n"glasses", 0, 2\n"hat", 0, 2\n'),
        "{}/c.csv: expected 2 attributes as in {}/a.csv, found 3",
    ),
    "an attribute twice": (
        lambda d: (d / "c.csv").write_text('"hair", 2, 3\n"hair", 2, 3\n'),
        "{}/c.csv, line 2: expected each attribute once; 'hair' is also on line 1",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_csv_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DatasetError, match=f"^{re.escape(message.replace('{}', str(folder)))}$"):
        CartoonSet(folder)
    data = CartoonSet(folder, damaged="skip")
    assert len(data.damaged) == 1
    assert [file.stem for file in data.files] == ["a", "b", "d"]
    assert data.labels.tolist() == [[0, 0], [1, 1], [2, 1]]


def test_a_truncated_png_is_named(folder):
    truncate(folder / "c.png")
    data = CartoonSet(folder)  # images are read when they are asked for
    message = rf"^{re.escape(str(folder / 'c.png'))}: expected a complete PNG image \([^\n]+\)$"
    with pytest.raises(DatasetError, match=message):
        data[2]
    with pytest.raises(DatasetError, match=message):
        data.images(range(4))
    data = CartoonSet(folder, damaged="skip")
    assert len(data.damaged) == 1
    assert [file.stem for file in data.files] == ["a", "b", "d"]
    assert data.labels.tolist() == [[0, 0], [1, 1], [2, 1]]
    assert [one_hot.tolist() for _, one_hot in data] == [
        [1, 0, 0, 1, 0],
        [0, 1, 0, 0, 1],
        [0, 0, 1, 0, 1],
    ]


def test_a_png_cut_or_flipped_anywhere_gives_one_kind_of_error(folder):
    """Or reads all the same, where the damage touches no pixel."""
    data = CartoonSet(folder, image_size=8)
    file = folder / "c.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    whole = buffer.getvalue()
    file.write_bytes(whole)
    image, _ = data[2]
    places = range(0, len(whole), 3)
    damaged = [whole[:i] for i in places]
    damaged += [whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :] for i in places]
    errors = 0
    for content in damaged:
        file.write_bytes(content)
        try:
            assert torch.equal(data[2][0], image)
        except DatasetError as error:
            assert str(error).startswith(f"{file}: ")
            errors += 1
    assert errors > 0.9 * len(damaged)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["good", "no csv", "bad csv", "bad png"]), min_size=1, max_size=9))
def test_labels_stay_with_their_files_whatever_is_damaged(states):
    sizes = {"number": 9, "parity": 2}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for number, state in enumerate(states):
            file = root / f"{number}.png"
            write_item(file, [number, number % 2], sizes, side=4)
            if state == "no csv":
                file.with_suffix(".csv").unlink()
            elif state == "bad csv":
                file.with_suffix(".csv").write_text(f'"number", {number}, 9\n"parity", 2, 2\n')
            elif state == "bad png":
                truncate(file)
        good = [number for number, state in enumerate(states) if state == "good"]
        if not good:
            with pytest.raises(DatasetError, match=f"^all {len(states)} images are damaged"):
                CartoonSet(root, damaged="skip")
            return
        data = CartoonSet(root, damaged="skip", image_size=4)
        assert [file.stem for file in data.files] == [str(number) for number in good]
        assert data.labels.tolist() == [[number, number % 2] for number in good]
        assert len(data.damaged) == len(states) - len(good)
        for number, (_, one_hot) in zip(good, data, strict=True):
            assert one_hot.nonzero().flatten().tolist() == [number, 9 + number % 2]


def test_all_items_damaged_quotes_the_first_error(folder):
    for file in folder.glob("*.csv"):
        file.unlink()
    message = f"all 4 images are damaged; the first: {folder}/a.csv: missing"
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}"):
        CartoonSet(folder, damaged="skip")


@pytest.mark.parametrize("damaged", ["error", "skip"])
def test_a_folder_without_images(tmp_path, damaged):
    message = f"{tmp_path}: expected *.png images with a .csv each, found none"
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}$"):
        CartoonSet(tmp_path, damaged=damaged)
    message = f"{tmp_path / 'missing'}: no such folder"
    with pytest.raises(DatasetError, match=f"^{re.escape(message)}$"):
        CartoonSet(tmp_path / "missing", damaged=damaged)


def test_schema_json_names_the_variants(folder):
    (folder / "schema.json").write_text('{"hair": ["bob", "bun", "fro"], "glasses": ["no", "yes"]}')
    data = CartoonSet(folder)
    assert data.schema.variants == {"hair": ("bob", "bun", "fro"), "glasses": ("no", "yes")}
    assert data.schema.decode(data[2][1].numpy()) == {"hair": "fro", "glasses": "no"}


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            '{"hair": ["bob", "bun"], "glasses": ["no", "yes"]}',
            "{}/a.csv, line 1: expected attribute 'hair' of 2 variants as in {}/schema.json, "
            "found 'hair' of 3",
        ),
        (
            '{"hair": ["bob", "bun", "fro"], "hat": ["no", "yes"]}',
            "{}/a.csv, line 2: expected attribute 'hat' of 2 variants as in {}/schema.json, "
            "found 'glasses' of 2",
        ),
        (
            '{"hair": ["bob", "bun", "fro"]}',
            "{}/a.csv: expected 1 attributes as in {}/schema.json, found 2",
        ),
        (
            '{"hair": 3}',
            "{}/schema.json: attribute schema is not a JSON object of lists of variant names",
        ),
        (
            "{",
            "{}/schema.json: attribute schema is not JSON: Expecting property name enclosed in "
            "double quotes: line 1 column 2 (char 1)",
        ),
    ],
)
def test_a_disagreeing_schema_json_is_named(folder, schema, message):
    (folder / "schema.json").write_text(schema)
    message = re.escape(message.replace("{}", str(folder)))
    with pytest.raises(DatasetError, match=f"^{message}$"):
        CartoonSet(folder)
    with pytest.raises(DatasetError, match=f"{message}$"):
        CartoonSet(folder, damaged="skip")


def test_schema_json_outvotes_a_first_file_of_other_attributes(folder):
    (folder / "schema.json").write_text('{"hair": ["bob", "bun", "fro"], "glasses": ["no", "yes"]}')
    (folder / "a.csv").write_text('"hair", 0, 3\n')
    data = CartoonSet(folder, damaged="skip")
    assert len(data.damaged) == 1
    assert [file.stem for file in data.files] == ["b", "c", "d"]
