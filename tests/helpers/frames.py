"""Views to draw, and what to ask of drawn frames."""

import dataclasses

import numpy as np

from latentgym.rendering.frame import EditView

GREY = np.full((64, 64, 3), 120, dtype=np.uint8)


def make_view(count: int = 10, **changes) -> EditView:
    """``count`` attributes, of which the first is the target; nothing has changed yet."""
    names = [f"attribute{i}" for i in range(count)]
    view = EditView(
        start=GREY,
        current=GREY,
        target={names[0]: "wanted"},
        attributes={name: ("seen", 0.5) for name in names},
        target_probabilities={names[0]: 0.2},
        start_target_probabilities={names[0]: 0.1},
        start_attributes={name: "seen" for name in names},
        realism=0.5,
        start_realism=0.5,
        step=0,
        max_steps=40,
        episode_return=0.0,
    )
    return dataclasses.replace(view, **changes)


def changed_box(before: np.ndarray, after: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of the pixels that differ."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    assert len(rows), "the frames are the same"
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def count_colour(frame: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((frame == np.array(colour)).all(axis=-1).sum())
