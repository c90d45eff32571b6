import dataclasses

import numpy as np
import pytest
from frames import changed_box, count_colour, make_view

from latentgym.rendering import frame as drawing
from latentgym.rendering import panel
from latentgym.rendering.frame import draw_frame
from latentgym.rendering.panel import PanelView, draw_play
from latentgym.rendering.play import KEYS

pytest.importorskip("pygame")

FRAME = (slice(0, drawing.HEIGHT), slice(0, drawing.WIDTH))


def make_panel(count: int = 10, **changes) -> PanelView:
    """``count`` coordinates, of which the first is chosen; nothing has moved yet."""
    view = PanelView(
        sets=["attributes", "coordinates", "pca", "sefa"],
        current_set="coordinates",
        names=[(f"z[{i}]",) for i in range(count)],
        moved=np.zeros(count),
        chosen=0,
        delta=0.5,
        success=False,
        kept=1.0,
        drift=0.0,
        message="",
        keys=[(label, meaning) for label, meaning, _ in KEYS],
    )
    return dataclasses.replace(view, **changes)


def row_y(row: int) -> int:
    return drawing.IMAGES_TOP + row * drawing.LIST_PITCH


@pytest.mark.parametrize("count", [1, 17, 18, 100])
@pytest.mark.parametrize("words", [1, 2])
def test_nothing_runs_into_the_frame_the_margins_or_its_neighbours(count, words):
    long = "a name longer than any column is wide"
    view = make_view(target={"attribute0": long})
    window = draw_play(
        view,
        make_panel(
            count,
            names=[(long,) * words] * count,
            moved=np.full(count, -1000.0),
            chosen=count - 1,
            delta=1 / 64,
            success=True,
            drift=99.9,
            message=long * 3,
        ),
    )
    assert window.shape == (panel.PLAY_HEIGHT, panel.PLAY_WIDTH, 3)
    assert window.dtype == np.uint8
    np.testing.assert_array_equal(window[FRAME], draw_frame(view))
    left, top, right, bottom = changed_box(
        np.broadcast_to(drawing.BACKGROUND, window.shape), window
    )
    assert left >= drawing.MARGIN - 1 and right <= panel.PLAY_WIDTH - 4
    assert top >= drawing.MARGIN and bottom <= panel.PLAY_HEIGHT - 8
    gaps = [slice(drawing.WIDTH, panel.PANEL_X - 6), slice(panel.PANEL_RIGHT + 6, -7)]
    for gap in gaps:  # between frame, list and scroll bar
        assert (window[: drawing.HEIGHT, gap] == drawing.BACKGROUND).all()


def test_keys_stay_in_their_columns():
    assert len(KEYS) <= 2 * len(panel.KEY_COLUMNS)
    footer = draw_play(make_view(), make_panel())[drawing.HEIGHT + 4 :]
    for column in (*panel.KEY_COLUMNS[1:], panel.PANEL_X):
        assert (footer[:, column - 8 : column] == drawing.BACKGROUND).all()


@pytest.mark.parametrize("count", [5, 17, 40, 100])
def test_the_chosen_direction_is_always_in_the_list(count):
    seen = set()
    for chosen in range(count):
        window = draw_play(make_view(), make_panel(count, chosen=chosen))
        column = window[: drawing.HEIGHT, panel.PANEL_X - 3]
        band = np.flatnonzero((column == drawing.INK).all(axis=-1))
        assert len(band) == drawing.LIST_PITCH and band[-1] - band[0] == len(band) - 1
        row = (band[0] - drawing.IMAGES_TOP) // drawing.LIST_PITCH
        first = max(0, min(chosen - panel.ROWS // 2, count - panel.ROWS))
        assert row == chosen - first < panel.ROWS
        seen.add(row)
    assert seen == set(range(min(count, panel.ROWS)))


def test_the_scroll_bar_shows_where_the_list_is_and_only_when_it_is_cut():
    strip = slice(panel.PANEL_RIGHT + 9, panel.PANEL_RIGHT + 12)
    thumbs = []
    for chosen in (0, 50, 99):
        window = draw_play(make_view(), make_panel(100, chosen=chosen))
        thumb = (window[:, strip] == drawing.NEUTRAL).all(axis=(1, 2))
        thumbs.append((np.flatnonzero(thumb)[0], thumb.sum()))
    (top, height), (middle, _), (bottom, _) = thumbs
    assert top == drawing.IMAGES_TOP and top < middle < bottom
    assert bottom + height == pytest.approx(row_y(panel.ROWS), abs=2)
    fits = draw_play(make_view(), make_panel(panel.ROWS))[: drawing.HEIGHT, strip]
    assert (fits == drawing.BACKGROUND).all()


def test_bars_go_right_and_left_as_far_as_the_latent_moved():
    still = draw_play(make_view(), make_panel())
    middle = (panel.PANEL_X + 108 + panel.PANEL_RIGHT) // 2
    for moved in (2.0, -2.0):
        # Not the chosen one, whose number stands below the list.
        window = draw_play(make_view(), make_panel(moved=np.eye(10)[3] * moved))
        left, top, right, bottom = changed_box(still, window)
        assert row_y(3) <= top < bottom <= row_y(4)
        share = (right - left) / (panel.PANEL_RIGHT - middle)
        assert share == pytest.approx(2 / panel.MOVED_RANGE, abs=0.03)
        assert abs((left if moved > 0 else right) - middle) <= 1


def test_what_stands_below_the_list_follows_the_chosen_direction():
    moved = np.arange(10) / 10
    base = draw_play(make_view(), make_panel(moved=moved))
    for change in ({"delta": 0.25}, {"moved": moved + np.eye(10)[0] * 0.01}):
        window = draw_play(make_view(), make_panel(**{"moved": moved, **change}))
        _, top, _, bottom = changed_box(base, window)
        assert drawing.FOOTER_Y - 12 < top < bottom < drawing.FOOTER_Y + 12


def test_directions_of_the_target_stand_out_and_have_swatches():
    names = [("hairColor", "a55728"), ("hairColor", "2c1b18"), ("hair", "bun")]
    listed = make_panel(3, names=names, chosen=2, moved=np.zeros(3))
    with_target = draw_play(make_view(target={"attribute0": "wanted"}), listed)[:, drawing.WIDTH :]
    view = make_view(
        target={"hairColor": "a55728"},
        target_probabilities={"hairColor": 0.5},
        start_target_probabilities={"hairColor": 0.5},
    )
    window = draw_play(view, listed)[:, drawing.WIDTH :]
    _, top, _, bottom = changed_box(with_target, window)
    assert row_y(0) <= top < bottom <= row_y(1)
    assert count_colour(window, drawing.ACCENT) > count_colour(with_target, drawing.ACCENT)
    assert count_colour(window, (0xA5, 0x57, 0x28)) > 100


def test_success_and_messages_are_shown():
    base = draw_play(make_view(), make_panel())
    for change in ({"success": True}, {"kept": 0.5}, {"drift": 2.0}, {"message": "saved"}):
        left, top, _, _ = changed_box(base, draw_play(make_view(), make_panel(**change)))
        assert left >= panel.PANEL_X and top > drawing.HEIGHT
