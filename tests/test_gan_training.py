import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_backbones import gan_training
from gan_backbones.datasets import CartoonSet
from gan_backbones.gan_training import GANConfig, GANTrainer
from gan_backbones.losses import (
    relativistic_discriminator,
    relativistic_generator,
    zero_centred_penalty,
)

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
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=rng)


def trainer(out, **changes):
    return GANTrainer(replace(CONFIG, out=out, **changes), random_images())


def checkpoint(out):
    return torch.load(Path(out) / "checkpoint.pt", weights_only=True)


def same(a, b):
    """Whether nested dictionaries and lists of tensors are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def fail_at(monkeypatch, call, action, name="relativistic_generator"):
    """Make a loss do ``action(loss)`` at its ``call``-th call, counted from 0.

    By default the generator's: by then the iteration has updated the discriminator.
    """
    loss, calls = getattr(gan_training, name), iter(range(10**6))

    def patched(real, fake):
        value = loss(real, fake)
        return action(value) if next(calls) == call else value

    monkeypatch.setattr(gan_training, name, patched)


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
    for part in ("generator", "discriminator", "ema", "optimisers"):
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


KILLED_RUN = """
import os, signal, sys
import pytest, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_gan_training as tests

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{preparation}
tests.trainer({out!r}, checkpoint_interval=2).train()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_resume_after_sigkill(tmp_path, undisturbed):
    """Killed once within an iteration, once while the next checkpoint is put in its place."""
    for preparation, iteration in (
        ("tests.fail_at(pytest.MonkeyPatch(), 3, die)", 2),
        ("os.replace = die", 2),
    ):
        script = KILLED_RUN.format(
            tests=str(Path(__file__).parent), preparation=preparation, out=str(tmp_path)
        )
        run = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert checkpoint(tmp_path)["iteration"] == iteration
    trainer(tmp_path).train()
    assert same(checkpoint(tmp_path), undisturbed[False])


@pytest.mark.parametrize("loss", ["relativistic_discriminator", "relativistic_generator"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_checkpoint(
    tmp_path, monkeypatch, undisturbed, loss, value
):
    with monkeypatch.context() as patch:
        fail_at(patch, 4, lambda good: good * value, loss)
        message = (
            f"the {loss.removeprefix('relativistic_')}'s loss is {value} at iteration 4; "
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

    fail_at(monkeypatch, 5, steep, f"relativistic_{network}")
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
        "(learning_rate 0.0003 -> 0.001, seed 7 -> 8): "
        "choose another folder, or the same configuration to resume"
    )
    with pytest.raises(ValueError, match=re.escape("(images 12 -> 8)")):
        GANTrainer(replace(CONFIG, out=tmp_path), random_images(8)).train()
    with pytest.raises(ValueError, match=re.escape("(generator_features 4 -> 8)")):
        trainer(tmp_path, generator_features=8).train()
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
        torch.save({**checkpoint(file.parent), "config": Malice()}, file)
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
    gan = GANTrainer(
        replace(CONFIG, out=tmp_path), numbers[:, None, None, None].expand(count, 3, 16, 16)
    )
    epochs = []
    for epoch in range(3):
        seen = []
        for position in range(3):
            gan.iteration = 3 * epoch + position
            batch = gan._real_batch()
            assert batch.shape == (4, 3, 16, 16)
            assert (batch == batch[:, :1, :1, :1]).all()
            seen += ((batch[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert len(set(seen)) == 12  # 14 images make three whole batches too
        assert set(seen) <= set(range(count))
        epochs.append(seen)
    assert epochs[0] != epochs[1] != epochs[2]


def test_too_few_images(tmp_path):
    message = "^batch_size is 4 but there are only 3 images$"
    with pytest.raises(ValueError, match=message):
        GANTrainer(replace(CONFIG, out=tmp_path), random_images(3))


def test_images_are_read_from_the_data_folder(tmp_path, faces):
    gan = GANTrainer(replace(CONFIG, data=faces, out=tmp_path))
    assert torch.equal(gan.images, CartoonSet(faces).images(range(70)))
    assert gan.generator(torch.zeros(2, 5)).shape == (2, 3, 64, 64)


def test_the_log_holds_every_interval_once(tmp_path, monkeypatch):
    monkeypatch.setattr(gan_training, "LOG_INTERVAL", 1)
    with monkeypatch.context() as patch:
        fail_at(patch, 5, interrupt)
        with pytest.raises(Interruption):
            trainer(tmp_path, checkpoint_interval=3).train()
    trainer(tmp_path).train()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line.keys() == {"iteration", "loss_discriminator", "loss_generator", "gap"}
        assert all(map(math.isfinite, line.values()))


def test_checkpoints_come_with_samples_and_no_litter(tmp_path):
    trainer(tmp_path, checkpoint_interval=4).train()
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["checkpoint.pt", "samples/000004.png", "samples/000006.png"]


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
        gan._step()
        trained = gan._generator.state_dict()
        for key, value in gan.generator.state_dict().items():
            if value.is_floating_point():
                expected = keep * before[key] + (1 - keep) * trained[key]
                assert torch.allclose(value, expected, atol=1e-6), (iteration, key)


def test_the_learning_rate_falls_to_a_tenth(tmp_path):
    gan = trainer(tmp_path, iterations=1000)
    for iteration, share in ((0, 1), (500, 0.55), (1000, 0.1)):
        gan.iteration = iteration
        gan._step()
        for optimiser in gan._optimisers.values():
            assert optimiser.param_groups[0]["lr"] == pytest.approx(share * 3e-4)


@pytest.mark.parametrize(("interval", "calls"), [(1, 6), (2, 3), (4, 2)])
def test_penalty_interval(tmp_path, monkeypatch, interval, calls):
    """Real and generated images are penalised together at iterations 0, interval, ..."""
    penalised = []

    def penalty(logits, images):
        penalised.append(len(images))
        return zero_centred_penalty(logits, images)

    monkeypatch.setattr(gan_training, "zero_centred_penalty", penalty)
    trainer(tmp_path, penalty_interval=interval).train()
    assert penalised == [8] * calls


def test_penalty_of_a_linear_discriminator_is_its_squared_norm():
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(5, 3, 4, 4, generator=rng, requires_grad=True)
    weights = torch.randn(3, 4, 4, generator=rng, requires_grad=True)
    penalty = zero_centred_penalty((images * weights).sum(dim=(1, 2, 3)), images)
    assert torch.allclose(penalty, weights.square().sum())
    penalty.backward()
    assert torch.allclose(weights.grad, 2 * weights)


def test_penalty_averages_over_images():
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    penalty = zero_centred_penalty(images.square().sum(dim=(1, 2, 3)) / 2, images)
    assert torch.allclose(penalty, images.square().sum() / 5)


def test_relativistic_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0])
    high, low = math.log1p(math.exp(2)), math.log1p(math.exp(-2))
    assert relativistic_discriminator(real, fake).item() == pytest.approx((low + math.log(2)) / 2)
    assert relativistic_generator(real, fake).item() == pytest.approx((high + math.log(2)) / 2)
