"""Editing by hand: what `latentgym play` does at each key, without a window."""

from __future__ import annotations

import itertools
import json
from operator import methodcaller
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from gan_backbones.latents.directions import DIRECTION_SETS, direction_names
from gan_backbones.utils.files import write_atomically
from latentgym.core import ALL_ROWS
from latentgym.envs.latent_edit import LatentEditEnv
from latentgym.rendering.panel import PanelView, draw_play

SMALLEST_DELTA, LARGEST_DELTA = 1 / 64, 8.0
PAGE = 10

KEYS = (
    ("up down", "choose", {"up": methodcaller("choose", -1), "down": methodcaller("choose", 1)}),
    (
        "pgup pgdn",
        "jump",
        {"page up": methodcaller("choose", -PAGE), "page down": methodcaller("choose", PAGE)},
    ),
    ("left right", "move", {"left": methodcaller("nudge", -1), "right": methodcaller("nudge", 1)}),
    (
        "+ -",
        "delta",
        {
            **dict.fromkeys(("+", "=", "[+]"), methodcaller("scale_delta", 2)),
            **dict.fromkeys(("-", "[-]"), methodcaller("scale_delta", 1 / 2)),
        },
    ),
    ("tab", "directions", {"tab": methodcaller("next_directions")}),
    ("u", "undo", dict.fromkeys(("u", "backspace"), methodcaller("undo"))),
    ("r", "reset", {"r": methodcaller("reset")}),
    ("n", "new start", {"n": methodcaller("new_start")}),
    ("t", "next target", {"t": methodcaller("next_target")}),
    ("s", "save", {"s": methodcaller("save")}),
    ("esc", "end", {"escape": methodcaller("end")}),
)
"""What keys are called, what they do, and pygame's name of each with the method that does it."""

ACTIONS = {key: action for _, _, actions in KEYS for key, action in actions.items()}


class PlaySession:
    """One person's edits: the edit as it stands, the way back, and what the next nudge does.

    Args:
        target: variants wanted.
        backbone: name or path.
        directions: one of `gan_backbones.latents.directions.DIRECTION_SETS`.
        delta: length of a nudge.
        seed: of the starts.
        out: folder to save in.

    Attributes:
        env: the environment that the edit is in. Another set of directions, or another delta, is
            another environment, which goes on from the state of the one before.
        chosen: index of the direction to nudge along.
        moves: the nudges since the start.
        message: what the last key did, where that cannot be seen.
        saved: the files written so far.
        ended: whether the player wants to go.
    """

    def __init__(
        self,
        target: dict[str, str],
        backbone: str = "cartoon-faces",
        directions: str = "attributes",
        delta: float = 0.5,
        seed: int = 0,
        out: Path = Path("runs/play"),
    ):
        self.out = out
        self.env = LatentEditEnv(
            backbone=backbone, target=target, directions=directions, delta=delta
        )
        self.env.reset(seed=seed)
        self.chosen = 0
        self.moves: tuple[dict[str, Any], ...] = ()
        self.message = ""
        self.saved: list[Path] = []
        self.ended = False
        self._start = self.env.get_state()
        self._past: list[tuple[Any, ...]] = []

    # What the next nudge does -------------------------------------------------------------------

    @property
    def directions(self) -> str:
        """The set of directions in use."""
        return self.env.core.task.directions

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Of its directions; see `gan_backbones.latents.directions.direction_names`."""
        return direction_names(self.env.schema, self.directions, len(self.env.core.directions))

    def choose(self, by: int) -> None:
        """Choose the direction ``by`` places further down, or the last one there is."""
        self.chosen = max(0, min(self.chosen + by, len(self.env.core.directions) - 1))

    def scale_delta(self, factor: float) -> None:
        """Multiply the length of a nudge."""
        delta = self.env.core.task.delta * factor
        self._use(self.directions, max(SMALLEST_DELTA, min(delta, LARGEST_DELTA)))

    def next_directions(self) -> None:
        """Take the next set of directions that the backbone has."""
        sets = sorted(DIRECTION_SETS)
        after = sets.index(self.directions) + 1
        for directions in (*sets[after:], *sets[:after]):
            try:
                self._use(directions, self.env.core.task.delta)
            except ValueError as error:
                self.message = str(error)
            else:
                break
        self.chosen = 0

    def _use(self, directions: str, delta: float) -> None:
        task = self.env.core.task
        env = LatentEditEnv(
            backbone=task.backbone, target=task.target, directions=directions, delta=delta
        )
        env.set_state(self.env.get_state())
        self.env = env

    # The edit -----------------------------------------------------------------------------------

    @property
    def target(self) -> dict[str, str]:
        """The variants wanted."""
        return self.env.schema.decode(self.env.core.wanted[0].cpu().numpy())

    def nudge(self, sign: int) -> None:
        """Move the latent by delta along the chosen direction, or against it if ``sign`` is -1."""
        self._remember()
        self.env.step(2 * self.chosen + (sign < 0))
        name = " ".join(self.names[self.chosen])
        self.moves += ({"direction": name, "by": sign * self.env.core.task.delta},)

    def undo(self) -> None:
        """Take back the last change of the edit, exactly."""
        if not self._past:
            self.message = "nothing to undo"
            return
        state, self._start, self.moves = self._past.pop()
        self.env.set_state(state)

    def reset(self) -> None:
        """Go back to the start."""
        self._remember()
        self.env.set_state(self._start)
        self.moves = ()

    def new_start(self) -> None:
        """Begin another edit towards the same target."""
        self._begin({"target": self.target})

    def next_target(self) -> None:
        """Begin another edit of the same start, towards the next variant in the schema."""
        everything = direction_names(self.env.schema, "attributes", self.env.schema.size)
        after = everything.index(next(iter(self.target.items()))) + 1
        target = dict([everything[after % len(everything)]])
        self._begin({"target": target, "latent": self.env.core.start_latents[0].cpu().numpy()})

    def _begin(self, options: dict[str, Any]) -> None:
        self._remember()
        try:
            self.env.reset(options=options)
        except RuntimeError as error:  # no start that lacks the target
            self.undo()
            self.message = str(error)
            return
        self._start = self.env.get_state()
        self.moves = ()

    def _remember(self) -> None:
        self._past.append((self.env.get_state(), self._start, self.moves))

    # Keys, pictures and files -------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Do what a key asks for; ``key`` is pygame's name of it. Other keys do nothing."""
        self.message = ""
        if key in ACTIONS:
            ACTIONS[key](self)

    def end(self) -> None:
        """Note that the player wants to go."""
        self.ended = True

    def draw(self) -> np.ndarray:
        """The window as it should look now, uint8 ``[H, W, 3]``."""
        core = self.env.core
        moved = core.directions @ (core.latents[0] - core.start_latents[0])
        verdict = self._verdict()
        panel = PanelView(
            sets=sorted(DIRECTION_SETS),
            current_set=self.directions,
            names=self.names,
            moved=moved.cpu().numpy(),
            chosen=self.chosen,
            delta=core.task.delta,
            success=verdict["is_success"],
            kept=verdict["kept"],
            drift=verdict["drift"],
            message=self.message,
            keys=[(label, meaning) for label, meaning, _ in KEYS],
        )
        return draw_play(self.env.view(), panel)

    def save(self) -> None:
        """Write the edited image, the window's picture, and all that makes the edit again."""
        files = self._free_files()
        core = self.env.core
        record = {
            "backbone": str(core.task.backbone),
            "target": self.target,
            "start": core.start_latents[0].tolist(),
            "latent": core.latents[0].tolist(),
            "moves": self.moves,
            "scores": {name: value.item() for name, value in core.scores(ALL_ROWS).items()},
            "verdict": self._verdict(),
        }
        contents = [
            iio.imwrite("<bytes>", core.images(core.latents)[0], extension=".png"),
            iio.imwrite("<bytes>", self.draw(), extension=".png"),
            (json.dumps(record, indent=1) + "\n").encode(),
        ]
        try:
            for file, content in zip(files, contents, strict=True):
                write_atomically(file, content)
                self.saved.append(file)
        except OSError as error:
            self.message = f"not saved: {error.strerror}"
        else:
            self.message = f"saved {files[0].stem}"

    def _free_files(self) -> list[Path]:
        """Where the next save goes: names that no file has."""
        for number in itertools.count(1):
            files = [self.out / f"edit-{number:03d}{end}" for end in (".png", "-play.png", ".json")]
            if not any(file.exists() for file in files):
                return files

    def _verdict(self) -> dict[str, bool | float]:
        verdict = self.env.core.judge_metrics(
            ALL_ROWS, judged=True
        )  # every step has asked the judge
        return {name: value.item() for name, value in verdict.items()}
