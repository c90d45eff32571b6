"""The command to edit by hand, in a window."""

from __future__ import annotations

import os
from pathlib import Path

from gan_backbones.utils.files import check_output_folder
from latentgym.cli.arguments import check_seed
from latentgym.cli.tasks import DEFAULT_TARGET, Target, parse_target
from latentgym.rendering.frame import Window, load_pygame
from latentgym.rendering.play import PlaySession

FPS = 30
KEY_DELAY, KEY_INTERVAL = 400, 80  # a key that is held repeats; milliseconds


def play(
    target: Target = DEFAULT_TARGET,
    backbone: str = "cartoon-faces",
    directions: str = "attributes",
    delta: float = 0.5,
    seed: int = 0,
    out: Path = Path("runs/play"),
) -> None:
    """Edit images by hand: choose a direction, move along it, undo, save.

    The window shows the keys.

    Args:
        target: what the edited image should show.
        backbone: name or path of a backbone.
        directions: attributes, coordinates, pca or sefa; the tab key changes it.
        delta: length of a move; + and - change it.
        seed: random seed of the starts.
        out: folder for the edits that are saved.
    """
    check_seed(seed)
    _check_display()
    check_output_folder(out)
    print("finding directions: some seconds")
    session = PlaySession(parse_target(target), backbone, directions, delta, seed, out)
    run(session)
    for file in session.saved:
        print(file)
    if not session.saved:
        print("nothing saved")


def run(session: PlaySession) -> None:
    """Show the session in a window until the player ends it or closes the window."""
    pygame = load_pygame()
    window = Window("latentgym play", FPS)
    frame = session.draw()
    window.show(frame)
    pygame.key.set_repeat(KEY_DELAY, KEY_INTERVAL)
    while not (session.ended or window.closed):
        # The window itself looks for these two; what nobody reads would fill the queue.
        events = pygame.event.get(exclude=(pygame.QUIT, pygame.WINDOWCLOSE))
        pressed = [pygame.key.name(e.key) for e in events if e.type == pygame.KEYDOWN]
        for key in pressed:
            if key == "tab":
                session.message = "finding directions: some seconds"
                window.show(session.draw())
            session.press(key)
        if pressed:
            frame = session.draw()
        window.show(frame)
    window.close()


def _check_display() -> None:
    """Raise a ValueError where no window could be seen."""
    pygame = load_pygame()
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
        pygame.display.quit()
    except pygame.error as error:
        raise ValueError(f"play needs a display ({error})") from None
    # Without a display SDL may fall back to a driver that shows nothing.
    if driver in ("offscreen", "dummy") and not os.environ.get("SDL_VIDEODRIVER"):
        raise ValueError("play needs a display; there is none")
