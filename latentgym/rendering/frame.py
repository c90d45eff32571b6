"""What an edit looks like: one frame per step, a window to watch it in, tiled pictures."""

from __future__ import annotations

import math
import os
import re
import threading
import weakref
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled

from latentgym.rendering.fonts import font_for

if TYPE_CHECKING:
    import pygame

    from latentgym.core import EditCore

Colour = tuple[int, int, int]

# Both sides are multiples of 16, which video encoders ask for.
WIDTH, HEIGHT = 864, 496
MARGIN = 16
IMAGE_SIDE = 256
IMAGES_TOP = 40
START_X, NOW_X, LIST_X = MARGIN, 2 * MARGIN + IMAGE_SIDE, 4 * MARGIN + 2 * IMAGE_SIDE
NOW_RIGHT, LIST_RIGHT = NOW_X + IMAGE_SIDE, WIDTH - MARGIN
CAPTION_Y, SCORES_Y, FOOTER_Y = 26, 322, 470  # the middle of a line of text
SCORE_PITCH, LIST_PITCH = 23, 24
MAX_TARGETS, MAX_ATTRIBUTES = 4, 18  # rows that fit

BACKGROUND: Colour = (250, 250, 248)
INK: Colour = (40, 44, 52)
FAINT: Colour = (128, 134, 143)
TRACK: Colour = (225, 228, 232)
NEUTRAL: Colour = (150, 157, 167)
ACCENT: Colour = (37, 99, 235)
ACCENT_PALE: Colour = (228, 237, 253)
CHANGED: Colour = (208, 104, 4)

TEXT, HEADING = 18, 22  # font sizes
SUPERSAMPLING = 3
BUNDLED_SCALE = 0.6875  # pygame draws its bundled font smaller than the size it is given
BAR_HEIGHT, SWATCH_WIDTH = 10, 18
HEX_COLOUR = re.compile(r"[0-9a-fA-F]{6}")

_LOCK = threading.RLock()  # pygame's lazy imports and its fonts are not safe for threads


@dataclass(frozen=True)
class EditView:
    """What one frame shows of an edit.

    Attributes:
        start: the image the edit started from, uint8 ``[H, W, 3]``.
        current: the image now, uint8 ``[H, W, 3]``; any size.
        target: attribute to the variant asked for.
        attributes: attribute to its most likely variant now and that variant's probability in
            [0, 1], as the classifier sees the current image; in schema order.
        target_probabilities: target attribute to its wanted variant's probability now.
        start_target_probabilities: the same at the start.
        start_attributes: attribute to the variant seen at the start.
        realism: of the current image, in [0, 1].
        start_realism: of the start image, in [0, 1].
        step: steps taken.
        max_steps: the step budget, if there is one.
        episode_return: the rewards so far, summed.
    """

    start: np.ndarray
    current: np.ndarray
    target: dict[str, str]
    attributes: dict[str, tuple[str, float]]
    target_probabilities: dict[str, float]
    start_target_probabilities: dict[str, float]
    start_attributes: dict[str, str]
    realism: float
    start_realism: float
    step: int
    max_steps: int | None
    episode_return: float


def view_edit(core: EditCore, row: int, step: int, episode_return: float) -> EditView:
    """What a frame shows of one row of a core.

    Args:
        core: of any number of edits.
        row: which edit.
        step: steps taken in it.
        episode_return: its rewards so far, summed.
    """
    schema = core.schema
    probabilities = core.attributes[row].exp().cpu().numpy()
    start_probabilities = core.start_attributes[row].exp().cpu().numpy()
    target = schema.decode(core.wanted[row].cpu().numpy())
    columns = {a: schema.slices[a].start + schema.index(a, v) for a, v in target.items()}
    images = core.images(torch.stack([core.start_latents[row], core.latents[row]]))
    return EditView(
        start=images[0],
        current=images[1],
        target=target,
        attributes={
            name: (variants[int(p.argmax())], float(p.max()))
            for name, variants in schema.variants.items()
            for p in [probabilities[schema.slices[name]]]
        },
        target_probabilities={a: float(probabilities[c]) for a, c in columns.items()},
        start_target_probabilities={a: float(start_probabilities[c]) for a, c in columns.items()},
        start_attributes=schema.decode(core.start_seen[row].cpu().numpy()),
        realism=float(torch.sigmoid(core.realism[row])),
        start_realism=float(torch.sigmoid(core.start_realism[row])),
        step=step,
        max_steps=None,  # gym.make tells nobody but its wrapper
        episode_return=episode_return,
    )


def draw_frame(view: EditView) -> np.ndarray:
    """Draw one frame: both images, the scores under them, the attributes to their right.

    Needs no display.

    Returns:
        uint8 ``[HEIGHT, WIDTH, 3]``, the same size for every view.

    Raises:
        DependencyNotInstalled: pygame is missing.
    """
    surface = blank(WIDTH, HEIGHT)
    draw_edit(surface, view)
    return pixels(surface)


def draw_edit(surface: pygame.Surface, view: EditView) -> None:
    """Draw what :func:`draw_frame` shows into the upper left of ``surface``."""
    _draw_images(surface, view)
    _draw_scores(surface, view)
    _draw_attributes(surface, view)


def blank(width: int, height: int) -> pygame.Surface:
    """An empty surface in the background colour."""
    surface = load_pygame().Surface((width, height), depth=32)
    surface.fill(BACKGROUND)
    return surface


def pixels(surface: pygame.Surface) -> np.ndarray:
    """A surface as uint8 ``[H, W, 3]`` in memory of its own."""
    # Several times faster than surfarray, whose [W, H, 3] has to be transposed.
    flat = np.frombuffer(load_pygame().image.tobytes(surface, "RGB"), dtype=np.uint8)
    width, height = surface.get_size()
    return flat.reshape(height, width, 3).copy()  # frombuffer's own is read-only


def tile(images: np.ndarray, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Lay images out in a grid, row by row, with white gaps.

    Args:
        images: uint8 ``[N, H, W, 3]``, N at least 1.
        columns: images per row; by default what makes the grid nearly square.
        gap: pixels between neighbours.

    Returns:
        uint8 ``[rows * (H + gap) - gap, columns * (W + gap) - gap, 3]``; cells left over are white.
    """
    count, height, width, _ = images.shape
    if count == 0:
        raise ValueError("no images to tile")
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    picture = np.full(shape, 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        picture[top : top + height, left : left + width] = image
    return picture


class Window:
    """A window that shows frames as they come, at most ``fps`` of them a second.

    It opens with the first frame. Each environment has its own window, independent of others'
    and of ``pygame.display``, and leaves them alone: pygame's display is never quit. Where others
    quit pygame, which takes all windows with it, it opens again with the next frame. Key events
    stay in pygame's queue for others to read.

    Args:
        title: in the window's title bar.
        fps: frames per second; :meth:`show` waits to keep it.
    """

    def __init__(self, title: str, fps: int):
        self.closed = False
        """True once the user, or :meth:`close`, closed the window; it does not open again."""
        self._title = title
        self._fps = fps
        self._clock: pygame.time.Clock | None = None
        self._window: pygame.Window | None = None

    def show(self, frame: np.ndarray) -> None:
        """Show ``frame``, uint8 ``[H, W, 3]``; does nothing once the window is closed."""
        if self.closed:
            return
        pygame = load_pygame()
        surface = self._surface((frame.shape[1], frame.shape[0]))
        pygame.surfarray.blit_array(surface, frame.swapaxes(0, 1))
        assert self._window is not None
        self._window.flip()
        pygame.event.pump()  # without it the desktop takes the window for frozen
        _close_on_request()
        if not self.closed:
            self._clock = self._clock or pygame.time.Clock()
            self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window."""
        self.closed = True
        _OPEN.discard(self)
        if self._window is not None:
            self._window.destroy()
            self._window = None

    def _surface(self, size: tuple[int, int]) -> pygame.Surface:
        """What the window shows; it is opened if there is none, or if others have closed it."""
        pygame = load_pygame()
        if self._window is not None and pygame.display.get_init():
            try:
                if self._window.size != size:
                    self._window.size = size
                return self._window.get_surface()
            except pygame.error:
                pass  # pygame's display was quit and initialized again
        pygame.display.init()
        self._window = pygame.Window(self._title, size)
        _OPEN.add(self)
        pygame.register_quit(_forget_windows)
        return self._window.get_surface()

    def __reduce__(self):
        return Window, (self._title, self._fps)  # a copy opens a window of its own


_OPEN: weakref.WeakSet[Window] = weakref.WeakSet()


def _forget_windows() -> None:
    """Let go of the windows that ``pygame.quit`` has closed."""
    for window in list(_OPEN):
        window._window = None


def _close_on_request() -> None:
    """Close the windows whose close button was pressed, or all when the program is to quit."""
    pygame = load_pygame()
    for event in pygame.event.get((pygame.QUIT, pygame.WINDOWCLOSE)):
        everyone = event.type == pygame.QUIT
        asked = [w for w in _OPEN if everyone or (w._window and w._window is event.window)]
        for window in asked:
            window.close()
        if not asked:
            pygame.event.post(event)  # of a window that somebody else opened


class PygameNotInstalled(DependencyNotInstalled, ModuleNotFoundError):
    """Pygame-ce cannot be imported."""


def load_pygame() -> ModuleType:
    """Pygame, imported only where something is drawn, so that training does without it.

    Raises:
        PygameNotInstalled: pygame-ce is missing or broken, or hidden by another pygame.
    """
    with _LOCK:
        try:
            import pygame
            import pygame.gfxdraw

            # Imported at the first use, which fails where several threads use it at once.
            _ = pygame.surfarray.make_surface, pygame.Window
        except (ImportError, OSError, AttributeError, NotImplementedError) as error:
            message = "pygame-ce cannot be imported"
            if not isinstance(error, ModuleNotFoundError):
                message += f" ({' '.join(str(error).split())})"
            raise PygameNotInstalled(f"{message}; run `pip install pygame-ce`") from error
    return pygame


def _draw_images(surface: pygame.Surface, view: EditView) -> None:
    for caption, image, x in (("start", view.start, START_X), ("now", view.current, NOW_X)):
        write(surface, caption, x, CAPTION_Y, FAINT)
        picture = _fit(image, IMAGE_SIDE)
        place = picture.get_rect(center=(x + IMAGE_SIDE // 2, IMAGES_TOP + IMAGE_SIDE // 2))
        surface.fill(TRACK, place.inflate(2, 2))  # white images end somewhere, too
        surface.blit(picture, place)


def _draw_scores(surface: pygame.Surface, view: EditView) -> None:
    """The target's and the realism's bars, each ticked where it stood at the start."""
    y = SCORES_Y
    write(surface, "target", START_X, y, FAINT)
    write(surface, "probability", NOW_X, y, FAINT)
    legend = write(surface, "at start", NOW_RIGHT, y, FAINT, right=True)
    surface.fill(INK, (legend.left - 8, y - 8, 2, 16))

    shown, hidden = _cut(list(view.target), MAX_TARGETS)
    for attribute in shown:
        y += SCORE_PITCH
        write(surface, attribute, START_X, y, ACCENT, width=124)
        write_variant(surface, view.target[attribute], START_X + 132, y, INK, width=124)
        now = view.target_probabilities[attribute]
        _draw_score(surface, y, now, view.start_target_probabilities[attribute], ACCENT)
    if hidden:
        y += SCORE_PITCH
        write(surface, f"and {hidden} more", START_X, y, FAINT)
    y += SCORE_PITCH
    write(surface, "realism", START_X, y)
    _draw_score(surface, y, view.realism, view.start_realism, NEUTRAL)

    of_budget = "" if view.max_steps is None else f" / {view.max_steps}"
    write(surface, f"step {view.step}{of_budget}", START_X, FOOTER_Y, size=HEADING)
    write(surface, f"return {signed(view.episode_return)}", NOW_X, FOOTER_Y, size=HEADING)


def _draw_score(surface: pygame.Surface, y: int, now: float, start: float, colour: Colour) -> None:
    width = IMAGE_SIDE - 56
    _draw_bar(surface, NOW_X, y, width, now, colour)
    surface.fill(INK, (NOW_X + round(_clip(start) * (width - 2)), y - 8, 2, 16))
    write(surface, f"{_clip(now):.0%}", NOW_RIGHT, y, right=True)


def _draw_attributes(surface: pygame.Surface, view: EditView) -> None:
    """The seen variant of every attribute; those outside the target that changed stand out."""
    write(surface, "seen now", LIST_X, CAPTION_Y, FAINT)
    changed = write(surface, "also changed", LIST_RIGHT, CAPTION_Y, CHANGED, right=True)
    write(surface, "target", changed.left - MARGIN, CAPTION_Y, ACCENT, right=True)

    y = IMAGES_TOP + LIST_PITCH // 2
    shown, hidden = _cut(list(view.attributes), MAX_ATTRIBUTES)
    for attribute in shown:
        variant, probability = view.attributes[attribute]
        name_colour, variant_colour, bar_colour = INK, INK, NEUTRAL
        if attribute in view.target:
            name_colour, bar_colour = ACCENT, ACCENT
            band = (LIST_X - 6, y - LIST_PITCH // 2, LIST_RIGHT - LIST_X + 12, LIST_PITCH)
            surface.fill(ACCENT_PALE, band)
        elif variant != view.start_attributes[attribute]:
            name_colour = variant_colour = bar_colour = CHANGED
        write(surface, attribute, LIST_X, y, name_colour, width=100)
        write_variant(surface, variant, LIST_X + 108, y, variant_colour, width=104)
        _draw_bar(surface, LIST_X + 220, y, LIST_RIGHT - LIST_X - 220, probability, bar_colour)
        y += LIST_PITCH
    if hidden:
        write(surface, f"and {hidden} more", LIST_X, y, FAINT)


def _draw_bar(
    surface: pygame.Surface, x: int, y: int, width: int, share: float, colour: Colour
) -> None:
    surface.fill(TRACK, (x, y - BAR_HEIGHT // 2, width, BAR_HEIGHT))
    surface.fill(colour, (x, y - BAR_HEIGHT // 2, round(_clip(share) * width), BAR_HEIGHT))


def write_variant(
    surface: pygame.Surface, variant: str, x: int, y: int, colour: Colour, width: int
) -> None:
    """The variant's name, after a swatch if it names a colour such as ``a55728``."""
    if HEX_COLOUR.fullmatch(variant):
        height = BAR_HEIGHT + 4
        surface.fill(NEUTRAL, (x, y - height // 2, SWATCH_WIDTH, height))  # outlines pale colours
        swatch = (x + 1, y - height // 2 + 1, SWATCH_WIDTH - 2, height - 2)
        surface.fill(tuple(bytes.fromhex(variant)), swatch)
        x, width = x + SWATCH_WIDTH + 6, width - SWATCH_WIDTH - 6
    write(surface, variant, x, y, colour, width=width)


def write(
    surface: pygame.Surface,
    text: str,
    x: int,
    y: int,
    colour: Colour = INK,
    *,
    width: int = WIDTH,
    size: int = TEXT,
    right: bool = False,
) -> pygame.Rect:
    """Write from ``x`` on, or up to it if ``right``, vertically centred on ``y``."""
    with _LOCK:
        drawn = _text(text, size, colour, width)
    place = drawn.get_rect(midright=(x, y)) if right else drawn.get_rect(midleft=(x, y))
    return surface.blit(drawn, place)


# Most texts of a frame are those of the frame before.
@lru_cache(maxsize=1024)
def _text(text: str, size: int, colour: Colour, width: int) -> pygame.Surface:
    """``text`` drawn, cut with an ellipsis where it is wider than ``width`` pixels."""
    # Drawn large and shrunk: at its own size the font's letters sit on whole pixels, unevenly.
    font, text = _font_for(text, size * SUPERSAMPLING)
    cut = text
    while text and font.size(cut)[0] > width * SUPERSAMPLING:
        text = text[:-1]
        cut = text.rstrip() + "…"
    large = font.render(cut, True, colour)
    shrunk = (-(-large.get_width() // SUPERSAMPLING), -(-large.get_height() // SUPERSAMPLING))
    return load_pygame().transform.smoothscale(large, shrunk)


def _font_for(text: str, size: int) -> tuple[pygame.font.Font, str]:
    """A font for ``text``, and the text with codes for the characters that no font can draw."""
    pygame = load_pygame()
    if text.isascii():
        return _font(None, size), text
    folder = os.path.dirname(str(pygame.__file__))
    bundled = os.path.join(folder, pygame.font.get_default_font())
    file, text = font_for(text, bundled)
    if file == bundled:
        return _font(None, size), text
    return _font(file, round(BUNDLED_SCALE * size)), text


def _font(file: str | None, size: int) -> pygame.font.Font:
    pygame = load_pygame()
    pygame.font.init()
    try:
        font = _load_font(file, size)
        font.size("")
    except pygame.error:
        # Fonts die when another environment's close() calls pygame.quit().
        _load_font.cache_clear()
        font = _load_font(file, size)
    return font


@lru_cache
def _load_font(file: str | None, size: int) -> pygame.font.Font:
    return load_pygame().font.Font(file, size)  # None: the bundled font, the same everywhere


def signed(value: float) -> str:
    """A number with its sign and two decimals."""
    return f"{round(value, 2) + 0.0:+.2f}"  # adding zero turns a rounded -0.0 into 0.0


def _fit(image: np.ndarray, side: int) -> pygame.Surface:
    """An image uint8 ``[H, W, 3]``, as large as a square of ``side`` pixels holds."""
    pygame = load_pygame()
    height, width = image.shape[:2]
    scale = side / max(height, width)
    # Whole pixels first, so that small images stay crisp; smoothing does the rest, if any.
    image = image.repeat(math.ceil(scale), axis=0).repeat(math.ceil(scale), axis=1)
    picture = pygame.surfarray.make_surface(image.swapaxes(0, 1))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture if picture.get_size() == size else pygame.transform.smoothscale(picture, size)


def _cut(names: list[str], limit: int) -> tuple[list[str], int]:
    """The names that ``limit`` rows can show, and how many more the last row has to count."""
    shown = names if len(names) <= limit else names[: limit - 1]
    return shown, len(names) - len(shown)


def _clip(share: float) -> float:
    return min(max(0.0, float(share)), 1.0)  # in this order NaN becomes 0
