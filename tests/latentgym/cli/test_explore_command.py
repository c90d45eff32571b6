"""`latentgym explore`."""

import json
import re

import imageio.v3 as iio
import numpy as np
import pytest
from backbones import SCHEMA, conditional_backbone, tiny_backbone
from small_datasets import write_image, write_mnist

from latentgym.cli import main

ALWAYS = (
    "interpolation.png",
    "interpolation.gif",
    "constants.png",
    "coordinates.png",
    "coordinates.gif",
    "truncation.png",
)
ATTRIBUTES = ("attributes.png", "attributes.json")


@pytest.fixture
def data(tmp_path):
    for i in range(8):
        write_image(tmp_path / "data" / f"{i}.png", (30 * i, 100, 255 - 30 * i), 20)
    return tmp_path / "data"


def explore(backbone, out, *arguments):
    main(["explore", "--backbone", str(backbone), "--out", str(out), "--rows", "2", *arguments])


def check(out, text, names):
    """All files are there, told of, whole, and no others."""
    assert {file.name for file in out.iterdir()} == set(names)
    for name in names:
        assert f"{out / name}\n" in text
        if name.endswith("json"):
            continue
        frames = iio.imread(out / name, index=None) if name.endswith("gif") else None
        picture = iio.imread(out / name) if frames is None else frames[0]
        assert picture[..., :3].std() > 5  # something is drawn
        if frames is None:  # nothing touches the edges: no text is clipped
            edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
            assert all((edge == 255).all() for edge in edges)
        else:
            assert len(frames) > 20
            assert np.abs(frames[0].astype(int) - frames[len(frames) // 4]).mean() > 0.2


def test_pictures_of_a_gan(tmp_path, tiny_file, data, capsys):
    out = tmp_path / "out"
    explore(tiny_file, out, "--data", str(data))
    check(out, capsys.readouterr().out, [*ALWAYS, *ATTRIBUTES, "neighbours.png"])
    ranking = json.loads((out / "attributes.json").read_text())
    assert list(ranking) == list(SCHEMA.names)
    for found in ranking.values():
        changes = [item["mean_change_of_logits"] for item in found]
        assert changes == sorted(changes, reverse=True)
        assert changes[-1] > 0


def test_pictures_of_a_conditional_generator(tmp_path, capsys):
    file = tmp_path / "conditional.safetensors"
    conditional_backbone().save(file)
    out, other = tmp_path / "out", tmp_path / "other"
    explore(file, out)
    check(out, capsys.readouterr().out, [*ALWAYS, *ATTRIBUTES, "labels.png"])
    explore(file, other, "--label", "hair=fro", "glasses=round")
    same = [
        (out / name).read_bytes() == (other / name).read_bytes()
        for name in ("truncation.png", "labels.png")
    ]
    assert same == [False, True]  # the grid has every label


def test_pictures_of_a_bare_grey_generator_beside_digits(tmp_path, capsys):
    """No classifier, no judge: nearness by pixels, no attributes."""
    backbone = tiny_backbone(channels=1)
    backbone.classifier = backbone.judge = backbone.schema = None
    backbone.save(tmp_path / "bare.safetensors")
    write_mnist(tmp_path)
    out = tmp_path / "out"
    explore(tmp_path / "bare.safetensors", out, "--data", f"mnist:{tmp_path}", "--rows", "1")
    check(out, capsys.readouterr().out, [*ALWAYS, "neighbours.png"])


def test_the_seed_decides(tmp_path):
    backbone = tiny_backbone()
    backbone.classifier = None  # which spares the search for coordinates
    backbone.save(tmp_path / "bare.safetensors")
    for seed in ("0", "1"):  # that one seed draws one picture is tested above
        explore(tmp_path / "bare.safetensors", tmp_path / seed, "--rows", "1", "--seed", seed)
    pictures = [(tmp_path / seed / "truncation.png").read_bytes() for seed in ("0", "1")]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "0"], "rows is 0; it must be at least 1"),
        (["--far", "nan"], "far is nan; it must be a finite number above 0"),
        (["--backbone", "none"], "unknown backbone 'none'; known: "),
        (["--label", "hair=bun"], "the generator is a Generator; only a ConditionalGenerator"),
        (["--label", "hair"], "label is 'hair'; expected ATTRIBUTE=VARIANT"),
        (["--data", "/nowhere"], "/nowhere: no such folder; allowed: a folder, or one of mnist:"),
    ],
)
def test_a_wrong_argument_is_one_line(tmp_path, tiny_file, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["explore", "--backbone", tiny_file, "--out", str(tmp_path), *arguments])
    assert re.match(re.escape(f"latentgym: {message}"), str(stop.value))
    assert "\n" not in str(stop.value)
