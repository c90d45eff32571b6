import copy
import errno
import json
import math
import os
import random
import re
import signal
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from gan_backbones.datasets import CartoonSet
from gan_backbones.networks.dcgan import NORMS, UPSAMPLINGS
from gan_backbones.training.augment import POLICIES
from gan_backbones.training.gan import GANConfig, GANTrainer, find_warnings
from gan_backbones.training.losses import OBJECTIVES, PENALTIES, zero_centred_penalty
from gan_backbones.training.reward_punishment import PRESETS
from gan_backbones.training.trainer import seeded
from gan_backbones.utils.locks import FolderInUseError

CONFIG = GANConfig(
    data="unused",
    out="unused",
    iterations=6,
    batch_size=4,
    latent_dim=5,
    generator_features=4,
    discriminator_features=4,
    bf16=False,
    seed=7,
    checkpoint_interval=100,
)
EITHER_PRECISION = pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])


def random_images(count=12):
    rng = torch.Generator("cpu").manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=rng, device="cpu")


@pytest.fixture(autouse=True)
def bf16_everywhere(monkeypatch):
    """Whatever this machine's processor computes in, both precisions are tested."""
    monkeypatch.setattr("gan_backbones.training.trainer.computes_in_bf16", lambda device: True)


def trainer(out, images=None, held_out=None, **changes):
    images = random_images() if images is None else images
    return GANTrainer(replace(CONFIG, out=out, **changes), images, held_out)


def checkpoint(out):
    found = torch.load(Path(out) / "checkpoint.pt", weights_only=True)
    del found["memory"]  # of the checks, which come with every checkpoint
    return {**found, **found["networks"]}


def same(a, b):
    """Whether nested dictionaries and lists of tensors are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def fail_at(monkeypatch, call, action, side="generator"):
    """Make a loss do ``action(loss)`` at its ``call``-th call, counted from 0.

    By default the generator's: by then the iteration has updated the discriminator.
    """
    objective, calls = OBJECTIVES["relativistic"], iter(range(10**6))

    def patched(real, fake):
        value = getattr(objective, side)(real, fake)
        return action(value) if next(calls) == call else value

    monkeypatch.setitem(OBJECTIVES, "relativistic", objective._replace(**{side: patched}))


class Interruption(Exception):
    pass


def interrupt(loss):
    raise Interruption


def press_ctrl_c(loss):
    signal.raise_signal(signal.SIGINT)
    return loss


@pytest.fixture
def ctrl_c():
    """Python's own handler of Ctrl-C, which background processes do not get."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The checkpoints of runs from beginning to end, without and with bfloat16."""
    checkpoints = {}
    torch.set_num_threads(1)  # as in every test: sums by several threads are rounded otherwise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan_backbones.training.trainer.computes_in_bf16", lambda device: True)
        for bf16 in (False, True):
            out = tmp_path_factory.mktemp("undisturbed")
            trainer(out, bf16=bf16).train()
            checkpoints[bf16] = checkpoint(out)
    return checkpoints


@EITHER_PRECISION
def test_same_seed_same_run(tmp_path, undisturbed, bf16):
    trainer(tmp_path / "same", bf16=bf16).train()
    assert same(checkpoint(tmp_path / "same"), undisturbed[bf16])
    trainer(tmp_path / "other", bf16=bf16, seed=8).train()
    other = checkpoint(tmp_path / "other")
    for part in ("generator", "discriminator", "ema", "optimizers"):
        assert not same(other[part], undisturbed[bf16][part])


def test_every_network_learns(tmp_path):
    gan = trainer(tmp_path)
    gan.save()
    start = checkpoint(tmp_path)
    gan.train()
    end = checkpoint(tmp_path)
    for part in ("generator", "discriminator", "ema"):
        for key in start[part]:
            if part != "ema" or not key.endswith("num_batches_tracked"):
                assert not torch.equal(start[part][key], end[part][key]), (part, key)


@EITHER_PRECISION
def test_resume_after_an_error_within_an_iteration(tmp_path, monkeypatch, undisturbed, bf16):
    with monkeypatch.context() as patch:
        fail_at(patch, 4, interrupt)
        with pytest.raises(Interruption):
            trainer(tmp_path, bf16=bf16, checkpoint_interval=3).train()
    assert checkpoint(tmp_path)["iteration"] == 3
    resumed = trainer(tmp_path, bf16=bf16)
    resumed.train()
    assert resumed.iteration == 6
    assert same(checkpoint(tmp_path), undisturbed[bf16])
    assert same(resumed.generator.state_dict(), undisturbed[bf16]["ema"])
    assert same(resumed.discriminator.state_dict(), undisturbed[bf16]["discriminator"])


@EITHER_PRECISION
def test_ctrl_c_saves_after_a_whole_iteration(tmp_path, monkeypatch, undisturbed, bf16, ctrl_c):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path, bf16=bf16).train()
    assert checkpoint(tmp_path)["iteration"] == 4
    trainer(tmp_path, bf16=bf16).train()
    assert same(checkpoint(tmp_path), undisturbed[bf16])


def test_a_second_ctrl_c_acts_at_once(tmp_path, monkeypatch, ctrl_c):
    fail_at(monkeypatch, 3, lambda loss: press_ctrl_c(press_ctrl_c(loss)))
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, checkpoint_interval=2).train()
    assert checkpoint(tmp_path)["iteration"] == 2


def test_ctrl_c_in_the_last_iteration_is_not_lost(tmp_path, monkeypatch, ctrl_c):
    fail_at(monkeypatch, 5, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).train()
    assert checkpoint(tmp_path)["iteration"] == 6


def test_a_handler_of_the_program_is_left_alone(tmp_path, monkeypatch):
    received = []
    previous = signal.signal(signal.SIGINT, lambda *_: received.append(1))
    try:
        fail_at(monkeypatch, 3, press_ctrl_c)
        trainer(tmp_path).train()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert received == [1]
    assert checkpoint(tmp_path)["iteration"] == 6


def test_training_in_another_thread(tmp_path):
    thread = threading.Thread(target=trainer(tmp_path).train)
    thread.start()
    thread.join()
    assert checkpoint(tmp_path)["iteration"] == 6


def interrupt_after(lines, function):
    """Raise KeyboardInterrupt after so many lines of this package; returns how many were run."""
    seen = 0

    def count(frame, event, arg):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == lines:
                raise KeyboardInterrupt
        return count

    def trace(frame, event, arg):
        return count if "gan_backbones" in frame.f_code.co_filename else None

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(previous)
    return seen


def test_the_same_object_resumes_after_interrupts_at_any_moment(tmp_path):
    def make(name):
        return trainer(
            tmp_path / name, random_images(), random_images(8), iterations=3,
            checkpoint_interval=2, objective="bce", norm="batch", penalty_kind="none",
        )  # fmt: skip

    lines = interrupt_after(-1, make("whole").train)
    for number, first in enumerate(range(1, lines, lines // 6)):
        gan = make(str(number))
        for moment in (first, lines // 3):
            with suppress(KeyboardInterrupt):
                interrupt_after(moment, gan.train)
        gan.train()
        whole, resumed = (
            torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", str(number))
        )
        assert same(resumed, whole)
        logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", str(number))]
        assert logs[0] == logs[1]


@contextmanager
def default_dtype(dtype):
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    assert torch.get_default_dtype() == dtype
    torch.set_default_dtype(previous)


@pytest.mark.parametrize(
    "state",
    [
        lambda: default_dtype(torch.float64),
        lambda: torch.device("meta"),
        torch.inference_mode,
        torch.no_grad,
    ],
    ids=["float64", "meta", "inference mode", "no grad"],
)
def test_the_state_of_torch_changes_nothing(tmp_path, undisturbed, state):
    with state():
        trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


def test_a_second_training_in_the_folder_is_refused(tmp_path, monkeypatch):
    refused = []

    def start_another(loss):
        def run():
            try:
                trainer(tmp_path).train()
            except FolderInUseError as error:
                refused.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return loss

    fail_at(monkeypatch, 3, start_another)
    trainer(tmp_path).train()
    assert len(refused) == 1
    assert refused[0].startswith(f"{tmp_path} is in use by process {os.getpid()} on ")


def test_what_another_run_left_is_moved_away_not_mixed(tmp_path, capsys):
    """The checkpoint is deleted; the next run has larger images."""
    trainer(tmp_path).train()
    before = {name: (tmp_path / name).read_bytes() for name in ("log.jsonl", "samples.gif")}
    (tmp_path / "checkpoint.pt").unlink()
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    trainer(tmp_path, images).train()
    assert "log.jsonl, samples, samples.gif of an earlier run" in capsys.readouterr().err
    for name, content in before.items():
        assert (tmp_path / "earlier-1" / name).read_bytes() == content
    assert len(list((tmp_path / "earlier-1" / "samples").iterdir())) == 2
    side = iio.imread(tmp_path / "samples" / "000000.png").shape[1]
    assert iio.imread(tmp_path / "samples.gif").shape[:3] == (2, side, side)
    (tmp_path / "checkpoint.pt").unlink()
    trainer(tmp_path).train()
    assert (tmp_path / "earlier-2" / "samples.gif").exists()


def test_a_run_that_trained_nothing_is_replaced(tmp_path, undisturbed):
    trainer(tmp_path, seed=8).save()
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


def in_a_child(function):
    """Run ``function`` in a copy of this process; returns how it ended, or the signal, negative."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_loss(patch):
    fail_at(patch, 3, die)


def die_replacing(name):
    def prepare(patch):
        replace_file = os.replace

        def patched(source, target):
            if str(target).endswith(name):
                die()
            replace_file(source, target)

        patch.setattr(os, "replace", patched)

    return prepare


def die_between_updates(patch):
    step, calls = torch.optim.Adam.step, iter(range(10**6))

    def patched(optimizer):
        step(optimizer)
        if next(calls) == 6:
            die()

    patch.setattr(torch.optim.Adam, "step", patched)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_resume_after_sigkill(tmp_path, undisturbed):
    """One run, killed at moments one after another: what is left half done is never seen again."""
    for prepare, iteration in (
        (die_in_the_loss, 2),
        (die_replacing("checkpoint.pt"), 2),
        (die_replacing("000004.png"), 2),
        (die_replacing("log.jsonl"), 2),
        (die_between_updates, 4),
    ):

        def run(prepare=prepare):
            prepare(pytest.MonkeyPatch())
            trainer(tmp_path, checkpoint_interval=2).train()

        assert in_a_child(run) == -signal.SIGKILL
        assert checkpoint(tmp_path)["iteration"] == iteration
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_full_disk_leaves_the_checkpoint(tmp_path, undisturbed):
    import resource

    def run():
        gan = trainer(tmp_path, checkpoint_interval=2)
        save, saves = gan.save, iter(range(10))

        def patched():
            if next(saves) == 1:  # as a full disk: files may not grow
                resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            save()

        gan.save = patched
        try:
            gan.train()
        except OSError as error:
            (tmp_path / "error").write_text(str(error))

    assert in_a_child(run) == 0
    file = tmp_path / "checkpoint.pt"
    assert (tmp_path / "error").read_text() == (
        f"{file} could not be written at iteration 2 (File too large); last good checkpoint: {file}"
    )
    assert checkpoint(tmp_path)["iteration"] == 0
    assert not list(tmp_path.glob(".checkpoint*"))
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


def test_a_failure_at_the_first_write_names_no_checkpoint(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gan_backbones.training.trainer.write_atomically", fail)
    file = tmp_path / "checkpoint.pt"
    message = (
        f"{file} could not be written at iteration 0 (No space left on device); "
        "there is no checkpoint yet"
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        trainer(tmp_path).train()


@pytest.mark.parametrize("side", ["discriminator", "generator"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_checkpoint(
    tmp_path, monkeypatch, undisturbed, side, value
):
    with monkeypatch.context() as patch:
        fail_at(patch, 4, lambda good: good * value, side)
        message = (
            f"the {side}'s loss is {value} at iteration 4; "
            f"last good checkpoint: {tmp_path / 'checkpoint.pt'}"
        )
        with pytest.raises(FloatingPointError, match=f"^{re.escape(message)}$"):
            trainer(tmp_path, checkpoint_interval=3).train()
    assert checkpoint(tmp_path)["iteration"] == 3
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch, network):
    def steep(loss):  # the same value, the gradient of the root at 0 is infinite
        return loss + (loss - loss.detach()).sqrt()

    fail_at(monkeypatch, 5, steep, network)
    # In the last iteration no further loss would tell. (A broken discriminator shows in the
    # generator's loss.)
    message = "the generator has weights" if network == "generator" else "the generator's loss"
    with pytest.raises(FloatingPointError, match=message):
        trainer(tmp_path, checkpoint_interval=3).train()
    assert checkpoint(tmp_path)["iteration"] == 3


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    trainer(tmp_path).train()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="another configuration") as error:
        trainer(tmp_path, learning_rate=0.001, seed=8).train()
    assert str(error.value) == (
        f"{tmp_path / 'checkpoint.pt'} was made under another configuration "
        "(seed 7 -> 8, learning_rate 0.0003 -> 0.001): "
        "choose another folder, or the same configuration to resume"
    )
    with pytest.raises(ValueError, match=re.escape("(images 12 -> 8, ")):
        GANTrainer(replace(CONFIG, out=tmp_path), random_images(8)).train()
    with pytest.raises(ValueError, match=re.escape("(generator_features 4 -> 8)")):
        trainer(tmp_path, generator_features=8).train()
    with pytest.raises(ValueError, match=r"\(images_checksum \d+ -> \d+\)"):
        trainer(tmp_path, 255 - random_images()).train()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_folders_and_checkpoint_interval_may_change(tmp_path, monkeypatch, undisturbed, ctrl_c):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, press_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "here").train()
    (tmp_path / "here").rename(tmp_path / "there")
    trainer(str(tmp_path / "there"), data="elsewhere", checkpoint_interval=1).train()
    assert same(checkpoint(tmp_path / "there"), undisturbed[False])


def test_a_finished_run_trains_no_further(tmp_path, monkeypatch, undisturbed):
    trainer(tmp_path).train()
    fail_at(monkeypatch, 0, interrupt)
    finished = trainer(tmp_path)
    finished.train()
    assert same(finished.generator.state_dict(), undisturbed[False]["ema"])


class Malice:
    def __reduce__(self):
        return os.mkdir, ("malice",)


def damage_checkpoint(file, how):
    content = file.read_bytes()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "text":
        file.write_text("not a checkpoint")
    elif how == "foreign":
        torch.save({"weights": torch.zeros(3)}, file)
    elif how == "code":
        torch.save({**torch.load(file), "config": Malice()}, file)
    elif how == "flipped":
        numbers = checkpoint(file.parent)["generator"]["layers.1.weight"].numpy()
        middle = content.index(numbers.tobytes())
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    else:
        file.write_bytes(content[: int(len(content) * float(how))])


@pytest.mark.parametrize(
    "how", ["empty", "text", "foreign", "code", "flipped", ".01", ".5", ".99", ".9999"]
)
def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path).train()
    file = tmp_path / "checkpoint.pt"
    damage_checkpoint(file, how)
    before = file.read_bytes()
    message = f"{file} is damaged or not a checkpoint of this trainer: delete it to start afresh"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        trainer(tmp_path).train()
    assert file.read_bytes() == before
    assert not Path("malice").exists()


def test_global_random_states_are_untouched(tmp_path):
    torch.manual_seed(1)
    np.random.seed(2)  # noqa: NPY002
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    trainer(tmp_path).train()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert str(np.random.get_state()) == str(states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_global_random_states_change_nothing(tmp_path, undisturbed):
    torch.manual_seed(99)
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


@pytest.mark.parametrize("count", [12, 14])
def test_every_image_is_seen_once_an_epoch(tmp_path, count):
    numbers = torch.arange(count, dtype=torch.uint8)  # image i consists of i alone
    images = numbers[:, None, None, None].expand(count, 3, 16, 16)
    gan = trainer(tmp_path, images)
    epochs = []
    for epoch in range(3):
        seen = []
        for position in range(3):
            batch = gan._batch(gan._rows(3 * epoch + position))
            assert batch.shape == (4, 3, 16, 16)
            assert (batch == batch[:, :1, :1, :1]).all()
            seen += ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert len(set(seen)) == 12  # 14 images make three whole batches too
        assert set(seen) <= set(range(count))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]


def test_too_few_images(tmp_path):
    message = "^batch_size is 4, but there are only 3 images to train on; at least batch_size and"
    with pytest.raises(ValueError, match=message):
        GANTrainer(replace(CONFIG, out=tmp_path), random_images(3))
    with pytest.raises(ValueError, match="only 1 images to train on"):
        GANTrainer(replace(CONFIG, out=tmp_path, batch_size=1), random_images(1))


def test_images_are_read_from_the_data_folder(tmp_path, faces):
    gan = GANTrainer(replace(CONFIG, data=faces, out=tmp_path))
    assert torch.equal(gan.images, CartoonSet(faces).images(range(70)))
    assert gan.generator(torch.zeros(2, 5)).shape == (2, 3, 64, 64)


def test_the_log_holds_every_interval_once(tmp_path, monkeypatch):
    monkeypatch.setattr("gan_backbones.training.trainer.LOG_INTERVAL", 1)
    monkeypatch.setattr(
        "gan_backbones.training.trainer.time.perf_counter", lambda: 1.0
    )  # a clock without ticks
    with monkeypatch.context() as patch:
        fail_at(patch, 5, interrupt)
        with pytest.raises(Interruption):
            trainer(tmp_path, checkpoint_interval=3).train()
    trainer(tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "gap" in line]
    assert [line["iteration"] for line in losses] == [1, 2, 3, 4, 5, 6]
    figures = {"iteration", "loss_discriminator", "loss_generator", "gap", "images_per_second"}
    assert all(line["images_per_second"] > 0 for line in losses)
    for line in losses:
        assert line.keys() == figures
        assert all(map(math.isfinite, line.values()))
    checks = [line for line in lines if "gap" not in line]
    assert [line["iteration"] for line in checks] == [3, 6]
    for line in checks:
        assert line.keys() == {"iteration", "saturation", "diversity", "warnings"}


def test_grids_at_the_given_iterations_a_gif_and_no_litter(tmp_path):
    (tmp_path / "samples").mkdir()
    gan = trainer(tmp_path, checkpoint_interval=4, sample_at=(0, 1))
    gan.save()
    for name in ("000003", "notes"):  # a user's own, of another size
        iio.imwrite(tmp_path / "samples" / f"{name}.png", np.zeros((5, 5, 3), np.uint8))
    gan.train()
    for name in ("000003", "notes"):
        (tmp_path / "samples" / f"{name}.png").unlink()
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    grids = [f"samples/00000{iteration}.png" for iteration in (0, 1, 4, 6)]
    assert files == [".lock", "checkpoint.pt", "log.jsonl", "samples.gif", *grids]
    frames = iio.imread(tmp_path / "samples.gif")
    assert frames.shape == (4, *iio.imread(tmp_path / grids[0]).shape)


def test_tensorboard(tmp_path, monkeypatch):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr("gan_backbones.training.trainer.LOG_INTERVAL", 2)
    trainer(tmp_path, tensorboard=True).train()
    board = events.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [point.step for point in board.Scalars("loss_generator")] == [2, 4, 6]
    assert board.Tags()["images"] == ["samples"]


def test_the_generator_is_ready_for_use(tmp_path):
    gan = trainer(tmp_path)
    gan.train()
    latents = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    images = gan.generator(latents)
    assert not images.requires_grad
    assert torch.allclose(images[:1], gan.generator(latents[:1]), atol=1e-6)


def test_the_average_follows_the_trained_generator(tmp_path):
    """Half of the old average is left after `ema_half_life` images; hardly any at the start."""
    gan = trainer(tmp_path, iterations=4000, ema_half_life=4)  # one batch
    for iteration, keep in ((0, 0.5**20), (9, 0.5**2), (19, 0.5), (3000, 0.5)):
        gan.iteration = iteration
        before = {k: v.clone() for k, v in gan.generator.state_dict().items()}
        gan.train_step()
        trained = gan._generator.state_dict()
        for key, value in gan.generator.state_dict().items():
            if value.is_floating_point():
                expected = keep * before[key] + (1 - keep) * trained[key]
                assert torch.allclose(value, expected, atol=1e-6), (iteration, key)


def test_the_learning_rate_falls_to_a_tenth(tmp_path):
    gan = trainer(tmp_path, iterations=1000)
    for iteration, share in ((0, 1), (500, 0.55), (1000, 0.1)):
        gan.iteration = iteration
        gan.train_step()
        for optimizer in gan._optimizers.values():
            assert optimizer.param_groups[0]["lr"] == pytest.approx(share * 3e-4)


@pytest.mark.parametrize(("interval", "calls"), [(1, 6), (2, 3), (4, 2)])
def test_penalty_interval(tmp_path, monkeypatch, interval, calls):
    """Real and generated images are penalised together at iterations 0, interval, ..."""
    penalised = []

    def penalty(logits, images):
        penalised.append(len(images))
        return zero_centred_penalty(logits, images)

    monkeypatch.setattr("gan_backbones.training.gan.zero_centred_penalty", penalty)
    trainer(tmp_path, penalty_interval=interval).train()
    assert penalised == [8] * calls


# Every setting ------------------------------------------------------------------------------------

VARIANTS = {
    "minimax": dict(objective="minimax", penalty_kind="none"),
    "smoothed and flipped": dict(objective="bce", real_target=0.9, flipped=0.1),
    "least squares": dict(objective="least_squares", penalty_kind="r1"),
    "hinge with spectral norm": dict(objective="hinge", norm="spectral", penalty_kind="none"),
    "WGAN-GP": dict(objective="wgan", penalty_kind="wgan", penalty=10.0, discriminator_steps=2),
    "R2": dict(penalty_kind="r2", penalty_interval=1),
    "batch norm": dict(objective="bce", norm="batch", penalty_kind="none"),
    "residual": dict(architecture="residual"),
    "upconv": dict(upsampling="upconv"),
    "augmented": dict(augment=("color", "translation", "cutout")),
    "no average": dict(ema_half_life=0),
    "two rates": dict(discriminator_learning_rate=1e-3, betas=(0.5, 0.99)),
    "S1": dict(objective="bce", reward_punishment="S1", penalty_kind="none", iterations=18),
    "S1 augmented": dict(objective="bce", reward_punishment="S1", augment=("cutout",)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_setting_trains_and_resumes(tmp_path, name):
    changes = {"iterations": 4, **VARIANTS[name]}
    trainer(tmp_path / "whole", **changes).train()
    half = trainer(tmp_path / "halves", **changes)
    half.accelerator.wait_for_everyone()
    while half.iteration < changes["iterations"] // 2:
        half._pending.append((half.iteration, half.train_step()))
        half.iteration += 1
    half.save()
    trainer(tmp_path / "halves", **changes).train()
    whole, halves = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "halves")
    assert same(halves["networks"], whole["networks"])
    assert same(halves["optimizers"], whole["optimizers"])
    trainer(tmp_path / "plain", iterations=changes["iterations"]).train()
    plain = checkpoint(tmp_path / "plain")
    assert not same(plain["networks"], whole["networks"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(objective="mse"), "objective is 'mse'; allowed: bce, minimax"),
        (dict(norm="batch"), "penalty_kind 'r1_r2' uses each image's own gradient"),
        (dict(objective="wgan", penalty_kind="none"), "leaves the discriminator's slope unbounded"),
        (dict(flipped=0.1), "flipped is 0.1, but objective 'relativistic' has no targets"),
        (dict(architecture="stylegan"), "architecture is 'stylegan'; allowed: dcgan, residual"),
        (dict(architecture="residual", norm="spectral"), "norm is 'spectral'; the residual"),
        (
            dict(augment=("flip",)),
            "augment is ('flip',); allowed: a sequence, each element color, translation, cutout",
        ),
        (dict(augment=("color", "color")), "policy 'color' is named twice"),
        (
            dict(reward_punishment="S4", objective="bce"),
            "reward_punishment is 'S4'; allowed: S1, S2, S3 or None",
        ),
        (dict(reward_punishment="S1"), "allowed in the semi-cooperative game: bce, minimax"),
        (dict(penalty=0), "penalty is 0.0; allowed with penalty_kind 'r1_r2': finite and above 0"),
        (dict(penalty_kind="foo"), "penalty_kind is 'foo'; allowed: none, wgan, r1, r2, r1_r2"),
        (dict(norm="foo"), "norm is 'foo'; allowed: none, batch, spectral"),
        (dict(latent_dim=0), "latent_dim is 0; allowed: a whole number at least 1"),
        (dict(learning_rate=-1), "learning_rate is -1; allowed: a finite number above 0"),
        (dict(learning_rate=math.nan), "learning_rate is nan; allowed: a finite number above 0"),
        (dict(batch_size="32"), "batch_size is '32'; allowed: a whole number at least 1"),
        (dict(batch_size=True), "batch_size is True; allowed: a whole number at least 1"),
        (dict(bf16="False"), "bf16 is 'False'; allowed: True or False"),
        (dict(channels=2), "channels is 2; allowed: 1, 3 or None"),
        (dict(data=3), "data is 3; allowed: text or a path"),
        (
            dict(betas=(0.5, 1.0)),
            "betas is (0.5, 1.0); allowed: 2 values, each a finite number at least 0 and below 1",
        ),
        (dict(betas=0.5), "betas is 0.5; allowed: 2 values"),
        (
            dict(sample_at=(0, -1)),
            "sample_at is (0, -1); allowed: a sequence, each element a whole",
        ),
        (
            dict(seed=2**64),
            "seed is 18446744073709551616; allowed: a whole number at least 0 and at most "
            "9223372036854775807",
        ),
        (dict(seed=-1), "seed is -1; allowed: a whole number at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        replace(CONFIG, **changes)
    assert "\n" not in str(error.value)


def test_settings_are_converted_to_their_types():
    config = replace(
        CONFIG, batch_size=np.int64(8), iterations=1e3, learning_rate=1, betas=[0, np.float32(0.5)]
    )
    settings = config.batch_size, config.iterations, config.learning_rate, *config.betas
    assert settings == (8, 1000, 1.0, 0.0, 0.5)
    assert list(map(type, settings)) == [int, int, float, float, float]
    assert config.betas == (0.0, 0.5)


@pytest.mark.parametrize(
    ("setting", "implemented"),
    [
        ("objective", OBJECTIVES),
        ("penalty_kind", PENALTIES),
        ("augment", POLICIES),
        ("reward_punishment", PRESETS),
        ("norm", NORMS),
        ("upsampling", UPSAMPLINGS),
    ],
)
def test_choices_are_those_that_are_implemented(setting, implemented):
    """Type checkers and the command line need them written out."""
    hint = get_type_hints(GANConfig)[setting]
    literals = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
    assert get_args(literals[0]) == tuple(implemented)


def test_the_objective_without_tricks_is_the_plain_loop(tmp_path):
    """One pass over both batches, a shared fake batch, a frozen discriminator: the same maths."""
    gan = trainer(tmp_path, objective="bce", penalty_kind="none", ema_half_life=0)
    generator, discriminator = copy.deepcopy((gan._generator, gan.discriminator))
    rows, rng = gan._rows(0), seeded(CONFIG.seed, 0)
    gan.train_step()
    real, fake = gan._batch(rows), generator(torch.randn(4, 5, generator=rng))
    update_d = torch.optim.Adam(discriminator.parameters(), 3e-4, betas=(0.0, 0.99))
    update_g = torch.optim.Adam(generator.parameters(), 3e-4, betas=(0.0, 0.99))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    bce(discriminator(real), torch.ones(4)).backward()
    bce(discriminator(fake.detach()), torch.zeros(4)).backward()
    update_d.step()
    generator.zero_grad()
    bce(discriminator(fake), torch.ones(4)).backward()
    update_g.step()
    for ours, plain in ((gan._generator, generator), (gan.discriminator, discriminator)):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            # Adam divides by the gradient's size, so rounding shows where that is near 0.
            assert (a - b).abs().max() < 6.1e-4
            assert ((a - b).abs() < 1e-6).double().mean() > 0.98


def test_study_leaves_the_generator_alone(tmp_path):
    gan = trainer(tmp_path, objective="bce", reward_punishment="S1", iterations=15)
    phases = [gan._phase(number) for number in range(15)]
    assert phases == ["punishment"] * 12 + ["study", "study", "reward"]
    gan.iteration = 12
    before = copy.deepcopy(gan._generator.state_dict())
    assert "loss_generator" not in gan.train_step()
    for name, parameter in gan._generator.named_parameters():
        assert torch.equal(parameter, before[name])
    gan.iteration = 14
    assert "loss_generator" in gan.train_step()


# Warnings -----------------------------------------------------------------------------------------


def figures(accuracy=0.7, real=0.5, generated=0.4, diversity=0.8, **more):
    saturation = {"accuracy": accuracy, "real": [real] * 7, "generated": [generated] * 7}
    return {"saturation": saturation, "diversity": diversity, **more}


def test_warnings():
    assert find_warnings(figures(), 0.8) == []
    assert find_warnings(figures(overfitting=0.2), 0.8) == []
    assert find_warnings(figures(accuracy=1.0), 0.8) == []  # right, but not sure of it
    (saturated,) = find_warnings(figures(1.0, 0.99, 0.01), 0.8)
    assert "saturated" in saturated
    (collapsed,) = find_warnings(figures(diversity=0.3), 0.8)
    assert collapsed == (
        "mode collapse: samples lie 0.30 times as far apart as real images, after 0.80 at best"
    )
    assert find_warnings(figures(diversity=0.01), 0.02) == []  # has just begun
    (overfitted,) = find_warnings(figures(overfitting=0.9), 0.8)
    assert "overfits: score 0.90" in overfitted


def test_a_discriminator_that_knows_its_images_by_heart_is_noticed(tmp_path, capsys):
    """Eight images of noise, trained on until their scores leave those of unseen noise behind."""
    images = random_images(72)
    gan = trainer(
        tmp_path, images[:8], images[8:], iterations=150, discriminator_features=16,
        learning_rate=3e-3, penalty_kind="none", objective="bce", checkpoint_interval=150,
    )  # fmt: skip
    gan.train()
    checks = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert checks[-1]["overfitting"] > 0.5
    assert any("overfits" in warning for warning in checks[-1]["warnings"])
    assert "warning at iteration 150: discriminator" in capsys.readouterr().out


def test_collapse_is_noticed(tmp_path):
    gan = trainer(tmp_path)
    for parameter in gan.generator.parameters():
        if parameter.ndim == 4:
            parameter.mul_(12)  # DCGAN's initial weights make grey images
    samples = gan._samples()
    assert gan._checks(samples)[1] == []
    _, warnings = gan._checks(samples[:1].expand_as(samples))
    assert any("mode collapse" in warning for warning in warnings)
    gan.save()
    resumed = trainer(tmp_path)
    resumed._resume()
    assert resumed._best_diversity == gan._best_diversity > 0


# Several processes --------------------------------------------------------------------------------

SEVERAL = dict(architecture="residual", objective="bce", iterations=3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_two_processes_do_what_one_does(tmp_path):
    """Together they see each image once an epoch; averaged gradients are the joined batch's."""
    trainer(tmp_path / "one", **SEVERAL).train()
    first = trainer(tmp_path, **SEVERAL)
    first.train_step()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    two = tmp_path / "two"
    two.mkdir()

    def run(rank):
        # As `torchrun` and `accelerate launch` start them.
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
        )  # fmt: skip
        AcceleratorState._reset_state(reset_partial_state=True)
        gan = trainer(two, **SEVERAL)
        assert gan.accelerator.num_processes == 2
        rows = [gan._rows(number).tolist() for number in range(3)]
        (two / f"rows{rank}.json").write_text(json.dumps(rows))
        gan.train_step()
        torch.save([p.grad for p in gan._generator.parameters()], two / f"gradients{rank}.pt")
        trainer(two, **SEVERAL).train()
        (two / f"done{rank}").touch()
        torch.distributed.destroy_process_group()

    other = os.fork()
    if other == 0:
        try:
            run(1)
        finally:
            os._exit(0)
    assert in_a_child(lambda: run(0)) == 0
    os.waitpid(other, 0)
    assert (two / "done1").exists()
    rows = [json.loads((two / f"rows{rank}.json").read_text()) for rank in (0, 1)]
    assert all(len(batch) == 2 for batch in rows[0] + rows[1])
    assert sorted(row for batch in rows[0] + rows[1] for row in batch) == list(range(12))
    for rank in (0, 1):
        gradients = torch.load(two / f"gradients{rank}.pt")
        for ours, parameter in zip(gradients, first._generator.parameters(), strict=True):
            assert torch.allclose(ours, parameter.grad, rtol=1e-4, atol=1e-6)
    joined, averaged = checkpoint(tmp_path / "one"), checkpoint(two)
    assert averaged["iteration"] == 3
    for name in ("generator", "discriminator", "ema"):
        a, b = (torch.cat([v.flatten() for v in c[name].values()]) for c in (joined, averaged))
        # Adam divides by the gradient's size, so rounding shows where that is near 0.
        assert ((a - b).abs() < 1e-5).double().mean() > 0.99
    assert (two / "samples.gif").exists()
    assert len((two / "log.jsonl").read_text().splitlines()) == 1


def test_gradients_are_those_of_the_joined_batch(tmp_path):
    """Halves' gradients, averaged, equal the whole's: the loss is a mean over the batch."""
    gan = trainer(tmp_path, architecture="residual")
    gradients = []
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4)):
        gan._slice = rows
        gan._optimizers["discriminator"].step = lambda: None
        gan._optimizers["generator"].step = lambda: None
        gan.train_step()
        gradients.append([p.grad.clone() for p in gan._generator.parameters()])
    for whole, first, second in zip(*gradients, strict=True):
        assert torch.allclose((first + second) / 2, whole, atol=1e-6)


def test_a_batch_must_divide_among_the_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("gan_backbones.training.trainer.Accelerator.num_processes", 3)
    with pytest.raises(ValueError, match=r"^batch_size is 4; it must be a multiple of the number"):
        trainer(tmp_path)
