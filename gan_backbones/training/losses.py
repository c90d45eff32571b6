"""Objectives, penalties and their rules: flat functions of logits ``[N]`` and images.

All are means over the batch, to be minimised. Every discriminator loss takes ``(real, fake)``, the
logits of real and of generated images, and every generator loss too; those that have no use for
the real ones accept None. :data:`OBJECTIVES` lists them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from gan_backbones.utils.validation import check_choice

Targets = float | torch.Tensor

PENALTIES = ("none", "wgan", "r1", "r2", "r1_r2")
"""None; :func:`wgan_gradient_penalty`; :func:`zero_centred_penalty` at real, generated, or both."""


def cross_entropy(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Mean binary cross-entropy of logits ``[N]`` from probabilities, one for all or ``[N]``."""
    targets = torch.as_tensor(targets).to(logits).expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, targets)


def bce_discriminator(
    real: torch.Tensor,
    fake: torch.Tensor,
    real_targets: Targets = 1.0,
    fake_targets: Targets = 0.0,
) -> torch.Tensor:
    """Cross-entropy of real and generated (Goodfellow et al. 2014).

    Args:
        real: logits ``[N]`` of real images.
        fake: logits ``[M]`` of generated ones.
        real_targets: target probability of being real for real images, one for all or
            ``[N]``; see :func:`label_targets`.
        fake_targets: the same for generated images.
    """
    return cross_entropy(real, real_targets) + cross_entropy(fake, fake_targets)


def bce_generator(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
    """Non-saturating: raise the log-probability of being taken for real (same paper)."""
    return F.softplus(-fake).mean()


def minimax_generator(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
    """The zero-sum game's own form: lower the log-probability of being found out.

    Its gradient fades where the discriminator is sure, so :func:`bce_generator` usually replaces
    it. The discriminator's side is :func:`bce_discriminator` in both.
    """
    return -F.softplus(fake).mean()


def least_squares_discriminator(
    real: torch.Tensor,
    fake: torch.Tensor,
    real_targets: Targets = 1.0,
    fake_targets: Targets = 0.0,
) -> torch.Tensor:
    """Half the squared distance of logits from targets (Mao et al. 2017, LSGAN).

    Args and shapes as in :func:`bce_discriminator`.
    """
    return ((real - real_targets).square().mean() + (fake - fake_targets).square().mean()) / 2


def least_squares_generator(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
    """Half the squared distance from the target of real images, 1."""
    return (fake - 1).square().mean() / 2


def hinge_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logits beyond a margin of 1 on the right side cost nothing (Lim & Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
    """Raise the logits of generated images."""
    return -fake.mean()


def wgan_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Minus the estimate of the Wasserstein distance (Arjovsky et al. 2017).

    An estimate only if the discriminator's slope is bounded, by a penalty or spectral norm.
    """
    return fake.mean() - real.mean()


def wgan_generator(real: torch.Tensor | None, fake: torch.Tensor) -> torch.Tensor:
    """Raise the logits of generated images."""
    return -fake.mean()


def relativistic_discriminator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Relativistic pairing (Jolicoeur-Martineau 2018): each real should outscore its fake.

    The pairing keeps a score for every mode of the data, so dropping one costs the generator.
    """
    return F.softplus(fake - real).mean()


def relativistic_generator(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The non-saturating counterpart of :func:`relativistic_discriminator`."""
    return F.softplus(real - fake).mean()


class Objective(NamedTuple):
    """The two sides of a GAN's game.

    Attributes:
        discriminator: loss of ``(real, fake)`` and, with ``takes_targets``, of the targets.
        generator: loss of ``(real, fake)``; ``real`` may be None unless ``generator_needs_real``.
        takes_targets: whether labels can be smoothed and flipped.
        generator_needs_real: whether the generator's step must score real images too.
    """

    discriminator: Callable[..., torch.Tensor]
    generator: Callable[..., torch.Tensor]
    takes_targets: bool = False
    generator_needs_real: bool = False


OBJECTIVES = {
    "bce": Objective(bce_discriminator, bce_generator, takes_targets=True),
    "minimax": Objective(bce_discriminator, minimax_generator, takes_targets=True),
    "least_squares": Objective(
        least_squares_discriminator, least_squares_generator, takes_targets=True
    ),
    "hinge": Objective(hinge_discriminator, hinge_generator),
    "wgan": Objective(wgan_discriminator, wgan_generator),
    "relativistic": Objective(
        relativistic_discriminator, relativistic_generator, generator_needs_real=True
    ),
}


def label_targets(
    count: int, real_target: float, flipped: float, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The targets of a batch of real and a batch of generated images.

    Smoothing is one-sided (Salimans et al. 2016): generated images keep the target 0, or the
    discriminator would reward the generator for what it already makes.

    Args:
        count: images in each batch.
        real_target: of real images: 1, or smoothed, say 0.9.
        flipped: the probability that an image gets the other batch's target.
        rng: of the flips, on the CPU; drawn from even if ``flipped`` is 0, so that runs that differ
            in it alone see the same noise.

    Returns:
        Targets float32 ``[count]`` of real and of generated images.
    """
    flip = torch.rand(2, count, generator=rng, dtype=torch.float32) < flipped
    targets = torch.tensor([[real_target], [0.0]], dtype=torch.float32).expand(2, count)
    real, fake = torch.where(flip, targets.flip(0), targets)
    return real, fake


def zero_centred_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean squared norm of the logits' gradient at ``images`` (Mescheder et al. 2018).

    R1 at real images, R2 at generated ones; together they make relativistic training converge
    (Huang et al. 2024, R3GAN).

    Args:
        logits: ``[N]``, computed from ``images``, which must require grad.
        images: ``[N, C, H, W]``.
    """
    return _gradient(logits, images).square().sum(dim=1).mean()


def wgan_gradient_penalty(
    discriminator: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    rng: torch.Generator,
) -> torch.Tensor:
    """Mean squared distance of the gradient's norm from 1, between real and generated images.

    Gulrajani et al. 2017: at a random point of the line from each real image to its generated
    partner. Their weight is 10.

    Args:
        discriminator: images to logits ``[N]``, each of its own image alone: no batch norm.
        real: ``[N, C, H, W]``.
        fake: like ``real``.
        rng: of the points, on the CPU.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=rng, dtype=torch.float32).to(real)
    images = real.detach().lerp(fake.detach(), share).requires_grad_()
    norm = torch.linalg.vector_norm(_gradient(discriminator(images), images), dim=1)
    return (norm - 1).square().mean()


def check_objective(
    objective: str,
    *,
    norm: str = "none",
    penalty_kind: str = "none",
    penalty: float = 1.0,
    real_target: float = 1.0,
    flipped: float = 0.0,
    semi_cooperative: bool = False,
) -> None:
    """Refuse settings that are unknown, out of range, or make no sense together.

    Args:
        objective: one of :data:`OBJECTIVES`.
        norm: of the discriminator: ``"none"``, ``"batch"`` or ``"spectral"``.
        penalty_kind: one of :data:`PENALTIES`.
        penalty: its weight; above 0 if there is a penalty.
        real_target: see :func:`label_targets`; above 0.5, at most 1.
        flipped: see :func:`label_targets`; at least 0, below 0.5, where labels say nothing.
        semi_cooperative: whether the game of `reward_punishment` is played, which takes logits for
            log-odds, as only ``"bce"`` and ``"minimax"`` do.

    Raises:
        ValueError: one line that names what is wrong and what is allowed.
    """
    for name, value, allowed in (
        ("objective", objective, tuple(OBJECTIVES)),
        ("penalty_kind", penalty_kind, PENALTIES),
    ):
        check_choice(name, value, allowed)
    if not 0.5 < real_target <= 1:
        raise ValueError(f"real_target is {real_target}; allowed: above 0.5, up to 1")
    if not 0 <= flipped < 0.5:
        raise ValueError(f"flipped is {flipped}; allowed: 0 to below 0.5")
    if not OBJECTIVES[objective].takes_targets:
        having = ", ".join(name for name, entry in OBJECTIVES.items() if entry.takes_targets)
        targets = {"real_target": (real_target, 1), "flipped": (flipped, 0)}
        for name, (given, unused) in targets.items():
            if given != unused:
                raise ValueError(
                    f"{name} is {given}, but objective {objective!r} has no targets; those with "
                    f"targets: {having}"
                )
    if semi_cooperative and objective not in ("bce", "minimax"):
        raise ValueError(
            f"objective {objective!r} has no probabilities to reward or punish; allowed in the "
            "semi-cooperative game: bce, minimax"
        )
    if penalty_kind != "none":
        if not 0 < penalty < math.inf:
            raise ValueError(
                f"penalty is {penalty}; allowed with penalty_kind {penalty_kind!r}: finite and "
                "above 0"
            )
        if norm == "batch":
            raise ValueError(
                f"penalty_kind {penalty_kind!r} uses each image's own gradient, but with norm "
                "'batch' scores depend on the whole batch; allowed: norm 'none' or 'spectral'"
            )
    elif objective == "wgan" and norm != "spectral":
        raise ValueError(
            f"objective 'wgan' with penalty_kind 'none' and norm {norm!r} leaves the "
            "discriminator's slope unbounded; allowed: any penalty_kind, or norm 'spectral'"
        )


def gaussian_kl(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL divergence of a diagonal Gaussian from N(0, I), in closed form (Kingma & Welling 2014).

    Args:
        mean: ``[N, latent_dim]``.
        log_variance: like ``mean``.

    Returns:
        ``[N]``, in nats.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2


def gaussian_reconstruction(
    images: torch.Tensor, reconstructions: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Minus the log-likelihood of images under N(reconstruction, scale^2), less its constant.

    The VAE's loss is the mean of this plus :func:`gaussian_kl`: minus the evidence lower bound. A
    smaller ``scale`` asks for more exact reconstructions, at the cost of latents less like N(0, I).

    Args:
        images: ``[N, C, H, W]``.
        reconstructions: like ``images``.
        scale: standard deviation of a pixel.

    Returns:
        ``[N]``, in nats.
    """
    return (images - reconstructions).square().flatten(1).sum(dim=1) / (2 * scale**2)


def _gradient(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The logits' gradient at ``images``, ``[N, C * H * W]``, in float32 or better."""
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)).flatten(1)
