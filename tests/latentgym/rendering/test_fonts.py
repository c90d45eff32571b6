from pathlib import Path

import numpy as np
import pytest
from frames import make_view
from matplotlib import font_manager, ft2font

from latentgym.cli import pictures
from latentgym.rendering.fonts import font_for
from latentgym.rendering.frame import draw_frame

DEJAVU = font_manager.findfont("DejaVu Sans")
CMEX = next(e.fname for e in font_manager.fontManager.ttflist if e.name == "cmex10")
CHINESE, ARABIC = "发色", "لون"  # DejaVu Sans, which comes with Matplotlib, has Arabic only


@pytest.fixture
def few_fonts(monkeypatch):
    """A machine on which there are no fonts but Matplotlib's own."""
    folder = str(Path(DEJAVU).parent)
    entries = [e for e in font_manager.fontManager.ttflist if str(Path(e.fname).parent) == folder]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    font_for.cache_clear()
    yield
    font_for.cache_clear()


def test_the_usual_font_is_kept_where_it_has_the_characters(few_fonts):
    assert font_for("hair\ncolour", DEJAVU) == (DEJAVU, "hair\ncolour")
    assert font_for(f"{ARABIC} é", DEJAVU) == (DEJAVU, f"{ARABIC} é")


def test_another_font_is_found_where_the_usual_one_lacks_characters(few_fonts):
    file, text = font_for(ARABIC, CMEX)
    assert text == ARABIC and file != CMEX
    assert all(ft2font.FT2Font(file).get_char_index(ord(c)) for c in ARABIC)


def test_characters_that_no_font_has_are_replaced_by_codes(few_fonts):
    assert font_for(f"a {CHINESE}", DEJAVU) == (DEJAVU, "a U+53D1 U+8272")


def test_a_font_file_that_is_gone_is_passed_over(few_fonts, monkeypatch):
    gone = font_manager.FontEntry(fname="gone.ttf", name="A Sans", style="normal", weight=400)
    entries = [gone, *font_manager.fontManager.ttflist]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    assert font_for(ARABIC, CMEX)[1] == ARABIC


@pytest.mark.parametrize("names", [("发色", "眼镜"), ("لون", "شعر"), ("กขค", "งจฉ")], ids=ascii)
def test_names_of_any_script_are_told_apart_in_frames(names, few_fonts):
    def frame(name):
        seen = {name: ("x", 0.5)}
        return draw_frame(make_view(attributes=seen, start_attributes={name: "x"}))

    one, other = map(frame, names)
    assert not np.array_equal(one, other)  # boxes would all look the same


def test_names_of_any_script_in_pictures(few_fonts, tmp_path, recwarn):
    images = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    pictures.save_edits(tmp_path / "edits.png", images, images, [CHINESE, ARABIC], CHINESE)
    labels = [[CHINESE, ARABIC]] * 2
    grid = np.stack([images, images])
    pictures.save_rows(tmp_path / "rows.png", grid, labels[0], labels[0], ARABIC, labels)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
