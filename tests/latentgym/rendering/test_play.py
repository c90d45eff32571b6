import functools
import json
from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import pytest

from gan_backbones.latents.directions import DIRECTION_SETS
from latentgym.cli import main
from latentgym.cli.play import run
from latentgym.envs.latent_edit import LatentEditEnv
from latentgym.rendering.frame import Window
from latentgym.rendering.panel import PLAY_HEIGHT, PLAY_WIDTH
from latentgym.rendering.play import ACTIONS, LARGEST_DELTA, PAGE, SMALLEST_DELTA, PlaySession

pygame = pytest.importorskip("pygame")

TARGET = {"hair": "bun"}


@pytest.fixture
def session(tiny_file, tmp_path):
    return PlaySession(TARGET, tiny_file, "coordinates", 0.5, seed=3, out=tmp_path / "play")


@pytest.fixture
def display(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame.display.quit()
    yield
    pygame.display.quit()


def state(session):
    """All that an edit is."""
    return session.env.get_state(), session.moves


def key_event(key, kind=pygame.KEYDOWN):
    constant = f"K_{key.upper() if len(key) > 1 else key}"
    return pygame.event.Event(kind, key=getattr(pygame, constant))


# The session --------------------------------------------------------------------------------------


def test_nudges_are_the_environments_steps(session, tiny_file):
    env = LatentEditEnv(backbone=tiny_file, target=TARGET, directions="coordinates", delta=0.5)
    env.reset(seed=3)
    for key, action in (("right", 0), ("left", 1), ("down", None), ("right", 2), ("left", 3)):
        session.press(key)
        if action is not None:
            env.step(action)
        np.testing.assert_equal(session.env.get_state(), env.get_state())
    assert [(move["direction"], move["by"]) for move in session.moves] == [
        ("z[0]", 0.5),
        ("z[0]", -0.5),
        ("z[1]", 0.5),
        ("z[1]", -0.5),
    ]
    assert session.env.view().step == 4


def test_undo_goes_back_through_everything_exactly(session):
    keys = ("right", "down", "right", "n", "left", "+", "t", "tab", "right", "-", "r", "r", "left")
    before = []
    for key in keys:
        if key not in ("down", "+", "-", "tab"):  # these do not change the edit
            before.append(state(session))
        session.press(key)
    chosen, delta, directions = session.chosen, session.env.core.task.delta, session.directions
    for expected in reversed(before):
        assert not session.message
        session.press("u")
        np.testing.assert_equal(state(session), expected)
    session.press("backspace")
    assert session.message == "nothing to undo"
    np.testing.assert_equal(state(session), before[0])
    # What the next nudge does is not part of the edit.
    assert (session.chosen, session.env.core.task.delta, session.directions) == (
        chosen,
        delta,
        directions,
    )


def test_the_same_keys_after_undo_do_the_same(session):
    session.press("n")
    session.press("right")
    expected = state(session)
    session.press("u")
    session.press("u")
    session.press("n")
    session.press("right")
    np.testing.assert_equal(state(session), expected)


def test_reset_goes_back_to_the_start_of_this_edit(session):
    session.press("n")
    start = state(session)
    for key in ("right", "right", "tab", "left", "r"):
        session.press(key)
    np.testing.assert_equal(state(session), start)
    assert session.env.view().step == 0 and session.moves == ()


def test_a_new_start_has_the_same_target_and_another_face(session):
    first = session.env.core.start_latents.clone()
    session.press("t")
    target = session.target
    session.press("right")
    session.press("n")
    assert session.target == target != TARGET
    assert not (session.env.core.start_latents == first).any()
    assert session.env.view().step == 0 and session.moves == ()


def test_a_target_that_all_starts_show_leaves_the_edit_as_it_is(session, monkeypatch):
    session.press("right")
    before = state(session)
    monkeypatch.setattr("latentgym.core.MAX_START_DRAWS", 0)
    session.press("n")
    assert "starts all show the target {'hair': 'bun'}" in session.message
    np.testing.assert_equal(state(session), before)
    session.press("u")
    assert session.moves == () and session.message == ""


def test_next_target_goes_through_all_variants_of_one_start(session):
    schema, start = session.env.schema, session.env.core.start_latents.clone()
    session.press("right")
    seen = []
    for _ in range(schema.size):
        session.press("t")
        seen.append(session.target)
        assert (session.env.core.latents == start).all()
        assert (session.env.core.start_latents == start).all() and session.moves == ()
    everything = [{name: v} for name, variants in schema.variants.items() for v in variants]
    assert seen[-1] == TARGET
    assert seen == everything[2:] + everything[:2]


def test_tab_goes_through_the_sets_of_directions_and_the_edit_goes_on(session):
    session.press("right")
    before, seen = state(session), []
    for _ in DIRECTION_SETS:
        session.press("page down")
        session.press("tab")
        seen.append(session.directions)
        assert session.chosen == 0
        assert len(session.names) == len(session.env.core.directions)
        np.testing.assert_equal(state(session), before)
        session.press("right")
        session.press("u")
        np.testing.assert_equal(state(session), before)
    assert seen == ["pca", "sefa", "attributes", "coordinates"]


def test_tab_passes_over_directions_that_the_backbone_lacks(session, monkeypatch):
    def lacking(backbone, count=None):
        raise ValueError("no such layer")

    monkeypatch.setattr("gan_backbones.latents.directions.sefa_directions", lacking)
    session.press("tab")
    session.press("tab")
    assert session.directions == "attributes" and session.message == "no such layer"


def test_delta_halves_and_doubles_within_limits(session):
    for key, factor in (("+", 2), ("=", 2), ("[+]", 2), ("-", 0.5), ("[-]", 0.5)):
        before, delta = state(session), session.env.core.task.delta
        session.press(key)
        assert session.env.core.task.delta == factor * delta
        np.testing.assert_equal(state(session), before)
    latents = session.env.core.latents.clone()
    session.press("-")
    session.press("right")
    assert float((session.env.core.latents - latents).norm()) == pytest.approx(0.5, abs=1e-6)
    assert session.moves[-1]["by"] == 0.5
    for key, limit in (("+", LARGEST_DELTA), ("-", SMALLEST_DELTA)):
        for _ in range(12):
            session.press(key)
        assert session.env.core.task.delta == limit


def test_choosing_stops_at_both_ends(session):
    last = len(session.names) - 1
    for key, expected in (
        ("up", 0),
        ("down", 1),
        ("down", 2),
        ("up", 1),
        ("page down", min(1 + PAGE, last)),
        ("page down", last),
        ("down", last),
        ("up", last - 1),
        ("page up", 0),
    ):
        session.press(key)
        assert session.chosen == expected
    assert session.env.view().step == 0


def test_other_keys_do_nothing(session):
    before = state(session)
    for key in ("x", "left shift", "f1", ""):
        session.press(key)
    np.testing.assert_equal(state(session), before)
    assert not session.ended
    session.press("escape")
    assert session.ended


def test_all_keys_are_pygames_names(display):
    pygame.display.init()
    for key in ACTIONS:
        assert pygame.key.name(pygame.key.key_code(key)) == key


def test_drawing_changes_nothing_and_costs_no_evaluation(session):
    session.press("right")
    before, evaluations = state(session), session.env.evaluations
    first = session.draw()
    assert first.shape == (PLAY_HEIGHT, PLAY_WIDTH, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(session.draw(), first)
    np.testing.assert_equal(state(session), before)
    assert session.env.evaluations == evaluations
    session.press("u")
    assert not np.array_equal(session.draw(), first)


def test_what_is_saved_makes_the_edit_again(session, tiny_file):
    for key in ("right", "right", "down", "left", "down", "right", "u"):
        session.press(key)
    frame = session.draw()
    session.press("s")
    assert session.message == "saved edit-001"
    image, window, record = session.saved
    assert [file.name for file in session.saved] == [
        "edit-001.png",
        "edit-001-play.png",
        "edit-001.json",
    ]
    np.testing.assert_array_equal(iio.imread(image), session.env.view().current)
    np.testing.assert_array_equal(iio.imread(window), frame)
    record = json.loads(record.read_text())
    assert record["backbone"] == tiny_file and record["target"] == TARGET
    env = LatentEditEnv(backbone=tiny_file, directions="coordinates", delta=0.5, start="any")
    env.reset(options={"latent": record["start"], "target": record["target"]})
    for move in record["moves"]:
        *_, info = env.step(2 * int(move["direction"][2:-1]) + (move["by"] < 0))
    np.testing.assert_array_equal(env.core.latents[0], np.float32(record["latent"]))
    assert len(record["moves"]) == 3
    assert record["scores"] == pytest.approx(info["scores"], abs=1e-6)
    assert record["verdict"] == pytest.approx({name: info[name] for name in record["verdict"]})


def test_saving_never_overwrites(session):
    session.out.mkdir()
    taken = session.out / "edit-001.json"  # another player's
    taken.write_text("theirs")
    for _ in range(2):
        session.press("s")
    assert taken.read_text() == "theirs"
    assert len(set(session.saved)) == 6 and all(file.stat().st_size for file in session.saved)
    assert {file.name for file in session.out.iterdir()} == {
        taken.name,
        *(file.name for file in session.saved),
    }
    assert {file.name[:8] for file in session.saved} == {"edit-002", "edit-003"}


def test_what_cannot_be_saved_does_not_end_the_session(session):
    session.out.write_text("a file, not a folder")
    session.press("s")
    assert session.message.startswith("not saved: ") and session.saved == []
    session.press("right")
    assert session.message == "" and len(session.moves) == 1


# The window ---------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch, display):
    """A function to say which events come after each frame; it returns the list of those shown."""

    def script(*batches):
        batches, shown = iter(batches), []
        show = Window.show

        def show_and_post(window, frame):
            show(window, frame)
            if not window.closed:
                surface = window._window.get_surface()
                shown.append(pygame.surfarray.array3d(surface).swapaxes(0, 1))
            for event in next(batches):
                pygame.event.post(event)

        monkeypatch.setattr(Window, "show", show_and_post)
        return shown

    return script


def test_keys_reach_the_session_until_escape(session, script):
    script(
        [key_event("right"), key_event("down")],
        [key_event("right"), key_event("right", pygame.KEYUP)],
        [pygame.event.Event(pygame.MOUSEMOTION, pos=(1, 1), rel=(1, 1), buttons=(0, 0, 0))],
        [key_event("tab")],
        [],
        [key_event("escape")],
        [],
    )
    run(session)
    assert [move["direction"] for move in session.moves] == ["z[0]", "z[1]"]
    assert session.directions == "pca" and session.ended


def test_closing_the_window_ends_the_session(session, script):
    script([key_event("right")], [pygame.event.Event(pygame.QUIT)], [])
    run(session)
    assert len(session.moves) == 1 and not session.ended


def test_the_window_shows_the_session(session, script):
    shown = script([], [key_event("right")], [key_event("escape")], [])
    frames = [session.draw()]
    run(session)
    frames.append(session.draw())
    for i, frame in ((0, frames[0]), (1, frames[0]), (2, frames[1])):
        np.testing.assert_array_equal(shown[i], frame)


def command(tiny_file, out):
    arguments = {"target": "hair=bun", "backbone": tiny_file, "directions": "sefa", "out": out}
    return ["play", *(str(part) for name, v in arguments.items() for part in (f"--{name}", v))]


def test_the_command_tells_where_the_files_are(tiny_file, tmp_path, script, capsys):
    script([key_event("right"), key_event("s")], [key_event("escape")], [])
    main(command(tiny_file, tmp_path))
    lines = capsys.readouterr().out.splitlines()
    files = [Path(line) for line in lines[-3:]]
    assert {file.parent for file in files} == {tmp_path} and all(file.is_file() for file in files)
    record = json.loads(files[-1].read_text())
    assert record["moves"] == [{"direction": "sefa 0", "by": 0.5}]


def test_the_command_says_that_nothing_was_saved(tiny_file, tmp_path, script, capsys):
    script([pygame.event.Event(pygame.QUIT)], [])
    main(command(tiny_file, tmp_path))
    assert capsys.readouterr().out.splitlines()[-1] == "nothing saved"


@pytest.mark.parametrize("driver", ["missing", None])
def test_without_a_display_there_is_one_line(driver, tiny_file, tmp_path, monkeypatch, display):
    if driver:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    else:
        monkeypatch.delenv("SDL_VIDEODRIVER")
        monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.raises(SystemExit, match=r"^latentgym: play needs a display[^\n]*$"):
        main(command(tiny_file, tmp_path))
    assert not pygame.display.get_init()


# Gymnasium's play ---------------------------------------------------------------------------------

KEYED = ("LatentEdit-v0", "LatentEditGoal-v0", "LatentEditPixels-v0")


@pytest.fixture
def make(tiny_file):
    """gym.make of the tiny backbone."""
    options = dict(backbone=tiny_file, target=TARGET, directions="coordinates")
    return functools.partial(gym.make, render_mode="rgb_array", **options)


class Scripted(gym.Wrapper):
    """Posts one event after each frame drawn, from the time there is a window."""

    def __init__(self, env, events):
        super().__init__(env)
        self.events = iter(events)

    def render(self):
        if pygame.display.get_surface() is not None:
            pygame.event.post(next(self.events))
        return self.env.render()


def gymnasium_play():
    import matplotlib

    backend = matplotlib.get_backend()
    from gymnasium.utils.play import MissingKeysToAction, play

    matplotlib.use(backend)  # importing play asks for another one
    return play, MissingKeysToAction


@pytest.mark.parametrize("env_id", KEYED)
def test_gymnasiums_play_edits_by_key_until_the_window_closes(make, env_id, display):
    play, _ = gymnasium_play()
    env = make(env_id)
    events = []
    for key in "qqsdx":
        events += [key_event(key), key_event(key, pygame.KEYUP)]
    taken = []

    def record(before, after, action, *rest):
        taken.append((action, env.unwrapped.core.latents[0].clone()))

    scripted = Scripted(env, [*events, pygame.event.Event(pygame.QUIT)])
    play(scripted, fps=1000, callback=record, seed=0, wait_on_player=True)
    assert not pygame.display.get_init()
    # x lowers direction 10; the tiny backbone has 8 coordinates.
    assert [action for action, _ in taken] == [0, 0, 3, 5]
    moved = (taken[-1][1] - env.unwrapped.core.start_latents[0]).tolist()
    assert moved == pytest.approx([1.0, -0.5, -0.5, 0, 0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("env_id", KEYED)
def test_keys_raise_and_lower_as_many_directions_as_there_are(make, env_id, tiny_file):
    keys = make(env_id).unwrapped.get_keys_to_action()
    assert keys == {(ord(key),): action for action, key in enumerate("qawsedrftgyhujik")}
    two = gym.make(env_id, backbone=tiny_file, directions=np.eye(8)[:2].tolist())
    assert list(two.unwrapped.get_keys_to_action().values()) == [0, 1, 2, 3]
    many = gym.make(env_id, backbone=tiny_file, directions=np.ones((40, 8)).tolist())
    keys = many.unwrapped.get_keys_to_action()
    assert list(keys.values()) == list(range(32)) and len(keys) == 32


def test_continuous_actions_have_no_keys(make, display):
    play, missing = gymnasium_play()
    with pytest.raises(missing):
        play(make("LatentEditContinuous-v0"))
