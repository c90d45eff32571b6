import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import imageio.v3 as iio
import pytest
import torch

from gan_backbones import load
from gan_backbones.utils.locks import folder_lock
from latentgym.cli import BENCHMARKS, COMMANDS, edit_report, main, play, train

PICTURES = ("edits.png", "edit.gif", "learning_curve.png")


ALL = {**COMMANDS, **{f"benchmark {name}": command for name, command in BENCHMARKS.items()}}


class Broken(io.StringIO):
    """Standard output whose reader has gone."""

    def __init__(self, file):
        super().__init__()
        self.fileno = file.fileno

    def flush(self):
        raise BrokenPipeError


def message(*arguments):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    text = str(stop.value)
    assert text.startswith("latentgym: ")
    assert "\n" not in text
    return text.removeprefix("latentgym: ")


# Without a command's module -----------------------------------------------------------------------


def test_the_list_of_commands_needs_neither_torch_nor_pictures():
    program = (
        "import sys\n"
        "from latentgym.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    *text, modules = done.stdout.splitlines()
    assert not {"torch", "matplotlib", "imageio", "tyro", "pygame"} & set(modules.split())
    assert "gymnasium" in modules.split()  # in which the package registers its environments
    for name in (*COMMANDS, "benchmark"):
        assert any(line.startswith(f"    {name}") for line in text)


def test_benchmarks_are_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in BENCHMARKS)


@pytest.mark.parametrize("arguments", [[], ["benchmark"]])
def test_no_command_is_answered_with_the_list(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code
    assert "commands:" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert not stop.value.code
    assert re.fullmatch(
        r"latentgym (\d+\.\d+\.\d+\S*|\(not installed\))\n", capsys.readouterr().out
    )


def test_a_wrong_word_is_answered_with_the_nearest():
    assert message("trian") == "unknown command 'trian'; did you mean 'train'?"
    assert message("agents").endswith("did you mean 'benchmark agents'?")
    assert message("benchmark", "agent") == "unknown command 'agent'; did you mean 'agents'?"
    assert message("xyz") == "unknown command 'xyz'; latentgym --help lists all"


# All commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_list_says_what_a_command_says_of_itself(name):
    module, function, summary = ALL[name]
    described = getattr(import_module(f"latentgym.cli.{module}"), function)
    assert described.__doc__.splitlines()[0] == summary


@pytest.mark.parametrize("name", ALL)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--seed" in text
    assert f"latentgym {name}" in text


@pytest.mark.parametrize("name", ["", "benchmark", *ALL])
def test_help_reaches_terminals_without_unicode(name, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert not stop.value.code
    assert len(stream.buffer.getvalue().decode("ascii")) > 500


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("latentgym.cli.explore.load", lambda _: print("Fréchet •"))
    with pytest.raises(AttributeError):  # None is no backbone
        main(["explore", "--out", str(tmp_path)])
    assert stream.buffer.getvalue() == b"Fr?chet ?\n"


SEEDED = [name for name in ALL if name not in ("train", "evaluate", "plot", "train-backbone")]
NEEDED = {
    "benchmark backbone": ["--data", "none"],
    "benchmark gan-ablation": ["--data", "none"],
}


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", ["-1", "18446744073709551616"])
def test_a_seed_out_of_range_is_one_line(name, seed):
    line = message(*name.split(), *NEEDED.get(name, ()), "--seed", seed)
    assert line == f"seed is {seed}; it must be from 0 to 4294967295"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["explore", "--rows", "0"], "rows is 0; it must be at least 1"),
        (["benchmark", "agents", "--seeds", "0"], "seeds is 0; it must be at least 1"),
        (["benchmark", "agents", "--agents"], "agents is empty; allowed: dqn, "),
        (["benchmark", "dqn-ablation", "--workers", "-1"], "workers is -1; it must be at least 1"),
        (["benchmark", "env-ablation", "--episodes", "0"], "episodes is 0; it must be at least 1"),
        (["benchmark", "throughput", "--threads", "0"], "threads is 0; it must be at least 1"),
        (["benchmark", "gan-training", "--batch-size", "0"], "batch_size is 0; it must be at "),
        (["explore", "--backbone", "none"], "unknown backbone 'none'; known: cartoon-faces"),
        (["benchmark", "agents", "--env", "None-v0"], "None-v0: Environment `None` doesn't"),
    ],
)
def test_a_wrong_value_is_one_line(arguments, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message(*arguments).startswith(line)


@pytest.mark.parametrize("name", SEEDED)
def test_an_output_in_the_way_is_found_before_the_work(name, tmp_path, monkeypatch):
    if name == "play":
        monkeypatch.setattr(play, "_check_display", lambda: None)
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" if name in COMMANDS else tmp_path / "file" / "x.json"
    line = message(*name.split(), *NEEDED.get(name, ()), "--out", str(out))
    assert line.endswith(f"is {tmp_path / 'file'}, which is a file; expected a folder")
    assert (tmp_path / "file").read_text() == "kept"


def test_figures_are_json(tmp_path):
    for name in BENCHMARKS:
        out = tmp_path / "x.csv"
        needed = NEEDED.get(f"benchmark {name}", ())
        line = message("benchmark", name, *needed, "--out", str(out))
        assert line == f"out is {out}; expected a file that ends in .json"


def test_two_demos_in_one_folder_are_refused(tmp_path):
    with ThreadPoolExecutor(1) as other, folder_lock(tmp_path):
        line = other.submit(message, "demo", "--out", str(tmp_path)).result()
    assert line.startswith(f"{tmp_path} is in use by process {os.getpid()} on ")


# How commands end ---------------------------------------------------------------------------------


def ending(monkeypatch, error):
    """Make `explore` raise ``error``."""

    def fail(*args):
        raise error

    monkeypatch.setattr("latentgym.cli.explore.load", fail)


def test_an_interrupt_is_one_line(monkeypatch, capsys, tmp_path):
    ending(monkeypatch, KeyboardInterrupt())
    with pytest.raises(SystemExit) as stop:
        main(["explore", "--out", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "latentgym: interrupted\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b.png"), "a/b.png: No space left on device"),
        (OSError("the folder is in use"), "the folder is in use"),
        (ModuleNotFoundError("install it:\n  pip"), "install it: pip"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), "[alloc_cpu.cpp]"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA out of memory. Tried"),
        (AssertionError("Torch not compiled with CUDA enabled"), "Torch not compiled with CUDA"),
    ],
)
def test_what_the_machine_lacks_is_one_line(error, line, monkeypatch, tmp_path):
    ending(monkeypatch, error)
    assert message("explore", "--out", str(tmp_path)).startswith(line)


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch, tmp_path):
    ending(monkeypatch, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        main(["explore", "--out", str(tmp_path)])


def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys, tmp_path):
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", Broken(file))
        with pytest.raises(SystemExit) as stop:
            main(["--help"])
    assert stop.value.code == 141
    assert not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_interrupts_at_random_moments_are_one_line(seed, tmp_path):
    """In imports, work or writing, but not in the tenth of a second before the command line."""
    program = "from latentgym.cli import main; print('ready', flush=True); main()"
    arguments = ["benchmark", "agents", "--agents", "reinforce", "--seeds", "2", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, "--out", str(tmp_path / "x.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(random.Random(seed).uniform(0, 15))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text.splitlines()[-1] == "latentgym: interrupted"
    assert "Traceback" not in text
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


# Training -----------------------------------------------------------------------------------------


def test_train_writes_agent_figures_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(edit_report, "TEST_EPISODES", 24)
    monkeypatch.setattr(train, "SELECTION_EPISODES", 4)
    main(["train", "--target", "glasses=round", "--timesteps", "1280", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    for name in (*PICTURES, "summary.json", "agent.safetensors"):
        assert (tmp_path / name).stat().st_size > 0
        assert str(tmp_path / name) in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["target"] == {"glasses": "round"}
    assert set(summary["test"]) == {"agent", "random", "gradient reference"}
    reference, random = (summary["test"][m] for m in ("gradient reference", "random"))
    assert reference["is_success"] > random["is_success"] + 0.5
    assert summary["history"]
    assert len(iio.imread(tmp_path / "edit.gif")) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "hairColour=red"],
            "unknown attribute 'hairColour'; allowed: hair, hairColor",
        ),
        (["--target", "hairColor=red"], "unknown variant 'red' of attribute 'hairColor'; allowed:"),
        (["--target", "hairColor"], "target is 'hairColor'; expected ATTRIBUTE=VARIANT"),
    ],
)
def test_a_wrong_target_is_one_line(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments, "--out", str(tmp_path)])
    assert str(stop.value).startswith(f"latentgym: {message}")
    assert "\n" not in str(stop.value)


def test_train_backbone_from_rendering_to_measured_file(tmp_path, capsys):
    data, out = tmp_path / "faces", tmp_path / "run"
    arguments = ["train-backbone", "--data", str(data), "--out", str(out), "--name", "small"]
    quick = ["--iterations", "2", "--classifier-updates", "12", "--batch-size", "16"]
    main([*arguments, "--faces", "120", "--features", "4", *quick])
    assert str(out / "small.safetensors") in capsys.readouterr().out
    backbone = load(out / "small.safetensors")
    assert backbone.card["images"] == {"train": 72, "judge": 24, "held_out": 24}
    assert backbone.card["data"]["style"] == "avataaars"

    figures = out / "figures.json"
    arguments = ["--data", str(data), "--backbone", str(out / "small.safetensors")]
    main(["benchmark", "backbone", *arguments, "--out", str(figures)])
    # The card's figures are those that anyone can measure again.
    assert json.loads(figures.read_text()) == backbone.card["held_out"]
    assert "warning" not in capsys.readouterr().err
    (data / "0" / "000000.png").unlink()
    main(["benchmark", "backbone", *arguments])
    warning = "warning: data has 119 images, the backbone was made with 120"
    assert warning in capsys.readouterr().err


def test_a_missing_data_set_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["train-backbone", "--data", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert "none: no such folder" in str(stop.value)


@pytest.mark.parametrize(
    ("success", "realism", "caption"),
    [
        (True, 0.5, "success"),
        (False, 0.5, "missed: target not seen"),
        (False, 0.4, "missed: less realistic"),
    ],
)
def test_captions_say_why_an_edit_missed(success, realism, caption):
    scores = {"realism": realism, "start_realism": 0.5}
    assert edit_report._outcome({"is_success": success, "scores": scores}) == caption


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_demo_learns_to_edit(tmp_path, seed):
    main(["demo", "--seed", str(seed), "--out", str(tmp_path)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    agent, random, reference = (
        summary["test"][m] for m in ("agent", "random", "gradient reference")
    )
    assert reference["is_success"] >= 0.85
    assert agent["is_success"] >= max(0.6, 5 * random["is_success"])
    assert agent["kept"] >= 0.8 * reference["kept"]
    assert agent["scores/realism"] >= agent["scores/start_realism"]
    # The gain of the work this grew from, which began at 0.14: from there to 0.29.
    unrealistic = summary["unrealistic_starts"]["agent"]
    assert unrealistic["end"] - unrealistic["start"] >= 0.15
    # The curve ends near its maximum.
    returns = [point["return"] for point in summary["history"]]
    assert returns[-1] >= 0.85 * max(returns)
