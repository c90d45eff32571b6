"""Training of generator and discriminator: relativistic GAN with R1 and R2, EMA, exact resume.

The recipe is R3GAN's loss (Huang et al. 2024) on DCGAN's networks (Radford et al. 2016). Each
iteration draws its batch and its noise from a random generator seeded by (seed, iteration). So
iteration i does the same whether the run was interrupted or not, and no random state is stored.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import signal
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.utils import make_grid, save_image
from tqdm import tqdm

from gan_backbones.datasets.cartoon_set import CartoonSet, to_float
from gan_backbones.files import write_atomically
from gan_backbones.losses import (
    relativistic_discriminator,
    relativistic_generator,
    zero_centred_penalty,
)
from gan_backbones.networks import Discriminator, Generator

LOG_INTERVAL = 50  # iterations


@dataclass(frozen=True)
class GANConfig:
    """What a GAN run depends on. Resuming under any other values is refused.

    Attributes:
        data: folder that :class:`~gan_backbones.datasets.CartoonSet` reads.
        out: folder for checkpoint, log and sample grids.
        iterations: updates of each network.
        batch_size: real and generated images per update.
        latent_dim: length of the latent.
        generator_features, discriminator_features: network widths.
        learning_rate: of both Adam optimisers; decays to a tenth along a cosine.
        penalty: gamma of R1 + R2 (their weight is gamma / 2).
        penalty_interval: apply the penalty every so many iterations, that much stronger.
        ema_half_life: half-life of the averaged generator, in images; ramps up at the start.
        bf16: autocast to bfloat16: 1.4 to 3 times faster where the processor supports it.
        seed: of initial weights, data order and noise.
        checkpoint_interval: iterations between checkpoints and sample grids.
    """

    data: Path
    out: Path
    iterations: int = 5000
    batch_size: int = 64
    latent_dim: int = 100
    generator_features: int = 32
    discriminator_features: int = 32
    learning_rate: float = 3e-4
    penalty: float = 2.0
    penalty_interval: int = 2
    ema_half_life: int = 20_000
    bf16: bool = True
    seed: int = 0
    checkpoint_interval: int = 500


class GANTrainer:
    """Trains a generator and a discriminator on images.

    Args:
        config: all settings.
        images: uint8 ``[N, 3, H, W]``; read from ``config.data`` if left out.

    Attributes:
        generator: the averaged (EMA) generator: the one to use.
        discriminator: its opponent.

    Example:
        >>> trainer = GANTrainer(GANConfig(data="faces", out="run"))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(self, config: GANConfig, images: torch.Tensor | None = None):
        self.config = config
        self.out = Path(config.out)
        if images is None:
            dataset = CartoonSet(config.data)
            images = dataset.images(range(len(dataset)))
        if len(images) < config.batch_size:
            raise ValueError(
                f"batch_size is {config.batch_size} but there are only {len(images)} images"
            )
        self.images = images
        _, channels, side, _ = images.shape
        with torch.random.fork_rng(devices=[]):  # initial weights without touching global state
            torch.manual_seed(config.seed)
            self._generator = Generator(
                config.latent_dim, config.generator_features, channels, side
            )
            self.discriminator = Discriminator(config.discriminator_features, channels, side)
            self.generator = Generator(config.latent_dim, config.generator_features, channels, side)
        self.generator.load_state_dict(self._generator.state_dict())
        self.generator.requires_grad_(False).eval()
        for network in (self._generator, self.discriminator, self.generator):
            network.to(memory_format=torch.channels_last)
        # No momentum: with it adversarial training oscillates. beta2 < .999 follows R3GAN.
        self._trained = {"generator": self._generator, "discriminator": self.discriminator}
        self._optimisers = {
            name: torch.optim.Adam(network.parameters(), config.learning_rate, betas=(0.0, 0.99))
            for name, network in self._trained.items()
        }
        self.iteration = 0

    def train(self) -> None:
        """Train up to ``config.iterations``, resuming from the checkpoint in ``config.out``.

        Writes ``checkpoint.pt``, ``log.jsonl`` and ``samples/<iteration>.png``. Ctrl-C finishes the
        iteration and saves first; a second one acts at once.

        Raises:
            ValueError: the checkpoint in ``config.out`` is damaged, or was made under another
                configuration.
            FloatingPointError: a loss or a weight is not finite; the last checkpoint is left as it
                was.
        """
        self._resume()
        config = self.config
        bar = tqdm(total=config.iterations, initial=self.iteration, desc="training GAN", unit="it")
        with bar, _interrupt_flag() as interrupted:
            while self.iteration < config.iterations and not interrupted.is_set():
                losses = self._step()
                self.iteration += 1
                bar.update()
                if self.iteration % LOG_INTERVAL == 0:
                    self._log(losses, bar)
                if self.iteration % config.checkpoint_interval == 0:
                    self.save()
            # Not in a `finally`: after an error the discriminator may be a step ahead.
            if self.iteration % config.checkpoint_interval:
                self.save()
        if interrupted.is_set():
            raise KeyboardInterrupt

    def save(self) -> None:
        """Write the checkpoint (atomically) and a grid of samples of fixed latents.

        Raises:
            FloatingPointError: a weight is not finite.
        """
        for name, network in self._trained.items():
            if not all(value.isfinite().all() for value in network.state_dict().values()):
                raise self._diverged(f"the {name} has weights that are not finite")
        buffer = io.BytesIO()
        torch.save(
            {
                "config": self.settings(),
                "iteration": self.iteration,
                "generator": self._generator.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "ema": self.generator.state_dict(),
                "optimisers": {k: o.state_dict() for k, o in self._optimisers.items()},
            },
            buffer,
        )
        write_atomically(self.out / "checkpoint.pt", buffer.getvalue())
        latents = torch.randn(64, self.config.latent_dim, generator=_seeded(self.config.seed, -1))
        grid = io.BytesIO()
        save_image(make_grid(self.generator(latents) / 2 + 0.5), grid, format="png")
        write_atomically(self.out / "samples" / f"{self.iteration:06d}.png", grid.getvalue())

    def _step(self) -> dict[str, float]:
        """One update of the discriminator, then one of the generator."""
        config = self.config
        rng = _seeded(config.seed, self.iteration)
        scale = 0.55 + 0.45 * math.cos(math.pi * self.iteration / config.iterations)
        for optimiser in self._optimisers.values():
            optimiser.param_groups[0]["lr"] = config.learning_rate * scale
        penalised = self.iteration % config.penalty_interval == 0
        real = self._real_batch()
        count = len(real)

        with torch.no_grad(), self._autocast():
            fake = self._generator(torch.randn(count, config.latent_dim, generator=rng)).float()
        self.discriminator.requires_grad_(True)
        images = torch.cat([real, fake]).requires_grad_(penalised)
        with self._autocast():
            logits = self.discriminator(images).float()
        logits_real, logits_fake = logits.chunk(2)
        loss_discriminator = relativistic_discriminator(logits_real, logits_fake)
        gap = (logits_real - logits_fake).mean()
        if penalised:
            # The mean over real and generated images together is half of R1 + R2.
            penalty = 2 * zero_centred_penalty(logits, images)
            loss = loss_discriminator + config.penalty / 2 * config.penalty_interval * penalty
        else:
            loss = loss_discriminator
        self._update("discriminator", loss)

        self.discriminator.requires_grad_(False)
        with self._autocast():
            fake = self._generator(torch.randn(count, config.latent_dim, generator=rng))
            logits_real, logits_fake = self.discriminator(torch.cat([real, fake])).float().chunk(2)
        loss_generator = relativistic_generator(logits_real, logits_fake)
        self._update("generator", loss_generator)
        self._average()
        return {
            "loss_discriminator": loss_discriminator.item(),
            "loss_generator": loss_generator.item(),
            "gap": gap.item(),  # mean logit of real minus generated: near 0 if D cannot tell
        }

    def _update(self, name: str, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise self._diverged(f"the {name}'s loss is {loss.item()}")
        self._optimisers[name].zero_grad()
        loss.backward()
        self._optimisers[name].step()

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at iteration {self.iteration}; "
            f"last good checkpoint: {self.out / 'checkpoint.pt'}"
        )

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged generator, batch norm statistics included, towards the trained one."""
        seen = (self.iteration + 1) * self.config.batch_size
        # Ramp-up: early on, average over a twentieth of what was seen, not over the random start.
        half_life = min(self.config.ema_half_life, seen / 20)
        keep = 0.5 ** (self.config.batch_size / half_life)
        trained = self._generator.state_dict()
        for key, value in self.generator.state_dict().items():
            if value.is_floating_point():
                value.lerp_(trained[key], 1 - keep)

    def _real_batch(self) -> torch.Tensor:
        """Batch number ``iteration`` of an endless run through fresh permutations of the data."""
        per_epoch = len(self.images) // self.config.batch_size
        epoch, position = divmod(self.iteration, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            rng = _seeded(self.config.seed, -2 - epoch)
            self._order = torch.randperm(len(self.images), generator=rng)
        chosen = self._order[position * self.config.batch_size :][: self.config.batch_size]
        return to_float(self.images[chosen]).contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16)

    def _log(self, losses: dict[str, float], bar: tqdm) -> None:
        bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        with open(self.out / "log.jsonl", "a") as file:
            file.write(json.dumps({"iteration": self.iteration, **losses}) + "\n")

    def _resume(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        file, log = self.out / "checkpoint.pt", self.out / "log.jsonl"
        if file.exists():
            self._load(file)
        if log.exists():  # drop what a killed run logged after its last checkpoint
            lines = log.read_text().splitlines(keepends=True)[: self.iteration // LOG_INTERVAL]
            write_atomically(log, "".join(lines).encode())

    def _load(self, file: Path) -> None:
        try:
            with zipfile.ZipFile(file) as archive:  # torch.load does not compare checksums
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("wrong checksum")
            checkpoint = torch.load(file, weights_only=True)
            theirs = dict(checkpoint["config"])
        except Exception as error:  # torch raises many kinds
            raise ValueError(
                f"{file} is damaged or not a checkpoint of this trainer: delete it to start afresh"
            ) from error
        ours = self.settings()
        changed = [
            f"{key} {theirs.get(key)} -> {ours[key]}"
            for key in ours
            if theirs.get(key) != ours[key]
        ]
        if changed:
            raise ValueError(
                f"{file} was made under another configuration ({', '.join(changed)}): "
                "choose another folder, or the same configuration to resume"
            )
        self.iteration = checkpoint["iteration"]
        self._generator.load_state_dict(checkpoint["generator"])
        self.discriminator.load_state_dict(checkpoint["discriminator"])
        self.generator.load_state_dict(checkpoint["ema"])
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(checkpoint["optimisers"][name])

    def settings(self) -> dict[str, object]:
        """The configuration less what may differ between machines, plus the number of images."""
        settings = dataclasses.asdict(self.config)
        for key in ("data", "out", "checkpoint_interval"):
            del settings[key]
        return {**settings, "images": len(self.images)}


def _seeded(seed: int, number: int) -> torch.Generator:
    """A random generator that is a pure function of (seed, number)."""
    return torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)


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
