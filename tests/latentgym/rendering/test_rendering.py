import copy
import dataclasses
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pygame
import pytest
from frames import GREY, changed_box, count_colour, make_view
from gymnasium.envs.classic_control import cartpole as classic
from gymnasium.error import DependencyNotInstalled
from gymnasium.wrappers import HumanRendering

from latentgym.envs.edit_env import EditEnv
from latentgym.rendering import frame as drawing
from latentgym.rendering.frame import Window, draw_frame, tile


@pytest.fixture
def display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.quit()
    yield
    pygame.display.quit()


def shown(window):
    """What a window shows, uint8 ``[H, W, 3]``."""
    return pygame.surfarray.array3d(window._window.get_surface()).swapaxes(0, 1)


@pytest.mark.parametrize("count", [1, 2, 10, 18, 40])
def test_every_frame_has_the_same_size(count):
    long = "a name longer than any column is wide"
    names = [f"{i} {long}" for i in range(count)]
    target = dict.fromkeys(names[:6], long)
    frame = draw_frame(
        make_view(
            target=target,
            attributes=dict.fromkeys(names, (long, 1.0)),
            start_attributes=dict.fromkeys(names, "other"),
            target_probabilities=dict.fromkeys(target, 1.0),
            start_target_probabilities=dict.fromkeys(target, 1.0),
            realism=1.0,
            start_realism=1.0,
            step=1000,
            max_steps=1000,
            episode_return=-12345.678,
        )
    )
    assert frame.shape == (drawing.HEIGHT, drawing.WIDTH, 3)
    assert frame.dtype == np.uint8 and frame.flags.c_contiguous and frame.flags.writeable
    # Nothing runs into the margins, nor into the gaps between the columns.
    left, top, right, bottom = changed_box(np.broadcast_to(drawing.BACKGROUND, frame.shape), frame)
    assert left >= drawing.MARGIN - 1 and right <= drawing.WIDTH - drawing.MARGIN + 6
    assert top >= drawing.MARGIN and bottom <= drawing.HEIGHT - drawing.MARGIN
    for gap in (slice(273, 287), slice(546, 568)):
        assert (frame[:, gap] == drawing.BACKGROUND).all()


def test_drawing_twice_gives_the_same_frame_in_other_memory():
    first, second = draw_frame(make_view()), draw_frame(make_view())
    np.testing.assert_array_equal(first, second)
    assert not np.shares_memory(first, second)


def test_target_bar_grows_with_its_probability_and_nothing_else_changes():
    frames = [draw_frame(make_view(target_probabilities={"attribute0": p})) for p in (0.2, 0.6)]
    y = drawing.SCORES_Y + drawing.SCORE_PITCH
    left, top, right, bottom = changed_box(*frames)
    assert left > drawing.NOW_X and right <= drawing.NOW_RIGHT
    assert y - drawing.SCORE_PITCH / 2 < top < bottom < y + drawing.SCORE_PITCH / 2
    bars = [frame[y, drawing.NOW_X : drawing.NOW_RIGHT][None] for frame in frames]
    short, long = (count_colour(bar, drawing.ACCENT) for bar in bars)
    tick = 2  # covers some of both
    assert long + tick == pytest.approx(3 * (short + tick), abs=1)


def test_realism_bar_and_its_tick_move_on_their_own():
    at_half = draw_frame(make_view())
    y = drawing.SCORES_Y + 2 * drawing.SCORE_PITCH
    for change in ({"realism": 0.9}, {"start_realism": 0.9}):
        left, top, right, bottom = changed_box(at_half, draw_frame(make_view(**change)))
        assert drawing.NOW_X < left < right <= drawing.NOW_RIGHT
        assert y - drawing.SCORE_PITCH / 2 < top < bottom < y + drawing.SCORE_PITCH / 2


def test_undefined_and_overshooting_scores_stay_within_their_bars():
    nan = draw_frame(make_view(realism=float("nan")))
    np.testing.assert_array_equal(nan, draw_frame(make_view(realism=0.0)))
    np.testing.assert_array_equal(
        draw_frame(make_view(realism=1.0001)), draw_frame(make_view(realism=1.0))
    )


def test_a_change_outside_the_target_is_marked_and_one_inside_is_not():
    view = make_view()
    legend_only = count_colour(draw_frame(view), drawing.CHANGED)
    inside = {**view.attributes, "attribute0": ("wanted", 0.5)}
    outside = {**view.attributes, "attribute3": ("other", 0.5)}
    inside_frame = draw_frame(dataclasses.replace(view, attributes=inside))
    outside_frame = draw_frame(dataclasses.replace(view, attributes=outside))
    assert count_colour(inside_frame, drawing.CHANGED) == legend_only
    assert count_colour(outside_frame, drawing.CHANGED) > legend_only + 100
    _, top, _, bottom = changed_box(draw_frame(view), outside_frame)
    row = drawing.IMAGES_TOP + 3 * drawing.LIST_PITCH
    assert row <= top < bottom <= row + drawing.LIST_PITCH


@pytest.mark.parametrize("variant, swatches", [("a55728", 1), ("A55728", 1), ("a5572", 0)])
def test_a_hex_colour_gets_a_swatch(variant, swatches):
    view = make_view(attributes={"attribute0": (variant, 0.5)})
    count = count_colour(draw_frame(view), (0xA5, 0x57, 0x28))
    assert (count > 100) == bool(swatches)
    both = dataclasses.replace(view, target={"attribute0": variant})
    assert count_colour(draw_frame(both), (0xA5, 0x57, 0x28)) == 2 * count


@pytest.mark.parametrize("side", [28, 50, 64, 256, 512])
def test_images_of_any_size_fill_their_place(side):
    start = np.zeros((side, side, 3), dtype=np.uint8)
    start[:, side // 2 :] = (0, 200, 0)
    frame = draw_frame(make_view(start=start, current=255 - start))
    top, x, size = drawing.IMAGES_TOP, drawing.START_X, drawing.IMAGE_SIDE
    shown = frame[top : top + size, x : x + size]
    assert (shown[:, : size // 2 - 4] == 0).all()
    right = shown[:, size // 2 + 4 :].astype(int)
    assert (abs(right - (0, 200, 0)) <= 4).all()  # smoothing rounds down
    shown = frame[top : top + size, drawing.NOW_X : drawing.NOW_RIGHT]
    assert (shown[:, : size // 2 - 4] >= 251).all()


def test_small_images_are_enlarged_without_blur():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    frame = draw_frame(make_view(current=image))
    top, x, size = drawing.IMAGES_TOP, drawing.NOW_X, drawing.IMAGE_SIDE
    shown = frame[top : top + size, x : x + size]
    np.testing.assert_array_equal(shown, image.repeat(4, axis=0).repeat(4, axis=1))


def test_oblong_images_keep_their_proportions():
    frame = draw_frame(make_view(current=np.zeros((32, 64, 3), dtype=np.uint8)))
    size = drawing.IMAGE_SIDE
    shown = frame[drawing.IMAGES_TOP :, drawing.NOW_X :][:size, :size]
    black = (shown == 0).all(axis=-1)
    assert black.sum() == size * size // 2 and black[size // 4 : 3 * size // 4].all()


def test_footer_follows_step_and_return():
    frame = draw_frame(make_view())
    for change in ({"step": 7}, {"max_steps": None}, {"episode_return": -0.5}):
        _, top, _, bottom = changed_box(frame, draw_frame(make_view(**change)))
        assert drawing.FOOTER_Y - 12 < top < bottom < drawing.FOOTER_Y + 12
    np.testing.assert_array_equal(frame, draw_frame(make_view(episode_return=-0.001)))


def test_drawing_survives_another_environments_pygame_quit():
    before = draw_frame(make_view())
    drawing._text.cache_clear()
    pygame.quit()  # as gymnasium's CartPole does when it closes
    pygame.font.init()
    np.testing.assert_array_equal(draw_frame(make_view()), before)


def test_drawing_needs_no_display_and_importing_no_pygame():
    code = """
import sys
import numpy as np
from latentgym.rendering.frame import EditView, draw_frame
assert "pygame" not in sys.modules
image = np.zeros((8, 8, 3), np.uint8)
p = {"a": 0.5}
draw_frame(EditView(image, image, {"a": "x"}, {"a": ("x", 0.5)}, p, p, {"a": "x"}, 1, 1, 0, 9, 0.0))
import pygame
assert not pygame.display.get_init() and not pygame.mixer.get_init()
"""
    root = Path(drawing.__file__).parents[2]
    env = {k: v for k, v in os.environ.items() if k != "DISPLAY" and not k.startswith("SDL_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=root, timeout=60)


def test_an_edit_that_is_not_rendered_imports_no_pygame(tiny_file):
    code = """
import sys
import gymnasium as gym
import latentgym
options = dict(backbone=sys.argv[1], directions="coordinates")
for spec in list(gym.registry.values()):
    if spec.id.startswith("LatentEdit"):
        for env in (gym.make(spec, **options), gym.make_vec(spec, num_envs=2, **options)):
            env.reset(seed=0)
            env.step(env.action_space.sample())
            env.close()
assert "pygame" not in sys.modules
"""
    root = Path(drawing.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, tiny_file], check=True, cwd=root, timeout=120)


@pytest.mark.parametrize("broken", ["missing", "another pygame", "damaged"])
def test_missing_or_broken_pygame_is_one_line_when_the_environment_is_made(
    broken, tiny_file, monkeypatch
):
    if broken == "missing":
        monkeypatch.setitem(sys.modules, "pygame", None)
    elif broken == "another pygame":
        monkeypatch.delattr(pygame, "Window")
    else:
        monkeypatch.setitem(sys.modules, "pygame.gfxdraw", None)
    line = r"^pygame-ce cannot be imported[^\n]*; run `pip install pygame-ce`$"
    for env_id in ("LatentEdit-v0", "latentgym/CartPole-v1"):
        options = {"backbone": tiny_file} if env_id == "LatentEdit-v0" else {}
        for mode in ("human", "rgb_array"):
            with pytest.raises(DependencyNotInstalled, match=line):
                gym.make(env_id, render_mode=mode, **options)
        with pytest.raises(ImportError, match=line):
            gym.make_vec(env_id, num_envs=2, render_mode="rgb_array", **options)
        gym.make(env_id, **options).reset()
    with pytest.raises(DependencyNotInstalled, match=line):
        gym.make("latentgym/CartPolePixels-v1").reset()


def test_first_frames_may_be_drawn_in_several_threads(tmp_path):
    code = """
import threading
import numpy as np
from latentgym.rendering.frame import EditView, draw_frame
image = np.zeros((8, 8, 3), np.uint8)
p = {"a": 0.5}
view = EditView(image, image, {"a": "x"}, {"a": ("x", 0.5)}, p, p, {"a": "x"}, 1, 1, 0, 9, 0.0)
start, frames = threading.Barrier(8), []
def draw():
    start.wait()
    frames.append(draw_frame(view))
threads = [threading.Thread(target=draw) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(frames) == 8 and all((frame == frames[0]).all() for frame in frames)
"""
    root = Path(drawing.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def test_tile_goes_row_by_row_with_white_gaps():
    images = np.zeros((5, 4, 6, 3), dtype=np.uint8)
    images += np.arange(5, dtype=np.uint8)[:, None, None, None]
    picture = tile(images)  # 3 columns, 2 rows
    assert picture.shape == (2 * 4 + 2, 3 * 6 + 2 * 2, 3) and picture.dtype == np.uint8
    assert (picture[:4, 16:22] == 2).all() and (picture[6:, 8:14] == 4).all()
    assert (picture[4:6] == 255).all() and (picture[:, 6:8] == 255).all()
    assert (picture[6:, 16:] == 255).all()  # the cell left over
    assert tile(images, columns=5, gap=0).shape == (4, 30, 3)
    np.testing.assert_array_equal(tile(images[:1]), images[0])
    with pytest.raises(ValueError, match="no images"):
        tile(images[:0])


def test_window_shows_frames_until_closed(display):
    window = Window("an edit", fps=1000)
    assert not pygame.display.get_init() and not window.closed
    frame = draw_frame(make_view())
    window.show(frame)
    assert window._window.title == "an edit"
    np.testing.assert_array_equal(shown(window), frame)
    window.show(GREY)
    np.testing.assert_array_equal(shown(window), GREY)
    window.close()
    window.close()
    assert window.closed
    window.show(frame)
    assert window._window is None


def test_quit_event_closes_all_windows_and_keys_stay_for_others(display):
    window, other = Window("edit", fps=1000), Window("edit", fps=1000)
    for each in (window, other):
        each.show(GREY)
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_a))
    window.show(GREY)
    assert not window.closed
    assert [event.key for event in pygame.event.get(pygame.KEYDOWN)] == [pygame.K_a]
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(GREY)
    assert window.closed and other.closed
    assert not pygame.event.get(pygame.QUIT)


def test_a_close_button_closes_its_own_window(display):
    theirs = pygame.Window("theirs")
    windows = [Window("edit", fps=1000) for _ in range(3)]
    for window in windows:
        window.show(GREY)
    for window in (windows[1]._window, theirs):
        pygame.event.post(pygame.event.Event(pygame.WINDOWCLOSE, window=window))
    windows[0].show(GREY)
    assert [window.closed for window in windows] == [False, True, False]
    assert [event.window for event in pygame.event.get(pygame.WINDOWCLOSE)] == [theirs]


def edits(tiny_file):
    return gym.make("LatentEdit-v0", backbone=tiny_file, directions="coordinates", **HUMAN)


HUMAN = {"render_mode": "human", "max_episode_steps": -1}
OWNERS = {
    "edits": edits,
    "ours": lambda tiny_file: gym.make("latentgym/CartPole-v1", **HUMAN),
    "theirs": lambda tiny_file: gym.make("CartPole-v1", **HUMAN),
    "human wrapper": lambda tiny_file: HumanRendering(
        gym.make("latentgym/CartPolePixels-v1", render_mode="rgb_array")
    ),
}


@pytest.mark.filterwarnings("ignore:.*already returned terminated")
@pytest.mark.parametrize("order", list(itertools.permutations(["edits", "ours", "theirs"])))
def test_windows_of_one_process_close_in_any_order(order, tiny_file, display, monkeypatch):
    for env in (EditEnv, classic.CartPoleEnv):
        monkeypatch.setitem(env.metadata, "render_fps", 1000)
    envs = {name: OWNERS[name](tiny_file) for name in reversed(order)}
    for env in envs.values():
        env.reset(seed=0)
    for closed in order:
        for env in envs.values():
            env.step(0)
        envs.pop(closed).close()
        if closed == "theirs":  # Gymnasium's quits pygame, and with it all windows
            assert not pygame.display.get_init()
    for name in ("edits", "ours"):  # a window that opens later works too
        env = OWNERS[name](tiny_file)
        env.reset(seed=0)
        assert env.unwrapped._window._window.size
        env.close()


@pytest.mark.parametrize("first", ["theirs", "human wrapper"])
def test_windows_outlive_a_pygame_quit_and_leave_its_next_display_alone(
    first, tiny_file, display, monkeypatch
):
    monkeypatch.setitem(classic.CartPoleEnv.metadata, "render_fps", 1000)
    ours, theirs = OWNERS["ours"](tiny_file), OWNERS[first](tiny_file)
    for env in (ours, theirs):
        env.reset(seed=0)
    theirs.close()
    other = OWNERS["theirs"](tiny_file)  # initializes pygame's display before ours draws again
    other.reset(seed=0)
    picture = pygame.surfarray.array3d(pygame.display.get_surface())
    ours.step(0)
    np.testing.assert_array_equal(pygame.surfarray.array3d(pygame.display.get_surface()), picture)
    ours.close()
    other.step(0)
    other.close()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copied_window_is_a_window_of_its_own(duplicate, display):
    window = Window("edit", fps=1000)
    window.show(GREY)
    again = duplicate(window)
    again.show(GREY)
    again.close()
    window.show(GREY)
    assert not window.closed and window._window.title == "edit"
    window.close()


def test_every_frame_pumps_events(display, monkeypatch):
    pumped, pump = [], pygame.event.pump
    monkeypatch.setattr(pygame.event, "pump", lambda: pumped.append(pump()))
    window = Window("edit", fps=1000)
    for _ in range(3):
        window.show(GREY)
    assert len(pumped) == 3
    window.close()


def test_window_leaves_pygames_display_alone(display):
    pygame.display.set_mode((320, 200))
    window = Window("edit", fps=1000)
    window.show(GREY)
    window.close()
    assert pygame.display.get_surface().get_size() == (320, 200)


def restart():
    pygame.display.quit()
    pygame.display.set_mode((64, 64))


@pytest.mark.parametrize("quit", [pygame.quit, pygame.display.quit, restart])
def test_window_reopens_after_another_environment_quit_pygame(display, quit):
    window = Window("edit", fps=1000)
    window.show(GREY)
    quit()
    window.show(GREY)
    np.testing.assert_array_equal(shown(window), GREY)
    assert not window.closed
    window.close()


def test_window_keeps_the_frame_rate(display):
    window = Window("edit", fps=20)
    window.show(GREY)
    before = pygame.time.get_ticks()
    for _ in range(4):
        window.show(GREY)
    assert pygame.time.get_ticks() - before >= 150
    window.close()


def test_closing_a_window_never_shown_does_nothing(display):
    Window("edit", fps=30).close()
    assert not pygame.display.get_init()
