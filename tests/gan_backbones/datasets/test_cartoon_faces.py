import json
import re
import sys
from collections import Counter

import numpy as np
import pytest

from gan_backbones.datasets import CartoonSet, cartoon_faces, render_cartoon_faces
from gan_backbones.datasets.cartoon_faces import (
    NONE,
    STYLES,
    draw_face,
    draw_labels,
    draw_shades,
    image_file,
)

# Pixels (x, y) that no variant of any other attribute covers.
FOREHEAD = {"avataaars": (30, 25), "toon-head": (31, 26)}
EVERY_STYLE = pytest.mark.parametrize("style", list(STYLES))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def variants(style, labels):
    """Attribute name to the drawn variant's name."""
    attributes = STYLES[style].attributes.items()
    return {name: a.variants[label] for (name, a), label in zip(attributes, labels, strict=True)}


def count_pixels(image, colour):
    rgb = [int(colour[i : i + 2], 16) for i in (0, 2, 4)]
    return int((np.asarray(image) == rgb).all(axis=2).sum())


def test_images_do_not_depend_on_the_number_of_processes(faces, tmp_path):
    render_cartoon_faces(tmp_path, 70, seed=3, processes=2)  # 70 is more than one chunk
    assert len(list(faces.rglob("*.png"))) == 70
    assert contents(tmp_path) == contents(faces)


def test_resuming_renders_only_what_is_missing(faces, tmp_path):
    render_cartoon_faces(tmp_path, 5, seed=3, processes=1)
    gone = [image_file(tmp_path, 1), image_file(tmp_path, 3).with_suffix(".csv")]
    for file in gone:
        file.unlink()
    untouched = [
        image_file(tmp_path, i).with_suffix(s) for i in (0, 2, 4) for s in (".png", ".csv")
    ]
    before = [file.stat().st_mtime_ns for file in untouched]
    render_cartoon_faces(tmp_path, 70, seed=3, processes=1)
    assert [file.stat().st_mtime_ns for file in untouched] == before
    assert contents(tmp_path) == contents(faces)


def test_rendering_again_draws_nothing(tmp_path, monkeypatch):
    render_cartoon_faces(tmp_path, 2, processes=1)
    monkeypatch.setattr(cartoon_faces, "ProcessPoolExecutor", RefusingPool)
    assert render_cartoon_faces(tmp_path, 2) == tmp_path
    assert render_cartoon_faces(tmp_path, 1) == tmp_path


class RefusingPool:
    def __init__(self, *_): ...
    def __enter__(self):
        return self

    def __exit__(self, *_): ...
    def shutdown(self, **_): ...
    def submit(self, *_):
        pytest.fail("something was rendered")


def test_another_seed_or_style_is_refused_in_the_same_folder(tmp_path):
    render_cartoon_faces(tmp_path, 1, seed=3, processes=1)
    before = contents(tmp_path)
    for style, seed in (("avataaars", 4), ("toon-head", 3)):
        message = (
            f"{tmp_path} holds style 'avataaars', seed 3; "
            f"asked for style '{style}', seed {seed}: choose another folder"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            render_cartoon_faces(tmp_path, 2, seed=seed, style=style)
    assert contents(tmp_path) == before


def test_a_folder_with_other_variants_is_refused(tmp_path):
    render_cartoon_faces(tmp_path, 1, processes=1)
    schema = tmp_path / "schema.json"
    schema.write_text('{"hair": ["none"]}')
    message = f"{schema} lists other variants than style 'avataaars' has: choose another folder"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        render_cartoon_faces(tmp_path, 2)
    assert schema.read_text() == '{"hair": ["none"]}'


def test_the_folder_tells_its_origin(faces):
    origin = json.loads((faces / "render.json").read_text())
    assert (origin["style"], origin["seed"]) == ("avataaars", 3)
    assert "Pablo Stanley" in origin["licence"]
    assert "CC BY 4.0" in STYLES["toon-head"].licence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 1, "style": "manga"}, "unknown style 'manga'; allowed: avataaars, toon-head"),
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"count": 1, "seed": -1}, "seed is -1; it must not be negative"),
    ],
)
def test_bad_arguments_leave_no_files(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        render_cartoon_faces(tmp_path / "new", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["resvg_py", "dicebear", "dicebear_styles"])
def test_a_missing_renderer_says_how_to_get_it(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    cartoon_faces._renderer.cache_clear()
    message = f"rendering faces needs {package}: pip install 'latentgym[data]'"
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        render_cartoon_faces(tmp_path / "new", 1)
    with pytest.raises(ModuleNotFoundError, match=f"^{re.escape(message)}$"):
        draw_face("avataaars", [0] * 10)
    assert not list(tmp_path.iterdir())


def test_an_error_in_a_worker_stops_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(cartoon_faces, "IMAGES_PER_FOLDER", 64)  # one chunk a folder
    tmp_path.joinpath("0").write_text("in the way of the first folder")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "0"))):
        render_cartoon_faces(tmp_path, 10 * 64, processes=1)
    assert len(list(tmp_path.rglob("*.png"))) <= 4 * 64  # what was under way


@EVERY_STYLE
def test_labels_match_what_is_drawn(style):
    """Every colour, and only those colours, can be seen; the forehead has the skin's."""
    colours = {n: a for n, a in STYLES[style].attributes.items() if a.is_colour}
    seen = set()
    for index in range(80):
        labels = draw_labels(STYLES[style], 5, index)
        face, drawn = draw_face(style, labels), variants(style, labels)
        assert face.size == (64, 64)
        assert face.mode == "RGB"
        assert bytes(face.getpixel(FOREHEAD[style])).hex() == drawn["skinColor"]
        visible = {drawn[name] for name in colours} - {NONE}
        for name, attribute in colours.items():
            for colour in set(attribute.variants) - {NONE}:
                if colour == drawn[name]:
                    assert count_pixels(face, colour) >= 40, (name, drawn)
                elif colour not in visible:
                    assert count_pixels(face, colour) <= 2, (name, drawn)
        seen |= {(name, drawn[name]) for name in colours}
    assert len(seen) == sum(len(a.variants) for a in colours.values())


@pytest.mark.parametrize(
    ("skin", "shade", "colour"),
    [
        (1, 0.25, "be7441"),  # ae5d29, a quarter of the way to edb98a
        (1, -0.25, "9b562c"),  # and to 614335
        (0, -0.4, "614335"),  # there is nothing darker
        (3, 0.4, "ffdbb4"),
    ],
)
def test_a_shade_lies_on_the_way_to_the_colour_beside(skin, shade, colour):
    names = list(STYLES["avataaars"].attributes)
    labels, shades = [0] * len(names), [0.0] * len(names)
    labels[names.index("skinColor")], shades[names.index("skinColor")] = skin, shade
    face = draw_face("avataaars", labels, shades)
    assert bytes(face.getpixel(FOREHEAD["avataaars"])).hex() == colour


def test_no_colour_is_shaded_towards_none():
    names = list(STYLES["avataaars"].attributes)
    glasses, colour = names.index("glasses"), names.index("glassesColor")
    labels, shades = [0] * len(names), [0.0] * len(names)
    labels[glasses], labels[colour], shades[colour] = 1, 1, -0.4
    plain = draw_face("avataaars", labels)
    assert draw_face("avataaars", labels, shades).tobytes() == plain.tobytes()


@EVERY_STYLE
def test_draw_shades_depends_on_seed_and_index_alone(style):
    style = STYLES[style]
    shades = np.array([draw_shades(style, 8, index) for index in range(200)])
    assert shades[7].tolist() == draw_shades(style, 8, 7)
    for column, attribute in zip(shades.T, style.attributes.values(), strict=True):
        if attribute.is_colour and style.shade:
            assert 0.9 * style.shade < column.max() <= style.shade
            assert 0.9 * style.shade < -column.min() <= style.shade
        else:
            assert not column.any()


@EVERY_STYLE
def test_every_variant_changes_the_picture(style):
    """Faces that differ in one label alone differ in many pixels: glasses from none and so on."""
    attributes = STYLES[style].attributes
    base = {name: len(a.variants) - 1 for name, a in attributes.items()}  # every part present
    for name, attribute in attributes.items():
        faces = []
        for label in range(len(attribute.variants)):
            if attribute.part is not None and label == 0:
                continue  # a colour is none only where its part is
            labels = {**base, name: label}
            if attribute.variants[label] == NONE:
                labels |= {n: 0 for n, a in attributes.items() if a.part == name}
            faces.append(np.asarray(draw_face(style, labels.values())))
        for i, face in enumerate(faces):
            for other in faces[:i]:
                assert (face != other).any(axis=2).sum() >= 10, (name, i)


@EVERY_STYLE
def test_draw_labels_depends_on_seed_and_index_alone(style):
    style = STYLES[style]
    forwards = [draw_labels(style, 8, index) for index in range(20)]
    backwards = [draw_labels(style, 8, index) for index in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(map(tuple, forwards))) == 20
    assert forwards != [draw_labels(style, 9, index) for index in range(20)]


@EVERY_STYLE
def test_shares_of_the_variants_are_as_documented(style):
    count = 3000
    style = STYLES[style]
    table = np.array([draw_labels(style, 1, index) for index in range(count)])
    columns = dict(zip(style.attributes, table.T, strict=True))
    for name, attribute in style.attributes.items():
        variants, column = attribute.variants, columns[name]
        none_share = attribute.none_share
        if attribute.part is not None:
            part = columns[attribute.part]
            assert np.array_equal(column == 0, part == 0)  # no colour without its part
            none_share = style.attributes[attribute.part].none_share
        frequencies = Counter(column.tolist())
        assert set(frequencies) == set(range(len(variants)))
        for label, variant in enumerate(variants):
            share = (1 - none_share) / (len(variants) - (NONE in variants))
            expected = none_share if variant == NONE else share
            tolerance = 4.5 * (expected * (1 - expected) / count) ** 0.5
            assert abs(frequencies[label] / count - expected) < tolerance, (name, variant)


@EVERY_STYLE
def test_none_comes_first_where_a_part_may_be_missing(style):
    for attribute in STYLES[style].attributes.values():
        assert NONE not in attribute.variants[1:]
        may_be_missing = attribute.none_share > 0 or attribute.part is not None
        assert (attribute.variants[0] == NONE) == may_be_missing


@EVERY_STYLE
def test_a_rendered_folder_reads_back(style, tmp_path):
    data = CartoonSet(render_cartoon_faces(tmp_path, 4, seed=6, style=style, processes=1))
    assert data.schema == STYLES[style].schema
    for index in range(4):
        labels = draw_labels(STYLES[style], 6, index)
        assert data.labels[index].tolist() == labels
        shades = draw_shades(STYLES[style], 6, index)
        face = np.asarray(draw_face(style, labels, shades)).transpose(2, 0, 1)
        assert np.array_equal(data.images([index])[0].numpy(), face)
