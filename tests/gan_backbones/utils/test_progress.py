import io

import pytest

from gan_backbones.utils import progress
from gan_backbones.utils.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Notebook(io.StringIO):
    """Like the stream of a Jupyter kernel, which is no terminal."""


Notebook.__module__ = "ipykernel.iostream"


def work(stream, steps=3000):
    with ProgressBar(total=steps, desc="training", unit="step", file=stream) as bar:
        for step in range(steps):
            bar.set_postfix(loss=f"{step / steps:.2f}")
            bar.update()
    return stream.getvalue()


def test_a_log_file_gets_the_last_line_alone_of_a_short_run():
    text = work(io.StringIO())
    assert text.startswith("training: 100% 3000/3000 [00:00<00:00, ")
    assert text.endswith("step/s, loss=1.00]\n")
    assert text.count("\n") == 1
    assert "\r" not in text


def test_a_log_file_gets_a_line_after_each_interval():
    stream, now = io.StringIO(), [0.0]
    with ProgressBar(total=100, desc="training", file=stream) as bar:
        bar.start_t, bar._time = 0.0, lambda: now[0]
        for _ in range(100):
            now[0] += 1.0
            bar.update()
            bar.refresh()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["30%", "60%", "90%", "100%"]
    assert lines[0] == "training:  30% 30/100 [00:30<01:10,  1.00it/s]"


def test_an_interrupted_run_tells_how_far_it_came():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        for step in ProgressBar(range(10), file=stream):
            if step == 4:
                raise KeyboardInterrupt
    assert stream.getvalue().startswith(" 40% 4/10 [")


def test_messages_do_not_repeat_the_bar_in_a_log_file():
    stream = io.StringIO()
    with ProgressBar(total=2, file=stream) as bar:
        for step in range(2):
            bar.write(f"warning {step}", file=stream)
            bar.update()
    assert stream.getvalue().splitlines()[:2] == ["warning 0", "warning 1"]
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.parametrize("stream", [Terminal, Notebook])
def test_terminals_and_notebooks_redraw_one_line(stream, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    text = work(stream())
    assert text.count("\r") > 100
    assert text.count("\n") == 1


def test_a_disabled_bar_is_silent():
    stream = io.StringIO()
    with ProgressBar(total=2, file=stream, disable=True) as bar:
        bar.update()
    assert stream.getvalue() == ""
