"""What every trainer here does round its updates: resume, log, sample, check, save, stop.

A trainer says what one iteration is; :class:`Trainer` runs it to the end. Iterations draw their
batch and their noise from random generators seeded by (seed, number). So iteration i does the same
whether the run was interrupted or not, on one process or several, and no random state is stored.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import signal
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from gan_backbones.datasets.images import to_float
from gan_backbones.datasets.splitting import SHARES, check_shares
from gan_backbones.devices import computes_in_bf16
from gan_backbones.files import write_atomically

LOG_INTERVAL = 50  # iterations
FRAME_MS = 400  # how long the GIF shows each grid

FREE_SETTINGS = ("data", "out", "checkpoint_interval", "sample_at", "tensorboard")
"""Settings that do not change what is computed, so a resumed run may have others."""


@dataclass(frozen=True)
class TrainingConfig:
    """What every run depends on. Resuming under any other values is refused.

    Attributes:
        data: a folder of images, or ``READER:FOLDER`` such as ``mnist:DIR``: see
            :func:`gan_backbones.datasets.open_dataset`.
        out: folder for checkpoint, log and sample grids.
        iterations: updates of each network.
        batch_size: images per update, over all processes together.
        image_size: side of the images in pixels: 32, 64, 128.
        channels: 3 for RGB, 1 for grey; by default as the data has it.
        bf16: autocast to bfloat16 where the device computes in it; elsewhere it would be slower.
        seed: of initial weights, data order and noise.
        checkpoint_interval: iterations between checkpoints, each with checks and a sample grid.
        sample_at: further iterations that get a sample grid.
        tensorboard: also log for TensorBoard.
        split: shares of the images for training (generator, discriminator, classifier), for
            training the judge, and held out for measuring (10,000 at most), drawn by the seed. A
            trainer on its own trains on all images.
    """

    data: str | Path
    out: str | Path = Path("runs/backbone")
    iterations: int = 5000
    batch_size: int = 64
    image_size: int = 64
    channels: int | None = None
    bf16: bool = True
    seed: int = 0
    checkpoint_interval: int = 500
    sample_at: tuple[int, ...] = (0, 250)
    tensorboard: bool = False
    split: tuple[float, float, float] = SHARES

    def __post_init__(self):
        check_shares(self.split)
        for name in ("iterations", "batch_size", "checkpoint_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


class Trainer:
    """Runs iterations to the end; the trainers of a GAN and of a VAE say what one is.

    Under ``accelerate launch`` each process takes its slice of every batch, and gradients are
    averaged before each update.

    Args:
        config: all settings.
        images: what is trained on, uint8 ``[N, C, H, W]``.
        networks: what a checkpoint holds, by name.
        optimisers: likewise.
        trained: names of the networks that are updated.

    Attributes:
        iteration: how many are done.
    """

    title = "training"

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
        if len(images) < config.batch_size:
            raise ValueError(
                f"batch_size is {config.batch_size} but there are only {len(images)} images"
            )
        if config.batch_size % processes:
            raise ValueError(
                f"batch_size is {config.batch_size}; it must be a multiple of the number of "
                f"processes, {processes}"
            )
        share = config.batch_size // processes
        rank = self.accelerator.process_index
        self._slice = slice(rank * share, (rank + 1) * share)
        self._networks = {
            name: network.to(self.device, memory_format=torch.channels_last)
            for name, network in networks.items()
        }
        self._trained = tuple(trained)
        self._optimisers: dict[str, torch.optim.Optimizer] = {}
        self._pending: list[tuple[int, dict[str, torch.Tensor]]] = []
        self._board = None
        self._columns = 8  # of the sample grid
        self._bf16 = config.bf16 and computes_in_bf16(self.device)
        self.iteration = 0

    # What a trainer says ------------------------------------------------------------------------

    def _step(self) -> dict[str, torch.Tensor]:
        """One iteration; returns what to log, the losses (named ``loss_...``) first."""
        raise NotImplementedError

    def _samples(self) -> torch.Tensor:
        """Images in [-1, 1] of fixed latents, for the grid."""
        raise NotImplementedError

    def _checks(self, samples: torch.Tensor) -> tuple[dict[str, Any], list[str]]:
        """Figures of the present state for the log, and warnings about them."""
        return {}, []

    def _memory(self) -> dict[str, float]:
        """What else a checkpoint must hold."""
        return {}

    def _recall(self, memory: dict[str, float]) -> None:
        """Take back what :meth:`_memory` gave."""

    # Running ------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train up to ``config.iterations``, resuming from the checkpoint in ``config.out``.

        Writes ``checkpoint.pt``, ``log.jsonl``, ``samples/<iteration>.png``, and at the end
        ``samples.gif``. Ctrl-C finishes the iteration and saves first; a second one acts at once.

        Raises:
            ValueError: the checkpoint in ``config.out`` is damaged, or was made under another
                configuration.
            FloatingPointError: a loss or a weight is not finite; the last checkpoint is left as it
                was.
            OSError: a file could not be written; the last checkpoint is left as it was.
        """
        self._resume()
        config = self.config
        bar = tqdm(
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
                self._pending.append((self.iteration, self._step()))
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
                    "optimisers": {k: o.state_dict() for k, o in self._optimisers.items()},
                    "memory": self._memory(),
                },
                buffer,
            )
            self._write(self.out / "checkpoint.pt", buffer.getvalue())
        self.accelerator.wait_for_everyone()

    def settings(self) -> dict[str, Any]:
        """The configuration less what may differ when resuming, plus the number of images."""
        settings = dataclasses.asdict(self.config)
        for key in FREE_SETTINGS:
            del settings[key]
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        return {**settings, "images": len(self.images)}

    # For the steps ------------------------------------------------------------------------------

    def _add_optimiser(self, name: str, learning_rate: float, betas: tuple[float, float]) -> None:
        self._optimisers[name] = torch.optim.Adam(
            self._networks[name].parameters(),
            learning_rate,
            betas=betas,
            fused=self.device.type in ("cpu", "cuda"),
        )

    def _set_learning_rate(self, name: str, highest: float) -> None:
        """Along a cosine from ``highest`` to a tenth of it."""
        scale = 0.55 + 0.45 * math.cos(math.pi * self.iteration / self.config.iterations)
        self._optimisers[name].param_groups[0]["lr"] = highest * scale

    def _update(self, name: str, loss: torch.Tensor) -> None:
        self._optimisers[name].zero_grad()
        loss.backward()
        if self.accelerator.num_processes > 1:
            self._average_over_processes(name)
        self._optimisers[name].step()

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
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            rng = seeded(self.config.seed, -2 - epoch)
            self._order = torch.randperm(len(self.images), generator=rng)
        rows = self._order[position * self.config.batch_size :][: self.config.batch_size]
        return rows[self._slice]

    def _batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Images float32 in [-1, 1] on the device."""
        images = to_float(self.images[rows].to(self.device))
        return images.contiguous(memory_format=torch.channels_last)

    def _noise(self, latent_dim: int, rng: torch.Generator) -> torch.Tensor:
        """This process's slice of a batch of latents."""
        noise = torch.randn(self.config.batch_size, latent_dim, generator=rng)
        return noise[self._slice].to(self.device)

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
        return FloatingPointError(
            f"{what} at iteration {iteration}; last good checkpoint: {self.out / 'checkpoint.pt'}"
        )

    def _log(self, bar: tqdm) -> None:
        self._check_losses()
        now = time.perf_counter()
        began, iteration = self._clock
        self._clock = now, self.iteration
        done = (self.iteration - iteration) * self.config.batch_size
        figures = {name: value.item() for name, value in self._pending[-1][1].items()}
        bar.set_postfix(
            {name: f"{value:.3f}" for name, value in figures.items()}
            | {"img/s": f"{done / (now - began):.0f}"}
        )
        self._write_log({**figures, "images_per_second": round(done / (now - began), 1)})

    def _check(self, bar: tqdm) -> None:
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
        files = sorted((self.out / "samples").glob("[0-9]*.png"))
        if self.accelerator.is_main_process and files:
            frames = np.stack([iio.imread(file) for file in files])
            gif = iio.imwrite("<bytes>", frames, extension=".gif", duration=FRAME_MS, loop=0)
            self._write(self.out / "samples.gif", gif)

    @contextmanager
    def _tensorboard(self) -> Iterator[None]:
        if not (self.config.tensorboard and self.accelerator.is_main_process):
            yield
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "tensorboard is on but the package tensorboard is not installed: "
                "pip install latentgym[tensorboard]"
            ) from None
        with SummaryWriter(self.out / "tensorboard", purge_step=self.iteration + 1) as self._board:
            yield
        self._board = None

    # Files --------------------------------------------------------------------------------------

    @contextmanager
    def _named_errors(self, file: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{file} could not be written at iteration {self.iteration} "
                f"({error.strerror or error}); last good checkpoint: {self.out / 'checkpoint.pt'}"
            ) from error

    def _write(self, file: Path, content: bytes) -> None:
        with self._named_errors(file):
            write_atomically(file, content)

    def _resume(self) -> None:
        file, log = self.out / "checkpoint.pt", self.out / "log.jsonl"
        with self._named_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        if file.exists():
            self._load(file)
        if self.accelerator.is_main_process and log.exists():
            # Drop what a killed run logged after its last checkpoint.
            kept = [line for line in log.read_text().splitlines(keepends=True) if self._done(line)]
            self._write(log, "".join(kept).encode())
        self.accelerator.wait_for_everyone()

    def _done(self, line: str) -> bool:
        try:
            return json.loads(line)["iteration"] <= self.iteration
        except json.JSONDecodeError:  # the last line of a killed run
            return False

    def _load(self, file: Path) -> None:
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
        if changed:
            raise ValueError(
                f"{file} was made under another configuration ({', '.join(changed)}): "
                "choose another folder, or the same configuration to resume"
            )
        self.iteration = checkpoint["iteration"]
        for name, network in self._networks.items():
            network.load_state_dict(checkpoint["networks"][name])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(checkpoint["optimisers"][name])
        self._recall(checkpoint["memory"])

    def _stop(self, interrupted: threading.Event) -> bool:
        """Whether any process was interrupted: all must leave the loop together."""
        if self.accelerator.num_processes == 1:
            return interrupted.is_set()
        flag = torch.tensor(float(interrupted.is_set()), device=self.device)
        if self.accelerator.reduce(flag, "sum").item():
            interrupted.set()
        return interrupted.is_set()


def build(seed: int, *factories: Any) -> list[nn.Module]:
    """Networks with initial weights from ``seed``, the global random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [factory() for factory in factories]


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
