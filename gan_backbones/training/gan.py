"""Training of generator and discriminator: any objective and stabiliser, EMA, exact resume.

The default recipe is R3GAN's loss (Huang et al. 2024) on DCGAN's networks (Radford et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import nn

from gan_backbones.datasets import open_dataset, to_float
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import batched, mean_pairwise_distance, overfitting_score, saturation
from gan_backbones.networks import (
    Discriminator,
    Generator,
    ResidualDiscriminator,
    ResidualGenerator,
)
from gan_backbones.training.augment import augment, check_policies
from gan_backbones.training.losses import (
    OBJECTIVES,
    check_objective,
    label_targets,
    wgan_gradient_penalty,
    zero_centred_penalty,
)
from gan_backbones.training.reward_punishment import PRESETS
from gan_backbones.training.trainer import Trainer, TrainingConfig, build, seeded
from gan_backbones.utils.validation import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Range,
)

CHECKED = 256
"""How many images of each kind the checks look at."""

SATURATED = 0.99
"""Accuracy from which the discriminator counts as saturated, if its outputs lie apart too."""

COLLAPSED = 0.5
"""Share of the best diversity so far below which modes count as collapsed."""

DIVERSE = 0.1
"""Diversity below which samples are still alike because training has just begun."""

OVERFITTED = 0.5
"""Overfitting score from which the discriminator counts as having memorized its images."""

Beta = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True)
class GANConfig(TrainingConfig):
    """Settings of a GAN's training, besides those of every training.

    Attributes:
        architecture: ``"dcgan"``, or ``"residual"``: residual networks without normalization.
        upsampling: upsampling of the DCGAN generator: ``"transposed"`` or ``"upconv"``.
        norm: norm of the DCGAN discriminator: ``"none"``, ``"batch"`` or ``"spectral"``.
        latent_dim: length of the latent.
        generator_features: width of the generator.
        discriminator_features: width of the discriminator.
        objective: ``"bce"`` (non-saturating), ``"minimax"``, ``"least_squares"``, ``"hinge"``,
            ``"wgan"`` or ``"relativistic"``.
        real_target: label of real images: 1, or one-sidedly smoothed, 0.9.
        flipped: share of the images with the wrong label.
        reward_punishment: variant of the reward-and-punishment game: ``"S1"``, ``"S2"`` or
            ``"S3"``; only with objective ``"bce"`` or ``"minimax"``.
        discriminator_steps: number of discriminator updates per generator update, each on new
            images.
        learning_rate: step size of both Adam optimizers; decays to a tenth along a cosine.
        discriminator_learning_rate: step size of the discriminator, if it differs.
        betas: betas of both Adam optimizers.
        penalty_kind: penalty on the discriminator's gradient: ``"none"``, ``"wgan"``, ``"r1"``,
            ``"r2"`` or ``"r1_r2"``.
        penalty: weight of the penalty: gamma of R1 and R2 (multiplied as gamma / 2), lambda of
            WGAN-GP.
        penalty_interval: number of iterations between penalties, which are stronger by as much.
        augment: policies of DiffAugment: ``"color"``, ``"translation"``, ``"cutout"``.
        ema_half_life: half-life of the averaged generator, in images; ramps up at the start. 0: no
            averaging.

    Raises:
        ValueError: a setting of the wrong type, out of range, or that makes no sense with another.
    """

    architecture: Literal["dcgan", "residual"] = "dcgan"
    upsampling: Literal["transposed", "upconv"] = "transposed"
    norm: Literal["none", "batch", "spectral"] = "none"
    latent_dim: PositiveInt = 100
    generator_features: PositiveInt = 32
    discriminator_features: PositiveInt = 32
    objective: Literal["bce", "minimax", "least_squares", "hinge", "wgan", "relativistic"] = (
        "relativistic"
    )
    real_target: float = 1.0
    flipped: float = 0.0
    reward_punishment: Literal["S1", "S2", "S3"] | None = None
    discriminator_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 3e-4
    discriminator_learning_rate: PositiveFloat | None = None
    # No momentum: with it adversarial training oscillates. beta2 < .999 follows R3GAN.
    betas: tuple[Beta, Beta] = (0.0, 0.99)
    penalty_kind: Literal["none", "wgan", "r1", "r2", "r1_r2"] = "r1_r2"
    penalty: NonNegativeFloat = 2.0
    penalty_interval: PositiveInt = 2
    augment: tuple[Literal["color", "translation", "cutout"], ...] = ()
    ema_half_life: NonNegativeInt = 20_000

    def __post_init__(self):
        super().__post_init__()
        if self.architecture == "residual":
            for name, only in (("upsampling", "transposed"), ("norm", "none")):
                if getattr(self, name) != only:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}; the residual architecture has no such "
                        f"choice: leave it at {only!r}"
                    )
        check_policies(self.augment)
        check_objective(
            self.objective,
            norm=self.norm,
            penalty_kind=self.penalty_kind,
            penalty=self.penalty,
            real_target=self.real_target,
            flipped=self.flipped,
            semi_cooperative=self.reward_punishment is not None,
        )

    def networks(self, channels: int, image_size: int) -> tuple[nn.Module, nn.Module]:
        """Return a generator and a discriminator with initial weights."""
        wide, narrow = self.generator_features, self.discriminator_features
        generator: Callable[[], nn.Module]
        discriminator: Callable[[], nn.Module]
        if self.architecture == "residual":
            generator = partial(ResidualGenerator, self.latent_dim, wide, channels, image_size)
            discriminator = partial(ResidualDiscriminator, narrow, channels, image_size)
        else:
            generator = partial(
                Generator, self.latent_dim, wide, channels, image_size, self.upsampling
            )
            discriminator = partial(Discriminator, narrow, channels, image_size, self.norm)
        first, second = build(self.seed, generator, discriminator)
        return first, second


class GANTrainer(Trainer):
    """Trains a generator and a discriminator on images.

    Args:
        config: all settings.
        images: uint8 ``[N, C, H, W]``; read from ``config.data`` if left out.
        held_out: more of them that are not trained on: with these the checks see overfitting.

    Attributes:
        generator: the averaged (EMA) generator: the one to use.
        discriminator: its opponent.

    Example:
        >>> trainer = GANTrainer(GANConfig(data="faces", out="run"))  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    config: GANConfig
    discriminator: Any

    title = "training GAN"
    advice: ClassVar[dict[str, str]] = {
        "discriminator saturated": "raise penalty, lower discriminator_learning_rate, or augment",
        "mode collapse": "lower learning_rate; use objective relativistic, penalty_kind r1_r2",
        "discriminator overfits": "augment with color, translation and cutout, or add images",
    }

    def __init__(
        self,
        config: GANConfig,
        images: torch.Tensor | None = None,
        held_out: torch.Tensor | None = None,
    ):
        if images is None:
            dataset = open_dataset(config.data, config.image_size, config.channels)
            images = dataset.images(range(len(dataset)))
        if held_out is not None and not len(held_out):
            raise ValueError("held_out has no images; at least 1 is needed, or leave it out")
        self.held_out = held_out
        channels, side = images.shape[1:3]
        self._generator, self.discriminator = config.networks(channels, side)
        self.generator, _ = config.networks(channels, side)
        super().__init__(
            config,
            images,
            {
                "generator": self._generator,
                "discriminator": self.discriminator,
                "ema": self.generator,
            },
            trained=("generator", "discriminator"),
        )
        self.generator.requires_grad_(False).eval()
        discriminator_rate = config.discriminator_learning_rate or config.learning_rate
        self._rates = {"generator": config.learning_rate, "discriminator": discriminator_rate}
        for name, rate in self._rates.items():
            self._add_optimizer(name, rate, config.betas)
        self._objective = OBJECTIVES[config.objective]
        preset = config.reward_punishment
        self._game = None if preset is None else PRESETS[preset]
        self._best_diversity = 0.0

    # One iteration ------------------------------------------------------------------------------

    def train_step(self) -> dict[str, torch.Tensor]:
        """Some updates of the discriminator, then one of the generator.

        The last generated batch serves both: the generator has not changed in between.
        """
        rng = seeded(self.config.seed, self.iteration)
        for name, rate in self._rates.items():
            self._set_learning_rate(name, rate)
        steps = self.config.discriminator_steps
        self.discriminator.requires_grad_(True)
        for step in range(steps):
            number = self.iteration * steps + step
            phase = self._phase(number)
            real = self._batch(self._rows(number))
            latents = self._noise(self.config.latent_dim, rng)
            with torch.set_grad_enabled(step == steps - 1), self._autocast():
                fake = self._generator(latents)
            figures = self._update_discriminator(phase, real, fake.detach().float(), rng)
        if phase != "study":
            self.discriminator.requires_grad_(False)
            figures["loss_generator"] = self._update_generator(real, fake, rng)
        self._average()
        return figures

    def _phase(self, number: int) -> str | None:
        """The phase of the semi-cooperative game at batch ``number``, if it is played."""
        if self._game is None:
            return None
        per_epoch = len(self.images) // self.config.batch_size
        epoch, position = divmod(number, per_epoch)
        return self._game.phase(epoch, position / per_epoch)

    def _update_discriminator(
        self, phase: str | None, real: torch.Tensor, fake: torch.Tensor, rng: torch.Generator
    ) -> dict[str, torch.Tensor]:
        config = self.config
        penalised = config.penalty_kind != "none" and self.iteration % config.penalty_interval == 0
        images = torch.cat([real, fake]).requires_grad_(penalised)
        logits_real, logits_fake = self._logits(images, rng)
        targets: list[torch.Tensor] = []
        if self._objective.takes_targets:
            whole = label_targets(config.batch_size, config.real_target, config.flipped, rng)
            targets = [target[self._slice].to(self.device) for target in whole]
        if self._game is None:
            loss = self._objective.discriminator(logits_real, logits_fake, *targets)
        else:
            assert phase is not None
            loss = self._game.discriminator_loss(phase, logits_real, logits_fake, *targets)
        total = loss
        if penalised:
            weight = config.penalty * config.penalty_interval
            total = loss + weight * self._penalty(images, logits_real, logits_fake, rng)
        self._update("discriminator", total)
        # The gap between mean logits is near 0 if the discriminator cannot tell.
        gap = (logits_real - logits_fake).detach().mean()
        return {"loss_discriminator": loss.detach(), "gap": gap}

    def _penalty(
        self,
        images: torch.Tensor,
        logits_real: torch.Tensor,
        logits_fake: torch.Tensor,
        rng: torch.Generator,
    ) -> torch.Tensor:
        """The gradient penalty; R1 and R2 halved, as their authors weigh them by gamma / 2."""
        kind = self.config.penalty_kind
        if kind == "wgan":
            real, fake = images.chunk(2)
            return wgan_gradient_penalty(lambda x: self._score(x, rng), real, fake, rng)
        logits = {"r1": (logits_real,), "r2": (logits_fake,), "r1_r2": (logits_real, logits_fake)}
        # The mean over real and generated images together is half of the sum of both means, and
        # the gradient of real images' logits at generated ones is zero.
        return zero_centred_penalty(torch.cat(logits[kind]), images)

    def _update_generator(
        self, real: torch.Tensor, fake: torch.Tensor, rng: torch.Generator
    ) -> torch.Tensor:
        if self._game is not None:
            loss = self._feedback_loss(real, fake, rng)
        else:
            logits_real = None
            if self._objective.generator_needs_real:
                with torch.no_grad():
                    logits_real = self._score(real, rng)
            loss = self._objective.generator(logits_real, self._score(fake, rng))
        self._update("generator", loss)
        return loss.detach()

    def _feedback_loss(
        self, real: torch.Tensor, fake: torch.Tensor, rng: torch.Generator
    ) -> torch.Tensor:
        """The generator's loss in the semi-cooperative game."""
        policies = self.config.augment
        with self._autocast():
            with torch.no_grad():
                real_maps = self.discriminator.feature_maps(augment(real, policies, rng))
            fake_maps = self.discriminator.feature_maps(augment(fake, policies, rng))
            logits = self.discriminator.logits(fake_maps).float()
        real_maps, fake_maps = ([m.float() for m in maps] for maps in (real_maps, fake_maps))
        assert self._game is not None
        return self._objective.generator(None, logits) + self._game.feedback_term(
            real_maps, fake_maps
        )

    def _logits(
        self, images: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Of real images and generated ones, in one pass unless batch norm would mix the two."""
        if self.config.norm != "batch":
            real, fake = self._score(images, rng).chunk(2)
            return real, fake
        real, fake = images.chunk(2)
        return self._score(real, rng), self._score(fake, rng)

    def _score(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        images = augment(images, self.config.augment, rng)
        with self._autocast():
            return self.discriminator(images).float()

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged generator, batch norm statistics included, towards the trained one."""
        keep = 0.0
        if self.config.ema_half_life:
            seen = (self.iteration + 1) * self.config.batch_size
            # Ramp-up: early on, average over a twentieth of what was seen, not over the random
            # start.
            half_life = min(self.config.ema_half_life, seen / 20)
            keep = 0.5 ** (self.config.batch_size / half_life)
        averaged, trained = self.generator.state_dict(), self._generator.state_dict()
        keys = [key for key, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[k] for k in keys], [trained[k] for k in keys], 1 - keep)

    # Samples and checks -------------------------------------------------------------------------

    def _samples(self) -> torch.Tensor:
        rng = seeded(self.config.seed, -1)
        latents = draw_latents(64, self.config.latent_dim, rng)
        return batched(self.generator, latents.to(self.device))

    @torch.no_grad()
    def _checks(self, samples: torch.Tensor) -> tuple[dict[str, Any], list[str]]:
        """Is the discriminator saturated or overfitted, have modes collapsed?"""
        self.discriminator.eval()
        rng = seeded(self.config.seed, -1)
        latents = draw_latents(CHECKED, self.config.latent_dim, rng).to(self.device)
        generated = batched(lambda z: self.discriminator(self.generator(z)), latents)
        train = self._score_all(self.images[:CHECKED])
        unseen = train if self.held_out is None else self._score_all(self.held_out[:CHECKED])
        # Only differences of logits mean the same under every objective.
        middle = (unseen.mean() + generated.mean()) / 2
        figures: dict[str, Any] = {"saturation": saturation(unseen - middle, generated - middle)}
        if self.held_out is not None:
            figures["overfitting"] = overfitting_score(train, unseen, generated)
        features = self.discriminator.feature_maps(samples)[-1]
        reals = to_float(self.images[: len(samples)].to(self.device))
        spread = mean_pairwise_distance(self.discriminator.feature_maps(reals)[-1])
        diversity = mean_pairwise_distance(features) / max(spread, 1e-12)
        figures["diversity"] = diversity
        self._best_diversity = max(self._best_diversity, diversity)
        figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}
        self.discriminator.train()
        return figures, find_warnings(figures, self._best_diversity)

    def _score_all(self, images: torch.Tensor) -> torch.Tensor:
        return batched(lambda batch: self.discriminator(to_float(batch.to(self.device))), images)

    def _extra_state(self) -> dict[str, float]:
        return {"best_diversity": self._best_diversity}

    def _load_extra_state(self, memory: dict[str, float]) -> None:
        self._best_diversity = memory["best_diversity"]


def find_warnings(figures: dict[str, Any], best_diversity: float) -> list[str]:
    """What a check's figures say is going wrong, a line each.

    Args:
        figures: ``saturation`` (see :func:`gan_backbones.metrics.saturation`), ``diversity``: the
            mean pairwise distance of samples relative to that of real images, in the
            discriminator's features; and, with held-out images, ``overfitting``.
        best_diversity: the highest so far.
    """
    warnings = []
    state = figures["saturation"]
    # The tenth percentile of real images, and the ninetieth of generated ones.
    real, generated = state["real"][1], state["generated"][-2]
    if state["accuracy"] >= SATURATED and real > 0.95 and generated < 0.05:
        warnings.append(
            f"discriminator saturated: accuracy {state['accuracy']:.1%}; a tenth of the real "
            f"images score below {real:.2f}, a tenth of the generated ones above {generated:.2f}"
        )
    if best_diversity > DIVERSE and figures["diversity"] < COLLAPSED * best_diversity:
        warnings.append(
            f"mode collapse: samples lie {figures['diversity']:.2f} times as far apart as real "
            f"images, after {best_diversity:.2f} at best"
        )
    if figures.get("overfitting", 0.0) > OVERFITTED:
        warnings.append(
            f"discriminator overfits: score {figures['overfitting']:.2f} (0: unseen images look "
            "like those it was trained on; 1: like generated ones)"
        )
    return warnings
