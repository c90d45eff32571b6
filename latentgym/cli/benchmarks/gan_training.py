"""Benchmark of GAN training against a plain loop, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan_backbones.latents.sampling import draw_latents
from gan_backbones.networks import Discriminator, Generator
from gan_backbones.training.gan import GANConfig, GANTrainer
from gan_backbones.utils.devices import computes_in_bf16
from gan_backbones.utils.files import check_output_file, write_json
from gan_backbones.utils.images import to_float
from latentgym.cli.arguments import check_counts, check_seed
from latentgym.cli.benchmarks.timing import machine, race


def benchmark_gan_training(
    features: int = 32,
    batch_size: int = 64,
    image_size: int = 64,
    seconds: float = 20.0,
    iterations: int = 5,
    threads: int = 2,
    bf16: bool = True,
    seed: int = 0,
    out: Path = Path("runs/gan_training_speed.json"),
) -> None:
    """Time the GAN trainer against a plain fp32 loop, in turns, on the CPU.

    Both train the same DCGAN (transposed convolutions, batch norm in both networks) on the same
    batches with cross-entropy: the plain one as tutorials do, step by step. The shipped recipe
    (relativistic, R1 and R2, averaging) is timed as well.

    Args:
        features: width of both networks.
        batch_size: images per update.
        image_size: side of the images.
        seconds: time to measure each contender, in turns with the others.
        iterations: number of updates per turn.
        threads: number of threads that torch uses.
        bf16: let our trainer use bfloat16 where the processor computes in it.
        seed: random seed of images, weights and noise.
        out: also write the figures to this JSON file.
    """
    check_seed(seed)
    check_counts(features=features, batch_size=batch_size, iterations=iterations, threads=threads)
    check_output_file(out, ".json")
    torch.set_num_threads(threads)
    rng = torch.Generator().manual_seed(seed)
    shape = (8 * batch_size, 3, image_size, image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    with tempfile.TemporaryDirectory() as folder:
        shared: dict[str, Any] = dict(
            data="random", out=folder, iterations=10**6, batch_size=batch_size, bf16=bf16,
            seed=seed,
            generator_features=features, discriminator_features=features,
        )  # fmt: skip
        same = GANConfig(
            **shared, norm="batch", objective="bce", penalty_kind="none", betas=(0.5, 0.999),
            learning_rate=2e-4, ema_half_life=0,
        )  # fmt: skip
        contenders = {
            "plain fp32 loop": plain_loop(images, features, batch_size, seed),
            "trainer, same objective": _trainer_step(GANTrainer(same, images)),
            "trainer, shipped recipe": _trainer_step(GANTrainer(GANConfig(**shared), images)),
        }
        times = race(contenders, seconds, iterations, progress="training")
    speeds = {name: batch_size / spent for name, spent in times.items()}
    plain = speeds["plain fp32 loop"]
    report = {
        "machine": machine(),
        "threads": threads,
        "bf16": bf16 and computes_in_bf16(torch.device("cpu")),
        "features": features,
        "batch_size": batch_size,
        "image_size": image_size,
        "images_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "times_as_fast_as_plain": {name: round(s / plain, 2) for name, s in speeds.items()},
    }
    write_json(out, report)
    print("| contender | images/s | times as fast as plain |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.1f} | {speed / plain:.2f} |")
    print(f"figures: {out}")


def plain_loop(
    images: torch.Tensor, features: int, batch_size: int, seed: int
) -> Callable[[], None]:
    """One iteration of a DCGAN as tutorials train it: fp32, a probability and its cross-entropy."""
    side = images.shape[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(100, features, 3, side)
        discriminator = nn.Sequential(Discriminator(features, 3, side, "batch"), nn.Sigmoid())
    loss_of = nn.BCELoss()
    update_d = torch.optim.Adam(discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
    update_g = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    floats = to_float(images)
    rng = torch.Generator().manual_seed(seed)
    ones, zeros = torch.ones(batch_size), torch.zeros(batch_size)

    def iterate() -> None:
        real = floats[torch.randperm(len(floats), generator=rng)[:batch_size]]
        discriminator.zero_grad()
        loss_of(discriminator(real), ones).backward()
        fake = generator(draw_latents(batch_size, 100, rng))
        loss_of(discriminator(fake.detach()), zeros).backward()
        update_d.step()
        generator.zero_grad()
        loss = loss_of(discriminator(fake), ones)
        loss.backward()
        update_g.step()
        loss.item()

    return iterate


def _trainer_step(trainer: GANTrainer) -> Callable[[], None]:
    def iterate() -> None:
        trainer.train_step()
        trainer.iteration += 1

    return iterate
