"""Pictures of what an agent learned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np

from agents.evaluation import bootstrap_interval
from gan_backbones.utils.files import write_atomically

matplotlib.use("Agg")  # files only; works without a screen
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

from latentgym.rendering.fonts import font_for


def save_edits(
    path: Path, starts: np.ndarray, edited: np.ndarray, captions: list[str], title: str
) -> None:
    """Start images above, edited ones below.

    Args:
        path: a PNG file.
        starts: uint8 ``[N, H, W, 3]``.
        edited: the same, after the edits.
        captions: one per column, under it; may have several lines.
        title: over everything.
    """
    count = len(starts)
    figure, axes = plt.subplots(2, count, figsize=(1.3 * count, 3.4), squeeze=False)
    for column in range(count):
        for row, image in ((0, starts[column]), (1, edited[column])):
            axes[row, column].imshow(image, interpolation="nearest")
            axes[row, column].set(xticks=[], yticks=[])
            for spine in axes[row, column].spines.values():
                spine.set_color("#dddddd")
        axes[1, column].set_xlabel(captions[column], fontsize=8)
    axes[0, 0].set_ylabel("start", fontsize=10)
    axes[1, 0].set_ylabel("edited", fontsize=10)
    figure.suptitle(title, fontsize=11)
    _set_fonts(figure)
    figure.tight_layout(pad=0.6)
    _save(figure, path, dpi=130)


def save_rows(
    path: Path,
    images: np.ndarray,
    rows: list[str],
    columns: list[str],
    title: str,
    captions: list[list[str]] | None = None,
) -> None:
    """Images in rows and columns, both of which are labelled.

    Args:
        path: a PNG file.
        images: uint8 ``[R, C, H, W, 3]``.
        rows: one label per row, to its left.
        columns: one label per column, above it.
        title: over everything.
        captions: one per image, under it.
    """
    side = 0.82  # inches
    shape = images.shape[:2]
    figure, axes = plt.subplots(*shape, figsize=(side * shape[1], side * shape[0]), squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.06, hspace=0.3 if captions else 0.06)
    for row, column in np.ndindex(*shape):
        axis = axes[row, column]
        axis.imshow(images[row, column], interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_color("#dddddd")
        if row == 0:
            axis.set_title(columns[column], fontsize=8, pad=4)
        if column == 0:
            axis.set_ylabel(rows[row], fontsize=8, rotation=0, ha="right", va="center", labelpad=5)
        if captions:
            axis.set_xlabel(captions[row][column], fontsize=7, labelpad=2)
    lines = 1 + max(label.count("\n") for label in columns)
    figure.suptitle(
        title, fontsize=10, x=0.5, y=1 + (0.1 + 0.15 * lines) / figure.get_figheight(), va="bottom"
    )
    _set_fonts(figure)
    _save(figure, path, dpi=160, bbox_inches="tight", pad_inches=0.15)


def save_learning_curve(
    path: Path,
    history: list[dict[str, float]],
    levels: dict[str, dict[str, float]],
    title: str,
) -> None:
    """Success, kept and realism against steps, with other methods' levels as dashed lines.

    Args:
        path: a PNG file.
        history: one dict per evaluation, with ``timesteps``.
        levels: method to its means.
        title: over everything.
    """
    panels = {"is_success": "success", "kept": "kept", "scores/realism": "realism"}
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2))
    steps = [point["timesteps"] for point in history]
    for axis, (name, label) in zip(axes, panels.items(), strict=True):
        axis.plot(steps, [point[name] for point in history], color="#2563eb", label="agent")
        for (method, means), colour in zip(levels.items(), ("#d06804", "#808690"), strict=False):
            axis.axhline(means[name], color=colour, linestyle="--", linewidth=1.2, label=method)
        axis.set(title=label, xlabel="environment steps", ylim=(0, 1.02))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    _set_fonts(figure)
    figure.tight_layout()
    _save(figure, path, dpi=130)


def save_curves(
    path: Path,
    curves: dict[str, tuple[np.ndarray, np.ndarray]],
    metric: str,
    title: str,
    seed: int,
) -> None:
    """Learning curves: mean over runs, with a 95 % bootstrap band of the mean.

    Args:
        path: a PNG file.
        curves: label to steps ``[T]`` and values ``[runs, T]``.
        metric: what the values are.
        title: over everything.
        seed: of the bootstrap.
    """
    figure, axis = plt.subplots(figsize=(7, 4.2))
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for index, (label, (steps, values)) in enumerate(curves.items()):
        colour = "#2563eb" if index == 0 else colours[index % len(colours)]
        axis.plot(steps, values.mean(axis=0), color=colour, linewidth=1.8, label=label)
        if len(values) > 1:
            bands = [bootstrap_interval(column, seed=seed) for column in values.T]
            low, high = zip(*bands, strict=True)
            axis.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.set(xlabel="environment steps", ylabel=metric)
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.ticklabel_format(axis="x", style="sci", scilimits=(3, 3), useMathText=True)
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(title, fontsize=11)
    _set_fonts(figure)
    figure.tight_layout()
    _save(figure, path, dpi=130)


def save_gif(path: Path, frames: list[np.ndarray], fps: int, rest: float = 2.0) -> None:
    """Frames uint8 ``[H, W, 3]`` as an endless GIF that rests on its last frame, in seconds."""
    durations = [1000 / fps] * (len(frames) - 1) + [1000 * rest]
    gif = iio.imwrite("<bytes>", np.stack(frames), extension=".gif", duration=durations, loop=0)
    write_atomically(path, gif)


def _save(figure: Figure, path: Path, **options: Any) -> None:
    """Write and close a figure, in the format that the file's ending names."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:] or "png", **options)
    plt.close(figure)
    write_atomically(path, content.getvalue())


def _set_fonts(figure: Figure) -> None:
    """Draw each text of a figure in a font that has its characters."""
    usual = font_manager.findfont("DejaVu Sans")
    for label in figure.findobj(Text):
        if not label.get_text().isascii():
            file, text = font_for(label.get_text(), usual)
            font = font_manager.FontProperties(fname=file, size=label.get_fontsize())
            label.set(text=text, fontproperties=font)
