"""Readers of image folders, tables and emoji, and what finds the reader."""

import csv
import gzip
import hashlib
import io
import json
import os
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_datasets import write_celeba, write_emoji, write_idx, write_image, write_mnist

from gan_backbones.datasets import (
    MNIST,
    AttributeTable,
    CartoonSet,
    CelebA,
    DatasetError,
    EmojiFolder,
    FashionMNIST,
    ImageFolder,
    open_dataset,
    read_image,
)
from gan_backbones.datasets.tables import read_column


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


# One image


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "PNG"])
def test_every_format_reads(tmp_path, ending):
    file = write_image(tmp_path / f"x.{ending}", (200, 100, 50), 16)
    image = read_image(file, 8)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 8, 8)
    expected = torch.tensor([200, 100, 50], dtype=torch.float)[:, None, None]
    assert (image.float() - expected).abs().max() <= 4  # JPEG loses a little


@pytest.mark.parametrize(
    ("mode", "pixel", "shown"),
    [
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("LA", (0, 51), (204, 204, 204)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_transparent_images_are_put_on_white(tmp_path, mode, pixel, shown):
    Image.new(mode, (4, 4), pixel).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 4)[:, 2, 2].tolist() == list(shown)


def test_a_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "x.png", transparency=0)
    pixels = read_image(tmp_path / "x.png", 4)
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 1, 1].tolist() == [250, 0, 0]


SIXTEEN_BITS = np.array([[0, 128, 129, 257], [5000, 20000, 32768, 65535]] * 2, np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, ending):
    file = tmp_path / f"x.{ending}"
    if ending == "pgm":
        file.write_bytes(b"P5 4 4 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes())
    else:
        Image.fromarray(SIXTEEN_BITS).save(file)
    assert read_image(file, 4, channels=1)[0, :2].tolist() == [[0, 0, 1, 1], [19, 78, 128, 255]]


def test_a_transparent_value_of_sixteen_bits(tmp_path):
    Image.fromarray(SIXTEEN_BITS).save(tmp_path / "x.png", transparency=128)
    assert read_image(tmp_path / "x.png", 4, channels=1)[0, 0].tolist() == [0, 255, 1, 1]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_thirty_two_bits_are_refused(tmp_path, kind):
    Image.fromarray(SIXTEEN_BITS.astype(kind)).save(tmp_path / "x.tif")
    with raises(DatasetError, f"{tmp_path / 'x.tif'}: expected 8 or 16 bits a channel, found 32"):
        read_image(tmp_path / "x.tif", 4)


def test_cmyk(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "x.jpg")
    red, green, blue = read_image(tmp_path / "x.jpg", 4)[:, 0, 0].tolist()
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_the_orientation_that_a_camera_noted_is_applied(tmp_path, ending):
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))  # the upper half, as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    image.save(tmp_path / f"x.{ending}", exif=exif, quality=95)
    shown = read_image(tmp_path / f"x.{ending}", 16, channels=1)[0].float()
    assert shown[:, :8].mean() < 5
    assert shown[:, 8:].mean() > 250


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_notes_of_a_camera_are_passed_over(tmp_path):
    image = Image.new("RGB", (4, 4), (9, 9, 9))
    image.save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff no table")
    assert read_image(tmp_path / "x.png", 4).unique().tolist() == [9]


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_an_animation_is_its_first_frame(tmp_path, ending):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("white", "black"))
    first.save(tmp_path / f"x.{ending}", save_all=True, append_images=[second])
    assert read_image(tmp_path / f"x.{ending}", 4).unique().tolist() == [255]


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_the_background_is_chosen(tmp_path, transparency):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.save(tmp_path / "x.png", transparency=transparency)
    for background, shown in (("white", [255] * 3), ("black", [0] * 3), ("#010203", [1, 2, 3])):
        data = open_dataset(f"{tmp_path}?background={background}", 4)
        assert data.images([0])[0, :, 0, 0].tolist() == shown
    with raises(ValueError, "background is 'whit'; expected a colour such as white, black or"):
        ImageFolder(tmp_path, background="whit")


def test_grey_is_the_luma_of_the_image_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 255)).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", 4, channels=1)
    assert image.shape == (1, 4, 4)
    assert image.unique().tolist() == [76]  # 0.299 of 255


@pytest.mark.parametrize("size", [(12, 4), (4, 12), (13, 4)])
def test_the_central_square_is_taken(tmp_path, size):
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = (size[1] - 4) // 2, (size[0] - 4) // 2
    pixels[top : top + 4, left : left + 4] = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", 4).permute(1, 2, 0).flatten().tolist() == list(range(48))


def test_a_missing_image_is_named(tmp_path):
    with raises(DatasetError, f"{tmp_path / 'x.png'}: missing; expected an image"):
        read_image(tmp_path / "x.png", 4)


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("jpeg", "JPEG"), ("webp", "WebP")]
)
def test_a_cut_image_is_named(tmp_path, ending, kind):
    file = tmp_path / f"x.{ending}"
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    for length in range(0, len(whole) - 40, 7):  # a PNG's last bytes hold no pixels
        file.write_bytes(whole[:length])
        with raises(DatasetError, f"{file}: expected a complete {kind} image ("):
            read_image(file, 16)


# A plain folder


def test_a_folder_of_images(tmp_path):
    for name in ("b.jpg", "a.png", "sub/c.webp", "sub/d.PNG", ".hidden.png", "notes.txt"):
        if name == "notes.txt":
            (tmp_path / name).write_text("no image")
        else:
            write_image(tmp_path / name, (len(name), 0, 0))
    data = ImageFolder(tmp_path, image_size=8)
    assert [str(file.relative_to(tmp_path)) for file in data.files] == [
        "a.png",
        "b.jpg",
        "sub/c.webp",
        "sub/d.PNG",
    ]
    assert data.schema is None
    assert data.labels is None
    assert len(data) == 4
    assert data.images(range(4)).shape == (4, 3, 8, 8)
    assert data.images(np.array([3]))[0, 0, 0, 0] == len("sub/d.PNG")
    image, one_hot = data[0]
    assert image.shape == (3, 8, 8)
    assert one_hot.shape == (0,)
    assert len(list(data)) == 4


def test_what_is_no_image_is_left_out_and_counted(tmp_path):
    for name in ("a.png", "dir.png/b.JPG", ".ipynb_checkpoints/a.png", "__MACOSX/a.png"):
        write_image(tmp_path / name)
    for name in ("._a.png", "x.txt", "y.TXT", "Makefile"):
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = ImageFolder(tmp_path)
    assert [str(file.relative_to(tmp_path)) for file in data.files] == ["a.png", "dir.png/b.JPG"]
    (note,) = data.notes
    assert sorted(note.removeprefix("left out: ").split(", ")) == [
        "1 broken link",
        "1 without ending",
        "2 .txt",
        "3 hidden",
    ]


def test_links_are_followed_and_no_folder_is_read_twice(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.png")
    write_image(tmp_path / "root" / "b.png")
    (tmp_path / "root" / "first").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "second").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "root")
    data = ImageFolder(tmp_path / "root", image_size=8)
    assert [str(f.relative_to(tmp_path / "root")) for f in data.files] == ["b.png", "first/a.png"]
    assert data.images(range(2)).shape == (2, 3, 8, 8)


ODD = [b"two words.png", b"line\nbreak.png", "\u00e9.png".encode(), b"\xff.png", b"a;b?c,d.png"]


def test_odd_names_work_as_they_do_for_the_system(tmp_path):
    folder = tmp_path / "what? a;b=c"
    folder.mkdir()
    for name in ODD:
        write_image(folder / os.fsdecode(name))
    for spec in (folder, f"folder:{folder}"):
        data = open_dataset(spec, 8)
        assert {os.fsencode(file.name) for file in data.files} == set(ODD)
        assert data.images(range(len(ODD))).shape == (len(ODD), 3, 8, 8)
    for file in data.files:
        file.write_bytes(b"damaged")
        with pytest.raises(DatasetError) as error:
            read_image(file, 8)
        assert str(error.value).isprintable()


def test_damaged_images_stop_or_are_left_out(tmp_path):
    for name in "abcd":
        write_image(tmp_path / f"{name}.png", (ord(name), 0, 0))
    (tmp_path / "c.png").write_bytes(b"damaged")
    message = f"{tmp_path / 'c.png'}: expected a complete PNG image ("
    with raises(DatasetError, message):
        ImageFolder(tmp_path).images(range(4))
    data = open_dataset(f"{tmp_path}?damaged=skip", 8)
    assert data.images(range(3))[:, 0, 0, 0].tolist() == [ord(name) for name in "abd"]
    assert len(data.damaged) == 1
    assert data.damaged[0].startswith(message)
    with raises(ValueError, "damaged is 'ignore'; allowed: error, skip"):
        ImageFolder(tmp_path, damaged="ignore")
    for name in "abd":
        (tmp_path / f"{name}.png").write_bytes(b"damaged")
    with raises(DatasetError, f"all 4 images are damaged; the first: {tmp_path / 'a.png'}: "):
        ImageFolder(tmp_path, damaged="skip")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a whole number, 1 or more"),
        ({"image_size": 8.0}, "image_size is 8.0; it must be a whole number, 1 or more"),
        ({"channels": 4}, "channels is 4; allowed: 1 (grey), 3 (RGB)"),
    ],
)
def test_a_format_that_cannot_be(tmp_path, arguments, message):
    write_image(tmp_path / "a.png")
    with raises(ValueError, message):
        ImageFolder(tmp_path, **arguments)
    write_mnist(tmp_path)
    with raises(ValueError, message):
        MNIST(tmp_path, **arguments)


def test_an_empty_folder_and_none(tmp_path):
    with raises(DatasetError, f"{tmp_path}: expected images (.png, .jpg, .jpeg, .jfif, "):
        ImageFolder(tmp_path)
    with raises(DatasetError, f"{tmp_path / 'x'}: no such folder"):
        ImageFolder(tmp_path / "x")


# A table of attributes


TABLE = "file,hair,size\nb.png,red,10\na.png,black,9\nsub/c.png,red,9\n"


@pytest.fixture
def table(tmp_path):
    for number, name in enumerate(("a.png", "b.png", "sub/c.png", "unlisted.png")):
        write_image(tmp_path / name, (number, 0, 0))
    (tmp_path / "attributes.csv").write_text(TABLE)
    return tmp_path


def test_a_table(table):
    data = AttributeTable(table, image_size=8)
    assert [str(file.relative_to(table)) for file in data.files] == ["b.png", "a.png", "sub/c.png"]
    assert data.schema.variants == {"hair": ("black", "red"), "size": ("9", "10")}
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert data.images(range(3))[:, 0, 0, 0].tolist() == [1, 0, 2]
    assert data[0][1].tolist() == [0, 1, 0, 1]


def test_some_attributes_in_another_order(table):
    assert AttributeTable(table, attributes=["size", "hair"]).labels.tolist() == [
        [1, 1],
        [0, 0],
        [0, 1],
    ]
    data = AttributeTable(table, attributes=["size"])
    assert data.schema.variants == {"size": ("9", "10")}
    assert data[0][1].tolist() == [0, 1]
    with raises(ValueError, "unknown attribute 'hat'; allowed: hair, size"):
        AttributeTable(table, attributes=["hat"])
    for wrong in ("size", [], ["size", "size"]):
        with raises(ValueError, f"attributes is {wrong!r}; expected a list that names each once"):
            AttributeTable(table, attributes=wrong)


def test_schema_json_orders_the_variants(table):
    (table / "schema.json").write_text('{"hair": ["red", "blond", "black"], "size": ["9", "10"]}')
    data = AttributeTable(table)
    assert data.schema.variants["hair"] == ("red", "blond", "black")
    assert data.labels.tolist() == [[0, 1], [2, 0], [0, 0]]
    (table / "schema.json").write_text('{"hair": ["red"], "size": ["9", "10"]}')
    message = f"{table}/attributes.csv, line 3: unknown variant 'black' of attribute 'hair'"
    with raises(DatasetError, message):
        AttributeTable(table)
    (table / "schema.json").write_text('{"size": ["9", "10"]}')
    message = (
        f"{table}/attributes.csv, line 1: expected the attributes of {table}/schema.json, size; "
        "found hair, size"
    )
    with raises(DatasetError, message):
        AttributeTable(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing; expected the images' attributes"),
        (b"file,hair\n\xff\xfe,red\n", "expected text in UTF-8"),
        (b"", "line 1: expected a line that names the columns"),
        (b"file\na.png\n", "line 1: expected a line that names the columns"),
        (
            b"file,hair,hair\na.png,1,2\n",
            "line 1: expected a line that names the columns, the file and then "
            "each attribute once; found 'hair' twice",
        ),
        (b"file,,size\na.png,1,2\n", "line 1: expected a line that names the columns"),
        (b"file,hair\n", "expected at least one image's line, found none"),
        (
            b"file,hair,size\na.png,red,1\nb.png,red\n",
            "line 3: expected 3 cells (file, hair, size), found 2: 'b.png,red'",
        ),
        (b"file,hair\n\n\na.png,red,1\n", "line 4: expected 2 cells (file, hair)"),
        (b"file,hair\na.png,\n", "line 2: 'hair' is empty; write a word for what is not known"),
        (
            b"file,hair\na.png,red\nb.png,red\na.png,red\n",
            "line 4: expected each file once; 'a.png' is also on line 2",
        ),
        (b"file,hair\na.png,red\nz.png,red\n", "line 3: {}/z.png is missing"),
        (b'file,hair\na.png,"re"d\n', "line 2: "),
    ],
)
def test_a_damaged_table_is_named(table, content, message):
    file = table / "attributes.csv"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    message = message.replace("{}", str(table))
    separator = ", " if message.startswith("line") else ": "
    with raises(DatasetError, f"{file}{separator}{message}"):
        AttributeTable(table)


SAVED_BY_PEOPLE = {
    "semicolons": b"file;hair;size\na.png;red;0,5\nb.png;bl,ack;9,5\n",
    "tabs": b"file\thair\tsize\na.png\tred\t0,5\nb.png\tbl,ack\t9,5\n",
    "bars": b"file|hair|size\na.png|red|0,5\nb.png|bl,ack|9,5\n",
    "quotes": b'"file","hair","size"\n"a.png","red","0,5"\n"b.png","bl,ack","9,5"\n',
    "spaces": b" file ; hair ; size\n a.png; red ;0,5 \n b.png ;bl,ack; 9,5\n",
    "Excel": "sep=;\r\nfile;hair;size\r\na.png;red;0,5\r\nb.png;bl,ack;9,5\r\n;;\r\n".encode(
        "utf-8-sig"
    ),
    "Excel's Unicode text": "file\thair\tsize\r\na.png\tred\t0,5\r\nb.png\tbl,ack\t9,5\r\n".encode(
        "utf-16"
    ),
    "old Macintosh": b"file;hair;size\ra.png;red;0,5\rb.png;bl,ack;9,5\r",
    "empty lines": b"\n\nfile;hair;size\n\na.png;red;0,5\n;;\nb.png;bl,ack;9,5\n\n\n",
}


@pytest.mark.parametrize("content", SAVED_BY_PEOPLE.values(), ids=SAVED_BY_PEOPLE)
def test_tables_as_people_save_them(table, content):
    (table / "attributes.csv").write_bytes(content)
    data = AttributeTable(table)
    assert [file.name for file in data.files] == ["a.png", "b.png"]
    assert data.schema.variants == {"hair": ("bl,ack", "red"), "size": ("0,5", "9,5")}
    assert data.labels.tolist() == [[1, 0], [0, 1]]
    assert data.notes == ["left out: 2 not listed in attributes.csv"]


def test_lines_are_counted_after_an_excel_line(table):
    (table / "attributes.csv").write_text("sep=;\nfile;hair\na.png;red\nb.png\n")
    with raises(DatasetError, f"{table / 'attributes.csv'}, line 4: expected 2 cells"):
        AttributeTable(table)


def test_names_are_found_as_other_systems_write_them(table):
    names = ["sub\\c.png", "\u00e9.png"]
    write_image(table / "e\u0301.png")
    (table / "attributes.csv").write_text(f"file,hair\n{names[0]},red\n{names[1]},black\n")
    data = AttributeTable(table, image_size=8)
    assert [file.name for file in data.files] == ["c.png", "e\u0301.png"]
    assert len(data.images(range(2))) == 2


def write_table(root, **columns):
    """A folder of one image under many names, with a table."""
    count = len(next(iter(columns.values())))
    image = write_image(root / "0.png")
    for number in range(1, count):
        os.link(image, root / f"{number}.png")
    rows = zip(*columns.values(), strict=True)
    lines = [",".join([f"{n}.png", *map(str, row)]) for n, row in enumerate(rows)]
    (root / "attributes.csv").write_text("\n".join([",".join(["file", *columns]), *lines]))
    return root


def test_columns_that_hold_measurements_names_or_one_value(tmp_path):
    rng = np.random.default_rng(0)
    count = 200
    position = rng.uniform(-5, 5, count).round(3)
    table = write_table(
        tmp_path,
        shape=np.resize(["ring", "disc"], count),
        position=position,
        id=[f"img{n}" for n in range(count)],
        site=["lab"] * count,
        digit=np.resize(np.arange(10), count),
        species=np.resize(np.arange(1, 17), count),  # 12 or 13 images each
    )
    data = AttributeTable(table)
    assert data.schema.sizes == (2, 5, 10, 16)
    assert data.schema.names == ("shape", "position", "digit", "species")
    assert data.notes == [
        f"position: {len(set(position))} different numbers are put into 5 ranges",
        "left out: id (200 different values for 200 images)",
        "left out: site (its only variant is 'lab')",
    ]
    for variant, name in enumerate(data.schema.variants["position"]):
        low, high = map(float, name.split(".."))
        inside = position[data.labels[:, 1] == variant]
        assert abs(len(inside) - count / 5) <= 1
        assert low - 0.01 <= inside.min() <= inside.max() <= high + 0.01
    assert open_dataset(f"{table}?bins=3").schema.sizes[1] == 3
    assert open_dataset(f"{table}?bins=0").schema.sizes[1] == len(set(position))
    assert open_dataset(f"{table}?attributes=shape,digit").notes == []
    with raises(ValueError, "attributes has 'id', a column of 200 different values for 200 images"):
        open_dataset(f"{table}?attributes=id")
    for wrong in ("1", "-1", "few"):
        with raises(ValueError, "bins is "):
            open_dataset(f"{table}?bins={wrong}")


def test_schema_json_decides_what_columns_hold(tmp_path):
    table = write_table(tmp_path, number=range(30))
    (table / "schema.json").write_text(json.dumps({"number": [str(n) for n in range(30)]}))
    assert AttributeTable(table).schema.sizes == (30,)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.integers(-9, 9), min_size=11, unique=True),
    st.integers(2, 9),
    st.integers(0, 90),
)
def test_ranges_keep_order_and_equal_numbers_together(values, bins, repeats):
    cells = [str(values[0])] * repeats + [str(value) for value in values]
    variants, labels, _ = read_column(cells, bins)
    assert len(set(variants)) == len(variants) == labels.max() + 1
    assert 2 <= len(variants) <= bins
    order = np.argsort([float(cell) for cell in cells], kind="stable")
    assert (np.diff(labels[order]) >= 0).all()
    assert len(set(labels[:repeats].tolist())) <= 1


def test_damaged_images_take_their_rows_with_them(table):
    (table / "a.png").write_bytes(b"damaged")
    (table / "attributes.csv").write_text(TABLE + "none.png,red,10\n")
    data = AttributeTable(table, image_size=8, damaged="skip")
    assert [file.name for file in data.files] == ["b.png", "c.png"]
    assert data.labels.tolist() == [[1, 1], [1, 0]]
    assert data[1][1].tolist() == [0, 1, 1, 0]
    assert [error.partition(":")[0] for error in data.damaged] == [
        str(table / "a.png"),
        str(table / "none.png"),
    ]


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_table_reads_back(table, data):
    """Whatever the names are, quotes, commas and line breaks within cells included."""
    names = data.draw(st.lists(WORDS, min_size=1, max_size=3, unique=True))
    cells = st.lists(WORDS | st.just('a,"b"\nc'), min_size=len(names), max_size=len(names))
    rows = data.draw(st.tuples(cells, cells, cells))
    files = ["a.png", "b.png", "sub/c.png"]
    text = io.StringIO()
    csv.writer(text).writerows(
        [["file", *names], *([f, *row] for f, row in zip(files, rows, strict=True))]
    )
    (table / "attributes.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    read = AttributeTable(table)
    varied = [i for i in range(len(names)) if len({row[i] for row in rows}) > 1]
    if not varied:
        assert read.schema is None
        return
    assert list(read.schema.names) == [names[i] for i in varied]
    for number, row in enumerate(rows):
        seen = read.schema.decode(read[number][1].numpy())
        assert list(seen.values()) == [row[i] for i in varied]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=60) | st.text('fa.png,"\n\r redx01\0', max_size=60))
def test_any_other_content_gives_one_kind_of_error(table, content):
    file = table / "attributes.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        data = AttributeTable(table)
    except DatasetError as error:
        assert str(error).startswith(str(file))
        assert "\n" not in str(error)
    else:
        assert len(data) >= 1


# Emoji


def test_the_layout_of_emoji_datasource(tmp_path):
    write_emoji(tmp_path)
    data = EmojiFolder(tmp_path, image_size=16)
    assert [file.name for file in data.files] == [
        "1f385-1f3fb.png",
        "1f385.png",
        "1f600.png",
        "1f634.png",
    ]  # 2764 is marked as absent
    assert data.schema.variants == {"category": ("People & Body", "Smileys & Emotion")}
    assert data.labels[:, 0].tolist() == [0, 0, 1, 1]
    images = data.images(range(4))
    assert images[2, :, 8, 8].tolist() == [250, 200, 0]
    assert images[2, :, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("category", "names", "variants"),
    [
        ("Smileys & Emotion", ["1f600", "1f634"], ("face-sleepy", "face-smiling")),
        ("face", ["1f600", "1f634"], ("face-sleepy", "face-smiling")),
    ],
)
def test_one_category(tmp_path, category, names, variants):
    write_emoji(tmp_path)
    data = EmojiFolder(tmp_path, category=category)
    assert [file.stem for file in data.files] == names
    assert data.schema.variants == {"subcategory": variants}


def test_a_category_of_one_kind_has_nothing_to_edit(tmp_path):
    write_emoji(tmp_path)
    data = EmojiFolder(tmp_path, category="People & Body")
    assert [file.stem for file in data.files] == ["1f385-1f3fb", "1f385"]
    assert data.schema is None
    assert data.labels is None
    assert data.notes == ["left out: subcategory (its only variant is 'person-fantasy')"]


def test_an_unknown_category(tmp_path):
    write_emoji(tmp_path)
    message = "unknown category 'Cars'; allowed: People & Body, Smileys & Emotion, or a subcategory"
    with raises(ValueError, message):
        EmojiFolder(tmp_path, category="Cars")


def test_a_plain_folder_of_emoji_with_a_table_from_elsewhere(tmp_path):
    write_emoji(tmp_path / "table")
    for name in ("1F600", "1f385", "a9-fe0f"):
        write_image(tmp_path / "plain" / "assets" / f"{name}.webp", (1, 2, 3))
    data = EmojiFolder(tmp_path / "plain", table=tmp_path / "table" / "emoji.json")
    assert [file.stem for file in data.files] == ["1f385", "1F600"]
    assert data.labels[:, 0].tolist() == [0, 1]
    assert data.notes == ["left out: 1 not listed in emoji.json"]


def test_several_vendors(tmp_path):
    write_emoji(tmp_path)
    write_image(tmp_path / "img" / "twitter" / "64" / "1f600.png")
    with raises(ValueError, f"vendor is None; {tmp_path} has google, twitter"):
        EmojiFolder(tmp_path)
    with raises(ValueError, f"vendor is 'apple'; {tmp_path} has google, twitter"):
        EmojiFolder(tmp_path, vendor="apple")
    assert len(EmojiFolder(tmp_path, vendor="google")) == 4


def test_damaged_emoji_are_named(tmp_path):
    file = tmp_path / "emoji.json"
    with raises(DatasetError, f"{file}: missing; expected emoji-datasource's table"):
        EmojiFolder(tmp_path)
    write_emoji(tmp_path)
    lost = tmp_path / "img" / "google" / "64" / "1f600.png"
    lost.unlink()
    with raises(DatasetError, f"{lost}: missing; {file} lists it"):
        EmojiFolder(tmp_path)
    data = EmojiFolder(tmp_path, damaged="skip")
    assert len(data) == len(data.labels) == 3
    assert data.damaged == [f"{lost}: missing; expected an image"]
    for content in ("[{", '{"a": 1}', "[1]", '[{"image": "a.png"}]', '[{"skin_variations": 1}]'):
        file.write_text(content)
        with raises(DatasetError, f"{file}: expected "):
            EmojiFolder(tmp_path)


def test_a_plain_folder_without_emoji(tmp_path):
    write_emoji(tmp_path / "table")
    table = tmp_path / "table" / "emoji.json"
    write_image(tmp_path / "plain" / "x.png")
    message = f"{tmp_path / 'plain'}: expected images named by code point as in {table}"
    with raises(DatasetError, message):
        EmojiFolder(tmp_path / "plain", table=table)


# MNIST and Fashion-MNIST


def test_mnist_is_padded_not_blurred(tmp_path):
    pixels, labels = write_mnist(tmp_path)
    data = MNIST(tmp_path)
    assert len(data) == 7  # five to train with, then two to test with
    assert data.test_rows.tolist() == [5, 6]
    assert data.schema.variants == {"digit": tuple("0123456789")}
    assert data.labels.tolist() == [[label] for label in labels]
    images = data.images(range(7)).numpy()
    assert images.dtype == np.uint8
    assert images.shape == (7, 1, 32, 32)
    assert np.array_equal(images[:, 0, 2:30, 2:30], pixels)
    frame = images.copy()
    frame[:, :, 2:30, 2:30] = 0
    assert not frame.any()
    assert np.array_equal(data.images(np.array([6, 0])).numpy(), images[[6, 0]])
    image, one_hot = data[3]
    assert torch.equal(image, torch.from_numpy(images[3] / np.float32(127.5) - 1))
    assert one_hot.argmax() == labels[3]
    assert len(list(data)) == 7


def test_the_splits_of_mnist(tmp_path):
    _, labels = write_mnist(tmp_path)
    assert MNIST(tmp_path, split="train").test_rows is None
    assert MNIST(tmp_path, split="train").labels[:, 0].tolist() == labels[:5]
    assert MNIST(tmp_path, split="test").labels[:, 0].tolist() == labels[5:]
    with raises(ValueError, "split is 'valid'; allowed: train, test, all"):
        MNIST(tmp_path, split="valid")


def test_mnist_in_other_sizes_and_in_rgb(tmp_path):
    write_mnist(tmp_path)
    small = MNIST(tmp_path).images(range(7))
    large = MNIST(tmp_path, image_size=64, channels=3).images(range(7))
    assert large.shape == (7, 3, 64, 64)
    assert torch.equal(large[:, 0], large[:, 2])
    back = torch.nn.functional.avg_pool2d(large[:, :1].float(), 2)
    assert (back - small).abs().mean() < 30  # of noise in 0 to 255
    assert abs(large.float().mean() - small.float().mean()) < 1


def test_fashion_mnist_has_a_folder_and_names_of_its_own(tmp_path):
    pixels, labels = write_mnist(tmp_path, "FashionMNIST")
    data = FashionMNIST(tmp_path)
    assert data.schema.names == ("clothes",)
    assert data.schema.variants["clothes"][9] == "Ankle boot"
    assert data.labels[:, 0].tolist() == labels
    assert np.array_equal(data.images(range(7))[:, 0, 2:30, 2:30].numpy(), pixels)


RAW = "MNIST/raw"


def _cut(root, name, length):
    file = root / RAW / name
    file.write_bytes(file.read_bytes()[:length])


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (
            lambda d: (d / RAW / "train-images-idx3-ubyte").unlink(),
            "train-images-idx3-ubyte",
            "missing; expected an idx file",
        ),
        (
            lambda d: (d / RAW / "t10k-labels-idx1-ubyte").rename(
                d / RAW / "t10k-labels-idx1-ubyte.gz"
            ),
            "t10k-labels-idx1-ubyte",
            "missing; expected an idx file; t10k-labels-idx1-ubyte.gz is there: unpack it",
        ),
        (
            lambda d: _cut(d, "train-images-idx3-ubyte", 1000),
            "train-images-idx3-ubyte",
            "expected 3936 bytes as its header states, found 1000",
        ),
        (
            lambda d: _cut(d, "train-labels-idx1-ubyte", 7),
            "train-labels-idx1-ubyte",
            "expected an idx file of bytes in 1 dimensions, which begins with 00 00 08 01; "
            "found 00 00 08 01",
        ),
        (
            lambda d: _cut(d, "train-labels-idx1-ubyte", 0),
            "train-labels-idx1-ubyte",
            "expected an idx file of bytes in 1 dimensions, which begins with 00 00 08 01; "
            "found an empty file",
        ),
        (
            lambda d: (d / RAW / "t10k-images-idx3-ubyte").write_bytes(b"<html>not here</html>"),
            "t10k-images-idx3-ubyte",
            "expected an idx file of bytes in 3 dimensions, which begins with 00 00 08 03; "
            "found 3c 68 74 6d",
        ),
        (
            lambda d: write_idx(d / RAW / "train-labels-idx1-ubyte", np.zeros(4, np.uint8)),
            "train-labels-idx1-ubyte",
            "expected 5 labels, one for each image of {}/train-images-idx3-ubyte; found 4",
        ),
        (
            lambda d: write_idx(d / RAW / "train-labels-idx1-ubyte", np.full(5, 10, np.uint8)),
            "train-labels-idx1-ubyte",
            "expected labels from 0 to 9, found 10",
        ),
        (
            lambda d: write_idx(d / RAW / "t10k-images-idx3-ubyte", np.zeros((2, 8, 9), np.uint8)),
            "t10k-images-idx3-ubyte",
            "expected images of 28 x 28 pixels, found 8 x 9",
        ),
    ],
)
def test_damaged_mnist_is_named(tmp_path, damage, name, message):
    write_mnist(tmp_path)
    damage(tmp_path)
    message = message.replace("{}", str(tmp_path / RAW))
    with pytest.raises(DatasetError, match=f"^{re.escape(f'{tmp_path / RAW / name}: {message}')}$"):
        MNIST(tmp_path)


@pytest.fixture
def served(tmp_path):
    """A folder and the address at which its files can be fetched."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_download_fetches_through_torchvision(tmp_path, monkeypatch, served):
    folder, address = served
    pixels, _ = write_mnist(tmp_path / "source")
    resources = []
    for file in sorted((tmp_path / "source" / RAW).iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST.source, "resources", resources)
    monkeypatch.setattr(MNIST.source, "mirrors", [address])
    data = MNIST(tmp_path / "fetched", download=True)
    assert np.array_equal(data.images(range(7))[:, 0, 2:30, 2:30].numpy(), pixels)


def test_a_download_that_fails_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST.source, "mirrors", [(tmp_path / "nowhere").as_uri() + "/"])
    message = f"{tmp_path / RAW}: cannot download MNIST ("
    with raises(DatasetError, message) as error:
        MNIST(tmp_path, download=True)
    assert "\n" not in str(error.value)
    assert "put train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images" in str(error.value)


# CelebA


def test_celeba(tmp_path):
    write_celeba(tmp_path)
    data = CelebA(tmp_path, image_size=8)
    assert len(data) == 4
    assert data.schema.names == ("Bald", "Eyeglasses", "Smiling")
    assert data.schema.variants["Smiling"] == ("no", "yes")
    assert data.labels.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert data.images(range(4)).shape == (4, 3, 8, 8)
    assert data.test_rows.tolist() == [3]
    data = CelebA(tmp_path, attributes=["Smiling", "Bald"])
    assert data.labels.tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]


def test_the_splits_of_celeba(tmp_path):
    write_celeba(tmp_path)
    for split, names in {
        "train": ["000001.jpg", "000002.jpg"],
        "valid": ["000003.jpg"],
        "test": ["000004.jpg"],
    }.items():
        assert [file.name for file in CelebA(tmp_path, split=split).files] == names
    with raises(ValueError, "split is 'val'; allowed: train, valid, test, all"):
        CelebA(tmp_path, split="val")


ATTRIBUTES = "celeba/list_attr_celeba.txt"
PARTITION = "celeba/list_eval_partition.txt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: (d / "celeba" / "img_align_celeba").rename(d / "elsewhere"),
            "celeba/img_align_celeba: missing; expected the folder of images",
        ),
        (
            lambda d: (d / "celeba" / "img_align_celeba" / "000003.jpg").unlink(),
            "celeba/img_align_celeba/000003.jpg: missing; expected an image",
        ),
        (lambda d: (d / ATTRIBUTES).unlink(), f"{ATTRIBUTES}: missing; it belongs to CelebA"),
        (lambda d: (d / PARTITION).unlink(), f"{PARTITION}: missing; it belongs to CelebA"),
        (lambda d: (d / ATTRIBUTES).write_bytes(b"\xff"), f"{ATTRIBUTES}: expected text"),
        (
            lambda d: (d / ATTRIBUTES).write_text("Bald\n"),
            f"{ATTRIBUTES}, line 1: expected the number of images",
        ),
        (
            lambda d: (d / ATTRIBUTES).write_text("1\nBald Bald\n000001.jpg 1 1\n"),
            f"{ATTRIBUTES}, line 2: expected the attributes' names, each once",
        ),
        (
            lambda d: (d / ATTRIBUTES).write_text("1\nBald Smiling\n000001.jpg -1\n"),
            f"{ATTRIBUTES}, line 3: expected an image's name and 2 values, each -1 or 1; "
            "found '000001.jpg -1'",
        ),
        (
            lambda d: (d / ATTRIBUTES).write_text("1\nBald\n000001.jpg 0\n"),
            f"{ATTRIBUTES}, line 3: expected an image's name and 1 values, each -1 or 1",
        ),
        (
            lambda d: (d / ATTRIBUTES).write_text("202599\nBald\n000001.jpg 1\n"),
            f"{ATTRIBUTES}: expected 202599 images as line 1 states, found 1",
        ),
        (
            lambda d: (d / PARTITION).write_text("000001.jpg 0\n000002.jpg 3\n"),
            f"{PARTITION}, line 2: expected an image's name and 0, 1 or 2; found '000002.jpg 3'",
        ),
        (
            lambda d: (d / PARTITION).write_text("000001.jpg 0\n"),
            f"{PARTITION}: expected a line for 000002.jpg, found none",
        ),
    ],
)
def test_damaged_celeba_is_named(tmp_path, damage, message):
    write_celeba(tmp_path)
    damage(tmp_path)
    with raises(DatasetError, f"{tmp_path}/{message}"):
        split = "all" if "partition" not in message else "train"
        CelebA(tmp_path, split=split)
        CelebA(tmp_path, split="valid")


def test_the_test_part_of_celeba_follows_what_is_left_out(tmp_path):
    write_celeba(tmp_path)
    (tmp_path / "celeba" / "img_align_celeba" / "000002.jpg").write_bytes(b"damaged")
    data = open_dataset(f"celeba:{tmp_path}?damaged=skip", 8)
    assert data.files[data.test_rows[0]].name == "000004.jpg"
    assert data.labels.tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0]]
    (tmp_path / PARTITION).unlink()
    assert CelebA(tmp_path).test_rows is None


def test_celeba_needs_no_download_when_it_is_there(tmp_path):
    write_celeba(tmp_path)
    assert len(CelebA(tmp_path, download=True)) == 4


# Finding the reader


def test_every_reader_opens_by_name(tmp_path, table):
    write_mnist(tmp_path / "m")
    write_mnist(tmp_path / "m", "FashionMNIST")
    write_celeba(tmp_path / "c")
    write_emoji(tmp_path / "e")
    for spec, kind, shape in (
        (f"mnist:{tmp_path}/m", MNIST, (1, 1, 16, 16)),
        (f"fashion-mnist:{tmp_path}/m", FashionMNIST, (1, 1, 16, 16)),
        (f"celeba:{tmp_path}/c", CelebA, (1, 3, 16, 16)),
        (f"emoji:{tmp_path}/e", EmojiFolder, (1, 3, 16, 16)),
        (f"table:{table}", AttributeTable, (1, 3, 16, 16)),
        (f"folder:{table}", ImageFolder, (1, 3, 16, 16)),
    ):
        data = open_dataset(spec, 16)
        assert type(data) is kind
        assert data.images([0]).shape == shape
        assert (data.image_size, data.channels) == (16, shape[1])
    assert open_dataset(f"mnist:{tmp_path}/m", 32, channels=3).images([0]).shape[1] == 3
    assert open_dataset(f"folder:{table}", 8, channels=1).images([0]).shape == (1, 1, 8, 8)


def test_layouts_are_recognised(tmp_path, table, faces):
    write_emoji(tmp_path / "e")
    write_image(tmp_path / "p" / "x.png")
    (tmp_path / "p" / "figures.csv").write_text("beside no image of its name")
    assert type(open_dataset(tmp_path / "e")) is EmojiFolder
    assert type(open_dataset(table)) is AttributeTable
    assert type(open_dataset(tmp_path / "p")) is ImageFolder
    assert type(open_dataset(str(faces))) is CartoonSet


def test_a_cartoon_set_that_lacks_one_csv_is_no_plain_folder(tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "b.csv").write_text('"hair", 0, 2\n')
    with raises(DatasetError, f"{tmp_path}/a.csv: missing"):
        open_dataset(tmp_path)


def test_options_after_the_folder(tmp_path):
    write_celeba(tmp_path / "c")
    write_emoji(tmp_path / "e")
    data = open_dataset(f"celeba:{tmp_path}/c?attributes=Smiling, Bald;split=train")
    assert data.schema.names == ("Smiling", "Bald")
    assert len(data) == 2
    assert len(open_dataset(f"{tmp_path}/e?category=Smileys & Emotion")) == 2
    assert len(open_dataset(f"{tmp_path}/e?category=face", category="People & Body")) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist:", "data is 'mnist:'; it lacks the folder: mnist:FOLDER"),
        ("cifar:{}", "data is 'cifar:{}'; allowed: a folder, or one of mnist:FOLDER, "),
        ("{}/none", "{}/none: no such folder; allowed: a folder, or one of mnist:FOLDER, "),
        ("{}?category=face", "folder has no option 'category'; allowed: image_size, channels"),
        ("{}?category", "data has the option 'category'; expected NAME=VALUE, each name once"),
        ("{}?a=1;a=2", "data has the option 'a=2'; expected NAME=VALUE, each name once"),
        ("{}?image_size=8", "data has the option 'image_size=8'; pass image_size as an argument"),
    ],
)
def test_a_wrong_line_says_what_is_allowed(tmp_path, spec, message):
    write_image(tmp_path / "x.png")
    with raises(ValueError, message.replace("{}", str(tmp_path))):
        open_dataset(spec.replace("{}", str(tmp_path)))


def test_a_folder_with_a_colon_in_its_name(tmp_path):
    write_image(tmp_path / "a:b" / "x.png")
    assert len(open_dataset(tmp_path / "a:b")) == 1
