import math
import re

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from gan_backbones.networks import Discriminator, Generator, ResidualDiscriminator
from gan_backbones.training.losses import bce_discriminator, bce_generator, label_targets
from gan_backbones.training.reward_punishment import (
    PRESETS,
    RewardPunishment,
    feature_distance,
    soft_accuracy,
)

GAME = RewardPunishment(0.6, 0.25, 0.1)
PHASES = ("punishment", "study", "reward")


def draw(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_the_sources_settings():
    settings = {
        name: (game.punishment, game.reward, game.feedback, game.punishment_epochs)
        for name, game in PRESETS.items()
    }
    assert settings == {
        "S1": (0.6, 0.25, 0.1, 4),
        "S2": (0.4, 0.1, 0.02, 4),
        "S3": (0.3, 0.05, 0.01, 4),
    }


def test_four_epochs_of_punishment_then_one_of_study_and_reward():
    for epoch in range(15):
        phases = [GAME.phase(epoch, progress) for progress in (0.0, 0.49, 0.5, 0.99)]
        last = epoch in (4, 9, 14)
        assert phases == (["study"] * 2 + ["reward"] * 2 if last else ["punishment"] * 4)
    often = RewardPunishment(0, 0, 0, punishment_epochs=1, study=0.1)
    assert [often.phase(e, 0.2) for e in range(4)] == ["punishment", "reward"] * 2


def test_soft_accuracy_is_accuracy_where_the_discriminator_is_sure():
    real, fake = 1e3 * draw(500, seed=1), 1e3 * draw(300, seed=2) - 500
    accuracy = ((real > 0).double().mean() + (fake < 0).double().mean()) / 2
    assert 0.5 < accuracy < 0.9
    torch.testing.assert_close(soft_accuracy(real, fake), accuracy, atol=0.01, rtol=0)
    assert soft_accuracy(torch.zeros(3), torch.zeros(2)) == 0.5
    log_odds = torch.tensor([math.log(3)])
    torch.testing.assert_close(soft_accuracy(log_odds, log_odds), torch.tensor((0.75 + 0.25) / 2))


@pytest.mark.parametrize("phase", PHASES)
def test_gradients_of_the_discriminators_loss(phase):
    real, fake = (draw(4, seed=1) + 1).requires_grad_(), (draw(5, seed=2) - 1).requires_grad_()
    assert soft_accuracy(real, fake) > 0.55  # away from the kink
    targets = (0.9, torch.tensor([0.0, 0.0, 0.9, 0.0, 0.0]))
    assert gradcheck(lambda r, f: GAME.discriminator_loss(phase, r, f, *targets), (real, fake))


def test_study_is_of_real_images_alone():
    real = draw(4)
    loss = GAME.discriminator_loss("study", real, None, 0.9)
    expected = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    torch.testing.assert_close(loss, expected)


def test_punishment_slows_a_discriminator_and_reward_speeds_it():
    """The forces on the logits are those that the module's docstring promises."""
    probability = torch.tensor([0.6, 0.9, 0.99], dtype=torch.double)
    for phase, weight in (("punishment", -GAME.punishment), ("reward", GAME.reward)):
        real = torch.logit(probability).requires_grad_()
        fake = torch.logit(1 - probability).requires_grad_()
        GAME.discriminator_loss(phase, real, fake).backward()
        force = (1 - probability) * (1 + weight * probability / 2) / 3
        torch.testing.assert_close(-real.grad, force)
        torch.testing.assert_close(fake.grad, force)


def test_only_a_too_accurate_discriminator_is_punished():
    for shift, punished in ((-1.0, False), (1.0, True)):  # worse, then better than a coin
        real, fake = draw(6, seed=1) + shift, draw(6, seed=2) - shift
        surplus = GAME.discriminator_loss("punishment", real, fake) - bce_discriminator(real, fake)
        excess = soft_accuracy(real, fake) - 0.5
        assert (excess > 0) == punished
        torch.testing.assert_close(surplus, GAME.punishment * excess.clamp(min=0))


def test_feature_distance():
    real = [torch.zeros(4, 2, 3, 3), torch.ones(4, 5, 1, 1)]
    fake = [torch.full((6, 2, 3, 3), 2.0), torch.full((6, 5, 1, 1), 0.5)]
    assert feature_distance(real, fake) == (2 + 0.5) / 2
    torch.testing.assert_close(GAME.feedback_term(real, fake), torch.tensor(0.125))
    shuffled = [m.flip(0) for m in real]
    assert feature_distance(real, shuffled) == 0  # of distributions, not of pairs
    with pytest.raises(ValueError):
        feature_distance(real, fake[:1])
    real, fake = draw(3, 2, 2, 2, seed=1), draw(4, 2, 2, 2, seed=2).requires_grad_()
    assert gradcheck(lambda f: feature_distance([real], [f]), fake)


@pytest.mark.parametrize("kind", [Discriminator, ResidualDiscriminator])
def test_a_whole_step_as_the_module_describes_it(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, discriminator = Generator(5, 4, 1, 16), kind(4, 1, 16)
    real = draw(8, 1, 16, 16, dtype=torch.float32)
    rng = torch.Generator().manual_seed(0)
    for phase in PHASES:
        fake = generator(draw(8, 5, dtype=torch.float32))
        logits = None if phase == "study" else discriminator(fake.detach())
        targets = label_targets(8, 0.9, 0.1, rng)
        discriminator.zero_grad()
        GAME.discriminator_loss(phase, discriminator(real), logits, *targets).backward()
        assert all(p.grad.isfinite().all() for p in discriminator.parameters())
    with torch.no_grad():
        real_maps = discriminator.feature_maps(real)
    fake_maps = discriminator.feature_maps(fake)
    loss = bce_generator(None, discriminator.logits(fake_maps))
    plain = torch.autograd.grad(loss, list(generator.parameters()), retain_graph=True)
    loss = loss + GAME.feedback_term(real_maps, fake_maps)
    guided = torch.autograd.grad(loss, list(generator.parameters()))
    assert all(g.isfinite().all() for g in guided)
    assert not any(torch.equal(a, b) for a, b in zip(plain[-2:], guided[-2:], strict=True))


def test_feedback_alone_moves_generated_images_to_the_real_ones():
    """Under a discriminator of random features, the generator's mean feature reaches the real."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = Discriminator(4, 1, 16).requires_grad_(False)
    real = 0.5 + 0.1 * draw(16, 1, 16, 16, dtype=torch.float32)
    images = (0.1 * draw(16, 1, 16, 16, seed=1, dtype=torch.float32) - 0.5).requires_grad_()
    optimizer = torch.optim.Adam([images], 0.02)
    real_maps, distances = discriminator.feature_maps(real), []
    for _ in range(100):
        optimizer.zero_grad()
        loss = GAME.feedback_term(real_maps, discriminator.feature_maps(images))
        loss.backward()
        optimizer.step()
        distances.append(loss.item())
    assert distances[-1] < 0.2 * distances[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"punishment": -0.1}, "punishment is -0.1; allowed: a finite number at least 0"),
        ({"reward": math.nan}, "reward is nan; allowed: a finite number at least 0"),
        ({"feedback": math.inf}, "feedback is inf; allowed: a finite number at least 0"),
        ({"punishment_epochs": 0}, "punishment_epochs is 0; allowed: a whole number at least 1"),
        ({"study": 1.0}, "study is 1.0; allowed: a finite number above 0 and below 1"),
    ],
)
def test_other_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RewardPunishment(**{"punishment": 0.1, "reward": 0.1, "feedback": 0.1, **settings})
