"""The window of `latentgym play`: an edit's frame, the directions to its right, the keys below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentgym.rendering.frame import (
    ACCENT,
    BACKGROUND,
    BAR_HEIGHT,
    CAPTION_Y,
    FAINT,
    FOOTER_Y,
    HEADING,
    HEIGHT,
    IMAGES_TOP,
    INK,
    LIST_PITCH,
    LIST_RIGHT,
    LIST_X,
    MARGIN,
    NEUTRAL,
    NOW_X,
    START_X,
    TRACK,
    WIDTH,
    Colour,
    EditView,
    blank,
    draw_edit,
    pixels,
    signed,
    write,
    write_variant,
)

if TYPE_CHECKING:
    import pygame

PANEL_X = WIDTH + MARGIN
PANEL_RIGHT = PANEL_X + LIST_RIGHT - LIST_X
PLAY_WIDTH, PLAY_HEIGHT = PANEL_RIGHT + MARGIN, HEIGHT + 4 * MARGIN
ROWS = 17  # directions that fit
KEY_ROWS = (HEIGHT + 21, HEIGHT + 43)  # the middle of a line of text
KEY_COLUMNS = [x + offset for x in (START_X, NOW_X, LIST_X) for offset in (0, 136)]
MOVED_RANGE = 5.0
"""Where the bar of how far the latent has moved ends."""


@dataclass(frozen=True)
class PanelView:
    """What stands around the frame.

    Attributes:
        sets: the sets of directions there are.
        current_set: the one that is listed.
        names: of its directions: attribute and variant, or one name.
        moved: how far the latent has moved along each since the start, ``[K]``.
        chosen: which direction the next nudge goes along.
        delta: how far it goes.
        success: whether the judge finds the edit a success.
        kept: share of the other attributes that it sees unchanged, in [0, 1].
        drift: distance from the start latent.
        message: what the last key did, where that cannot be seen.
        keys: keys and what they do; two for each of `KEY_COLUMNS`.
    """

    sets: Sequence[str]
    current_set: str
    names: Sequence[tuple[str, ...]]
    moved: np.ndarray
    chosen: int
    delta: float
    success: bool
    kept: float
    drift: float
    message: str
    keys: Sequence[tuple[str, str]]


def draw_play(view: EditView, panel: PanelView) -> np.ndarray:
    """Draw the whole window: uint8 ``[PLAY_HEIGHT, PLAY_WIDTH, 3]``; needs no display."""
    surface = blank(PLAY_WIDTH, PLAY_HEIGHT)
    draw_edit(surface, view)
    _draw_sets(surface, panel)
    _draw_directions(surface, panel, view.target)
    write(surface, f"delta {panel.delta:g}", PANEL_X, FOOTER_Y, size=HEADING)
    moved = f"moved {signed(float(panel.moved[panel.chosen]))}"
    write(surface, moved, PANEL_RIGHT, FOOTER_Y, size=HEADING, right=True)
    surface.fill(TRACK, (MARGIN, HEIGHT, PLAY_WIDTH - 2 * MARGIN, 1))
    _draw_keys(surface, panel.keys)
    _draw_verdict(surface, panel)
    return pixels(surface)


def _draw_sets(surface: pygame.Surface, panel: PanelView) -> None:
    x = PANEL_X
    for name in panel.sets:
        colour = INK if name == panel.current_set else FAINT
        x = write(surface, name, x, CAPTION_Y, colour).right + MARGIN


def _draw_directions(surface: pygame.Surface, panel: PanelView, target: dict[str, str]) -> None:
    """As many directions as fit, the chosen one among them."""
    count = len(panel.names)
    first = max(0, min(panel.chosen - ROWS // 2, count - ROWS))
    for row, i in enumerate(range(first, min(first + ROWS, count))):
        y = IMAGES_TOP + row * LIST_PITCH + LIST_PITCH // 2
        colour, bar_colour, track = INK, NEUTRAL, TRACK
        if i == panel.chosen:
            colour, bar_colour, track = BACKGROUND, BACKGROUND, NEUTRAL
            band = (PANEL_X - 6, y - LIST_PITCH // 2, PANEL_RIGHT - PANEL_X + 12, LIST_PITCH)
            surface.fill(INK, band)
        elif panel.names[i] in list(target.items()):
            colour = bar_colour = ACCENT
        bar_x = _draw_name(surface, panel.names[i], y, colour)
        _draw_moved(surface, float(panel.moved[i]), bar_x, y, bar_colour, track)
    if count > ROWS:
        _draw_scroll_bar(surface, first, count)


def _draw_scroll_bar(surface: pygame.Surface, first: int, count: int) -> None:
    x, height = PANEL_RIGHT + 9, ROWS * LIST_PITCH
    surface.fill(TRACK, (x, IMAGES_TOP, 3, height))
    thumb = (x, IMAGES_TOP + first * height // count, 3, ROWS * height // count)
    surface.fill(NEUTRAL, thumb)


def _draw_name(surface: pygame.Surface, name: tuple[str, ...], y: int, colour: Colour) -> int:
    """Write a direction's name; returns where its bar begins."""
    write(surface, name[0], PANEL_X, y, colour, width=100)
    if len(name) == 1:
        return PANEL_X + 108
    write_variant(surface, name[1], PANEL_X + 108, y, colour, width=104)
    return PANEL_X + 220


def _draw_moved(
    surface: pygame.Surface, moved: float, x: int, y: int, colour: Colour, track: Colour
) -> None:
    """A bar from the middle to the right, or to the left where the latent moved against it."""
    half, top = (PANEL_RIGHT - x) // 2, y - BAR_HEIGHT // 2
    middle, length = x + half, round(max(-1.0, min(moved / MOVED_RANGE, 1.0)) * half)
    surface.fill(track, (x, top, 2 * half, BAR_HEIGHT))
    surface.fill(colour, (middle + min(length, 0), top, abs(length), BAR_HEIGHT))
    surface.fill(colour, (middle, top - 2, 1, BAR_HEIGHT + 4))


def _draw_keys(surface: pygame.Surface, keys: Sequence[tuple[str, str]]) -> None:
    """Two keys to a column."""
    for i, (key, meaning) in enumerate(keys):
        x, y = KEY_COLUMNS[i // 2], KEY_ROWS[i % 2]
        written = write(surface, key, x, y)
        write(surface, meaning, written.right + 6, y, FAINT)


def _draw_verdict(surface: pygame.Surface, panel: PanelView) -> None:
    y, message_y = KEY_ROWS
    word, colour = ("success", ACCENT) if panel.success else ("no success yet", FAINT)
    write(surface, word, PANEL_X, y, colour)
    figures = f"kept {panel.kept:.0%}   drift {panel.drift:.1f}"
    write(surface, figures, PANEL_RIGHT, y, right=True)
    write(surface, panel.message, PANEL_X, message_y, width=PANEL_RIGHT - PANEL_X)
