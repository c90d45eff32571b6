"""The loop of every trainer: resume, iterate, log, sample, check, save, stop.

A subclass of :class:`Trainer` defines one iteration. Each iteration draws its batch and its noise
from random generators seeded by (seed, iteration). So it computes the same after an interrupt, and
on one process or several, and no random state needs to be stored.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import signal
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import imageio.v3 as iio
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torchvision.utils import make_grid, save_image

from gan_backbones.datasets.images import to_float
from gan_backbones.datasets.splitting import SHARES, check_shares
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.utils.devices import computes_in_bf16, plain_mode
from gan_backbones.utils.files import write_atomically
from gan_backbones.utils.locks import folder_lock
from gan_backbones.utils.progress import ProgressBar
from gan_backbones.utils.validation import NonNegativeInt, PositiveInt, Seed, check_fields

LOG_INTERVAL = 50  # iterations
FRAME_MS = 400  # how long the GIF shows each grid

FREE_SETTINGS = (
    "data",
    "out",
    "checkpoint_interval",
    "sample_at",
    "tensorboard",
    "classifier_updates",
)
"""Settings that do not change what is computed, so a resumed run may have others."""

OUTPUTS = ("log.jsonl", "samples", "samples.gif", "tensorboard")
"""What a run writes besides its checkpoint."""

_building = threading.Lock()


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of every training. Resuming with other values is refused.

    Attributes:
        data: folder of images, or ``READER:FOLDER`` such as ``mnist:DIR``; see the README.
        out: folder for checkpoint, log and sample grids.
        iterations: number of updates of each network.
        batch_size: number of images per update, over all processes.
        image_size: side of the images in pixels: 32, 64, 128.
        channels: 3 for RGB, 1 for gray; by default those of the data.
        bf16: autocast to bfloat16 if the device has fast bfloat16.
        seed: random seed of initial weights, data order and noise.
        checkpoint_interval: number of iterations between checkpoints, each with diagnostics and a
            sample grid.
        sample_at: further iterations with a sample grid.
        tensorboard: also log for TensorBoard.
        classifier_updates: maximum number of updates of classifier and judge; they stop earlier
            when accuracy on validation images stops rising.
        split: shares of the images for training (generator, discriminator, classifier), for
            training the judge, and held out for measuring (at most 10,000), drawn by the seed.

    Raises:
        ValueError: a setting of the wrong type or out of range.
    """

    data: str | Path
    out: str | Path = Path("runs/backbone")
    iterations: PositiveInt = 5000
    batch_size: PositiveInt = 64
    image_size: PositiveInt = 64
    channels: Literal[1, 3] | None = None
    bf16: bool = True
    seed: Seed = 0
    checkpoint_interval: PositiveInt = 500
    sample_at: tuple[NonNegativeInt, ...] = (0, 250)
    tensorboard: bool = False
    classifier_updates: PositiveInt = 2000
    split: tuple[float, float, float] = SHARES

    def __post_init__(self):
        check_fields(self)
        check_shares(self.split)

    def settings(self) -> dict[str, Any]:
        """Return all settings that may not change when resuming, as plain JSON data."""
        settings = dataclasses.asdict(self)
        for key in FREE_SETTINGS:
            del settings[key]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


class Trainer:
    """Runs iterations to the end; subclasses for a GAN and a VAE define one iteration.

    Under ``accelerate launch`` each process takes its slice of every batch, and gradients are
    averaged before each update.

    Args:
        config: all settings.
        images: training images, uint8 ``[N, C, H, W]``.
        networks: networks that a checkpoint holds, by name.
        trained: names of the networks that are updated.

    Attributes:
        iteration: number of iterations done.
    """

    title = "training"
    advice: ClassVar[dict[str, str]] = {}
    """What to do about each warning of :meth:`_checks`, by the text before its colon."""

    def __init__(
        self,
        config: TrainingConfig,
        images: torch.Tensor,
        networks: dict[str, nn.Module],
        trained: Sequence[str],
    ):
        self.config = config
        self.out = Path(config.out)
        self.images = images
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        processes = self.accelerator.num_processes
        if len(images) < max(config.batch_size, 2):
            raise ValueError(
                f"batch_size is {config.batch_size}, but there are only {len(images)} images to "
                "train on; at least batch_size and at least 2 are needed"
            )
        if config.batch_size % processes:
            raise ValueError(
                f"batch_size is {config.batch_size}; it must be a multiple of the number of "
                f"processes, {processes}"
            )
        share = config.batch_size // processes
        rank = self.accelerator.process_index
        self._slice = slice(rank * share, (rank + 1) * share)
        with plain_mode():  # inference mode would make parameters that cannot be trained
            self._networks = {
                name: network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs
                for name, network in networks.items()
            }
        self._trained = tuple(trained)
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._pending: list[tuple[int, dict[str, torch.Tensor]]] = []
        self._permutation: tuple[int, torch.Tensor] | None = None  # epoch and order of its images
        self._checksum: int | None = None  # of the images
        self._board = None
        self._columns = 8  # of the sample grid
        self._bf16 = config.bf16 and computes_in_bf16(self.device)
        self.iteration = 0

    # What a subclass defines --------------------------------------------------------------------

    def train_step(self) -> dict[str, torch.Tensor]:
        """Do one iteration; return figures to log, the losses (named ``loss_...``) first."""
        raise NotImplementedError

    def _samples(self) -> torch.Tensor:
        """Return images in [-1, 1] of fixed latents, for the sample grid."""
        raise NotImplementedError

    def _checks(self, samples: torch.Tensor) -> tuple[dict[str, Any], list[str]]:
        """Return figures of the current state for the log, and warnings about them."""
        return {}, []

    def _extra_state(self) -> dict[str, float]:
        """Return what else a checkpoint must hold."""
        return {}

    def _load_extra_state(self, memory: dict[str, float]) -> None:
        """Restore what :meth:`_extra_state` returned."""

    # Running ------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train up to ``config.iterations``, resuming from the checkpoint in ``config.out``.

        Writes ``checkpoint.pt``, ``log.jsonl``, ``samples/<iteration>.png``, and at the end
        ``samples.gif``. Samples and log of an earlier run without its checkpoint are moved to
        ``earlier-1``, ``earlier-2``, ... Ctrl-C finishes the iteration and saves first; a second
        one acts at once. Called again, after an interrupt at any moment, it resumes exactly.

        Raises:
            FolderInUseError: another training is writing to ``config.out``.
            ValueError: the checkpoint in ``config.out`` is damaged, or was made under another
                configuration.
            FloatingPointError: a loss or a weight is not finite; the last checkpoint is left as it
                was.
            OSError: a file could not be written; the last checkpoint is left as it was.
        """
        is_main = self.accelerator.is_main_process
        with folder_lock(self.out) if is_main else nullcontext(), plain_mode():
            self._train()

    def _train(self) -> None:
        self._resume()
        config = self.config
        bar = ProgressBar(
            total=config.iterations,
            initial=self.iteration,
            desc=self.title,
            unit="it",
            disable=not self.accelerator.is_main_process,
        )
        self._clock = time.perf_counter(), self.iteration
        with bar, _interrupt_flag() as interrupted, self._tensorboard():
            if self.iteration == 0 and 0 in config.sample_at:
                self._write_grid(self._samples())
            while self.iteration < config.iterations and not self._stop(interrupted):
                self._pending.append((self.iteration, self.train_step()))
                self.iteration += 1
                bar.update()
                if self.iteration % LOG_INTERVAL == 0:
                    self._log(bar)
                at_end = self.iteration == config.iterations
                if at_end or self.iteration % config.checkpoint_interval == 0:
                    self._check(bar)
                    self.save()
                elif self.iteration in config.sample_at:
                    self._write_grid(self._samples())
            # Not in a `finally`: after an error one network may be a step ahead of the other.
            if self.iteration < config.iterations and self.iteration % config.checkpoint_interval:
                self.save()
        if interrupted.is_set():
            raise KeyboardInterrupt
        self._write_gif()

    def save(self) -> None:
        """Write the checkpoint, atomically.

        Raises:
            FloatingPointError: a loss or a weight is not finite.
            OSError: it could not be written; the one before is left as it was.
        """
        self._check_finite()
        if self.accelerator.is_main_process:
            buffer = io.BytesIO()
            torch.save(
                {
                    "config": self.settings(),
                    "iteration": self.iteration,
                    "networks": {k: n.state_dict() for k, n in self._networks.items()},
                    "optimizers": {k: o.state_dict() for k, o in self._optimizers.items()},
                    "memory": self._extra_state(),
                },
                buffer,
            )
            self._write(self.out / "checkpoint.pt", buffer.getvalue())
        self.accelerator.wait_for_everyone()

    def settings(self) -> dict[str, Any]:
        """Return what a checkpoint must agree on: settings, and number and checksum of images."""
        if self._checksum is None:
            self._checksum = checksum(self.images)
        images = {"images": len(self.images), "images_checksum": self._checksum}
        return {**self.config.settings(), **images}

    def warnings(self) -> list[dict[str, Any]]:
        """Summarize the warnings of the whole run, read from its log.

        Returns:
            Plain JSON data for each kind of warning: ``warning``, the ``first`` and ``last``
            iteration that it came at, at how many (``count``) of all ``checks``, ``advice``.
        """
        log = self.out / "log.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        checks = [line for line in map(json.loads, lines) if "warnings" in line]
        iterations: dict[str, list[int]] = {}
        for check in checks:
            for warning in check["warnings"]:
                kind = warning.partition(":")[0]
                iterations.setdefault(kind, []).append(check["iteration"])
        return [
            {
                "warning": kind,
                "first": found[0],
                "last": found[-1],
                "count": len(found),
                "checks": len(checks),
                "advice": self.advice[kind],
            }
            for kind, found in iterations.items()
        ]

    # For the steps ------------------------------------------------------------------------------

    def _add_optimizer(self, name: str, learning_rate: float, betas: tuple[float, float]) -> None:
        self._optimizers[name] = torch.optim.Adam(
            self._networks[name].parameters(),
            learning_rate,
            betas=betas,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _set_learning_rate(self, name: str, highest: float) -> None:
        """Along a cosine from ``highest`` to a tenth of it."""
        scale = 0.55 + 0.45 * math.cos(math.pi * self.iteration / self.config.iterations)
        self._optimizers[name].param_groups[0]["lr"] = highest * scale

    def _update(self, name: str, loss: torch.Tensor) -> None:
        self._optimizers[name].zero_grad()
        loss.backward()
        if self.accelerator.num_processes > 1:
            self._average_over_processes(name)
        self._optimizers[name].step()

    @torch.no_grad()
    def _average_over_processes(self, name: str) -> None:
        """Gradients, and the running statistics of batch norm, in one message."""
        network = self._networks[name]
        values = [p.grad for p in network.parameters() if p.grad is not None]
        values += [b for b in network.buffers() if b.is_floating_point()]
        flat = torch.cat([value.flatten() for value in values])
        flat = self.accelerator.reduce(flat, "mean")
        for value, mean in zip(values, flat.split([v.numel() for v in values]), strict=True):
            value.copy_(mean.view_as(value))

    def _rows(self, number: int) -> torch.Tensor:
        """Which images batch ``number`` of an endless run through fresh permutations holds.

        Of the whole batch, this process's slice.
        """
        per_epoch = len(self.images) // self.config.batch_size
        epoch, position = divmod(number, per_epoch)
        if self._permutation is None or self._permutation[0] != epoch:
            rng = seeded(self.config.seed, -2 - epoch)
            self._permutation = epoch, torch.randperm(len(self.images), generator=rng)
        _, order = self._permutation
        rows = order[position * self.config.batch_size :][: self.config.batch_size]
        return rows[self._slice]

    def _batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Images float32 in [-1, 1] on the device."""
        images = to_float(self.images[rows].to(self.device))
        return images.contiguous(memory_format=torch.channels_last)

    def _noise(self, latent_dim: int, rng: torch.Generator) -> torch.Tensor:
        """This process's slice of a batch of latents."""
        return draw_latents(self.config.batch_size, latent_dim, rng)[self._slice].to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    # Log, grids, checks -------------------------------------------------------------------------

    def _check_finite(self) -> None:
        """Raise if a loss or a weight is not finite."""
        self._check_losses()
        for name in self._trained:
            if not all(v.isfinite().all() for v in self._networks[name].state_dict().values()):
                raise self._diverged(f"the {name} has weights that are not finite", self.iteration)

    def _check_losses(self) -> None:
        """Raise at the first loss of the pending iterations that is not finite.

        Looked at in bulk, before anything is saved: to ask in each iteration would make the
        processor wait for the GPU.
        """
        losses = [
            (iteration, name.removeprefix("loss_"), value)
            for iteration, figures in self._pending
            for name, value in figures.items()
            if name.startswith("loss_")
        ]
        if losses:
            values = torch.stack([value for _, _, value in losses]).tolist()
            for (iteration, name, _), value in zip(losses, values, strict=True):
                if not math.isfinite(value):
                    raise self._diverged(f"the {name}'s loss is {value}", iteration)
        del self._pending[:-1]

    def _diverged(self, what: str, iteration: int) -> FloatingPointError:
        return FloatingPointError(f"{what} at iteration {iteration}; {self._last_good()}")

    def _last_good(self) -> str:
        file = self.out / "checkpoint.pt"
        if file.exists():
            return f"last good checkpoint: {file}"
        return "there is no checkpoint yet"

    def _log(self, bar: ProgressBar) -> None:
        self._check_losses()
        now = time.perf_counter()
        began, iteration = self._clock
        self._clock = now, self.iteration
        # A coarse clock may not have ticked.
        seconds = max(now - began, time.get_clock_info("perf_counter").resolution)
        speed = (self.iteration - iteration) * self.config.batch_size / seconds
        figures = {name: value.item() for name, value in self._pending[-1][1].items()}
        bar.set_postfix(
            {name: f"{value:.3f}" for name, value in figures.items()} | {"img/s": f"{speed:.0f}"}
        )
        self._write_log({**figures, "images_per_second": round(speed, 1)})

    def _check(self, bar: ProgressBar) -> None:
        """Grid, figures and warnings."""
        self._check_finite()
        if not self.accelerator.is_main_process:
            return
        samples = self._samples()
        self._write_grid(samples)
        figures, warnings = self._checks(samples)
        if figures:
            self._write_log({**figures, "warnings": warnings})
        for warning in warnings:
            bar.write(f"warning at iteration {self.iteration}: {warning}")

    def _write_log(self, figures: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        file = self.out / "log.jsonl"
        with self._named_errors(file), open(file, "a") as log:
            log.write(json.dumps({"iteration": self.iteration, **figures}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, self.iteration)
            for warning in figures.get("warnings", ()):
                self._board.add_text("warning", warning, self.iteration)

    def _write_grid(self, samples: torch.Tensor) -> None:
        if self.accelerator.is_main_process:
            file = self.out / "samples" / f"{self.iteration:06d}.png"
            self._write(file, grid_png(samples, self._columns))
            if self._board is not None:
                self._board.add_image(
                    "samples", make_grid(_unit(samples), self._columns), self.iteration
                )

    def _write_gif(self) -> None:
        files = [file for file in (self.out / "samples").glob("*.png") if file.stem.isdigit()]
        if self.accelerator.is_main_process and files:
            frames = [iio.imread(file) for file in sorted(files, key=lambda file: int(file.stem))]
            own = np.stack([frame for frame in frames if frame.shape == frames[-1].shape])
            gif = iio.imwrite("<bytes>", own, extension=".gif", duration=FRAME_MS, loop=0)
            self._write(self.out / "samples.gif", gif)

    @contextmanager
    def _tensorboard(self) -> Iterator[None]:
        if not (self.config.tensorboard and self.accelerator.is_main_process):
            yield
            return
        writer = import_tensorboard()
        try:
            folder = self.out / "tensorboard"
            with writer(folder, purge_step=self.iteration + 1) as self._board:
                yield
        finally:
            self._board = None

    # Files --------------------------------------------------------------------------------------

    @contextmanager
    def _named_errors(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{file} could not be written at iteration {self.iteration} "
                f"({error.strerror or error}); {self._last_good()}"
            ) from error

    def _write(self, file: Path, content: bytes) -> None:
        with self._named_errors(file):
            write_atomically(file, content)

    def _resume(self) -> None:
        """Load the checkpoint, or write the first: what was interrupted resumes from it."""
        file = self.out / "checkpoint.pt"
        resumes = file.exists() and self._load(file)
        self._pending = []
        for name in self._trained:  # an interrupt may have left them in evaluation mode
            self._networks[name].train()
        self.accelerator.wait_for_everyone()  # all have looked before anything is written
        if resumes:
            self._prune_log()
        else:
            self._set_aside()
            self.save()
        self.accelerator.wait_for_everyone()

    def _prune_log(self) -> None:
        """Drop what a killed run logged after its last checkpoint."""
        log = self.out / "log.jsonl"
        if self.accelerator.is_main_process and log.exists():
            kept = [line for line in log.read_text().splitlines(keepends=True) if self._done(line)]
            self._write(log, "".join(kept).encode())

    def _set_aside(self) -> None:
        """Move what an earlier run has left into a folder of its own."""
        left = [path for name in OUTPUTS if (path := self.out / name).exists()]
        if not (left and self.accelerator.is_main_process):
            return
        numbers = itertools.count(1)
        earlier = next(e for n in numbers if not (e := self.out / f"earlier-{n}").exists())
        with self._named_errors(earlier):
            earlier.mkdir()
            for path in left:
                path.rename(earlier / path.name)
        names = ", ".join(path.name for path in left)
        print(f"{names} of an earlier run in {self.out} moved to {earlier}", file=sys.stderr)

    def _done(self, line: str) -> bool:
        try:
            return json.loads(line)["iteration"] <= self.iteration
        except json.JSONDecodeError:  # the last line of a killed run
            return False

    def _load(self, file: Path) -> bool:
        """Take the state of a checkpoint; False if it is another run's that trained nothing."""
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load does not compare checksums
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("wrong checksum")
            checkpoint = torch.load(file, weights_only=True, map_location=self.device)
            theirs = dict(checkpoint["config"])
        except Exception as error:  # torch raises many kinds
            raise ValueError(
                f"{file} is damaged or not a checkpoint of this trainer: delete it to start afresh"
            ) from error
        ours = self.settings()
        changed = [
            f"{key} {theirs.get(key)} -> {ours.get(key)}"
            for key in {**ours, **theirs}
            if theirs.get(key) != ours.get(key)
        ]
        if changed and checkpoint["iteration"] == 0:
            return False
        if changed:
            raise ValueError(
                f"{file} was made under another configuration ({', '.join(changed)}): "
                "choose another folder, or the same configuration to resume"
            )
        self.iteration = checkpoint["iteration"]
        for name, network in self._networks.items():
            network.load_state_dict(checkpoint["networks"][name])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(checkpoint["optimizers"][name])
        self._load_extra_state(checkpoint["memory"])
        return True

    def _stop(self, interrupted: threading.Event) -> bool:
        """Whether any process was interrupted: all must leave the loop together."""
        if self.accelerator.num_processes == 1:
            return interrupted.is_set()
        flag = torch.tensor(float(interrupted.is_set()), device=self.device)
        if self.accelerator.reduce(flag, "sum").item():
            interrupted.set()
        return interrupted.is_set()


def import_tensorboard() -> type:
    """Return TensorBoard's writer.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "tensorboard is on but the package tensorboard is not installed: "
            "pip install latentgym[tensorboard]"
        ) from None
    return SummaryWriter


def build(seed: int, *factories: Any) -> list[nn.Module]:
    """Return networks with initial weights from ``seed``: float32, on the CPU.

    The global random state and torch's default dtype and device neither count nor change.
    """
    # Both are the process's: one thread at a time.
    with _building, plain_mode(), torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs, too
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)
            return [factory() for factory in factories]
        finally:
            torch.set_default_dtype(dtype)


def checksum(tensor: torch.Tensor) -> int:
    """Return the CRC-32 of a tensor's values."""
    return zlib.crc32(tensor.contiguous().numpy().data)


def seeded(seed: int, number: int) -> torch.Generator:
    """A random generator that is a pure function of (seed, number)."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


def grid_png(images: torch.Tensor, columns: int = 8) -> bytes:
    """Images in [-1, 1], some a row, as a PNG file."""
    file = io.BytesIO()
    save_image(make_grid(_unit(images), columns), file, format="png")
    return file.getvalue()


def _unit(images: torch.Tensor) -> torch.Tensor:
    return images.detach().float().cpu() / 2 + 0.5


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets instead of raising KeyboardInterrupt amid an iteration."""
    flag = threading.Event()

    def handle(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    # Elsewhere Ctrl-C raises nothing: another thread, or a program with a handler of its own.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
