import math
import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from gan_backbones.networks import Discriminator, ResidualDiscriminator
from gan_backbones.training import losses
from gan_backbones.training.losses import (
    OBJECTIVES,
    PENALTIES,
    check_objective,
    gaussian_kl,
    gaussian_reconstruction,
    label_targets,
    wgan_gradient_penalty,
    zero_centred_penalty,
)

REAL, FAKE = torch.tensor([2.0, -0.5]), torch.tensor([-1.0, 3.0])
NAMES = pytest.mark.parametrize("name", OBJECTIVES)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=rng(seed), dtype=dtype)


# Objectives ---------------------------------------------------------------------------------------


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


VALUES = {  # worked out from the papers' formulas for REAL and FAKE
    "bce": (
        -(log_sigmoid(2) + log_sigmoid(-0.5)) / 2 - (log_sigmoid(1) + log_sigmoid(-3)) / 2,
        -(log_sigmoid(-1) + log_sigmoid(3)) / 2,
    ),
    "minimax": (
        -(log_sigmoid(2) + log_sigmoid(-0.5)) / 2 - (log_sigmoid(1) + log_sigmoid(-3)) / 2,
        (log_sigmoid(1) + log_sigmoid(-3)) / 2,
    ),
    "least_squares": ((1 + 1.5**2) / 4 + (1 + 9) / 4, (4 + 4) / 4),
    "hinge": ((0 + 1.5) / 2 + (0 + 4) / 2, -1.0),
    "wgan": (1 - 0.75, -1.0),
    "relativistic": (
        -(log_sigmoid(3) + log_sigmoid(-3.5)) / 2,
        -(log_sigmoid(-3) + log_sigmoid(3.5)) / 2,
    ),
}


@NAMES
def test_values_worked_out_by_hand(name):
    objective = OBJECTIVES[name]
    both = objective.discriminator(REAL, FAKE), objective.generator(REAL, FAKE)
    torch.testing.assert_close(torch.stack(both), torch.tensor(VALUES[name]))


@NAMES
def test_gradients(name):
    logits = draw(5, seed=1).requires_grad_(), draw(5, seed=2).requires_grad_()
    assert gradcheck(OBJECTIVES[name].discriminator, logits)
    assert gradcheck(OBJECTIVES[name].generator, logits)


@NAMES
def test_each_side_pulls_its_own_way(name):
    objective = OBJECTIVES[name]
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    objective.discriminator(real, fake).backward()
    assert (real.grad < 0).all()  # descent raises the logits of real images
    assert (fake.grad > 0).all() or name == "least_squares"  # there 0 is where fakes should be
    fake.grad = None
    objective.generator(real, fake).backward()
    assert (fake.grad < 0).all()


@NAMES
def test_the_generator_needs_real_logits_only_where_it_says_so(name):
    objective = OBJECTIVES[name]
    if objective.generator_needs_real:
        assert objective.generator(REAL, FAKE) != objective.generator(REAL + 1, FAKE)
    else:
        assert objective.generator(None, FAKE) == objective.generator(REAL, FAKE)


def test_bce_is_finite_where_a_sigmoid_would_not_be():
    far = torch.tensor([1000.0])
    assert losses.bce_discriminator(-far, far) == 2000
    assert losses.bce_discriminator(far, -far) == 0
    assert losses.bce_generator(None, -far) == 1000
    # Minimax has lost its gradient there: the reason for the other one.
    for generator, slope in ((losses.bce_generator, -1), (losses.minimax_generator, 0)):
        fake = (-far).requires_grad_()
        generator(None, fake).backward()
        assert fake.grad == slope


def test_targets_are_those_of_torchs_cross_entropy():
    real_targets, fake_targets = torch.tensor([0.9, 0.0]), torch.tensor([0.0, 0.9])
    expected = F.binary_cross_entropy(REAL.sigmoid(), real_targets)
    expected += F.binary_cross_entropy(FAKE.sigmoid(), fake_targets)
    loss = losses.bce_discriminator(REAL, FAKE, real_targets, fake_targets)
    torch.testing.assert_close(loss, expected)
    smoothed = losses.bce_discriminator(REAL, FAKE, 0.9)
    optimum = torch.tensor([math.log(9)])  # where the probability is the target
    assert smoothed > losses.bce_discriminator(optimum, FAKE, 0.9)
    squares = losses.least_squares_discriminator(REAL, FAKE, real_targets, fake_targets)
    expected = (F.mse_loss(REAL, real_targets) + F.mse_loss(FAKE, fake_targets)) / 2
    torch.testing.assert_close(squares, expected)


def test_labels_are_smoothed_on_one_side_and_flipped_in_a_share():
    real, fake = label_targets(3, 0.9, 0.0, rng())
    assert torch.equal(real, torch.full((3,), 0.9)) and torch.equal(fake, torch.zeros(3))
    count = 20_000
    real, fake = label_targets(count, 0.9, 0.2, rng())
    assert set(real.tolist()) == set(fake.tolist()) == set(torch.tensor([0.0, 0.9]).tolist())
    for flips in (real == 0, fake > 0):
        assert abs(flips.double().mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / count)
    both = ((real == 0) & (fake > 0)).double().mean()
    assert abs(both - 0.04) < 0.006  # independently of each other
    again = label_targets(count, 0.9, 0.2, rng())
    assert torch.equal(again[0], real) and torch.equal(again[1], fake)
    assert not torch.equal(label_targets(count, 0.9, 0.2, rng(1))[0], real)


# Penalties ----------------------------------------------------------------------------------------


def test_penalties_of_a_linear_discriminator():
    weight = draw(3 * 4 * 4)

    def linear(images):
        return images.flatten(1) @ weight

    real, fake = draw(6, 3, 4, 4, seed=1).requires_grad_(), draw(6, 3, 4, 4, seed=2)
    torch.testing.assert_close(zero_centred_penalty(linear(real), real), weight.square().sum())
    penalty = wgan_gradient_penalty(linear, real, fake, rng())
    torch.testing.assert_close(penalty, (weight.norm() - 1) ** 2)


def test_the_wgan_penalty_looks_between_the_images():
    seen = []

    def discriminator(images):
        seen.append(images.detach())
        return images.square().sum(dim=(1, 2, 3)) / 2  # its gradient is the image itself

    real, fake = draw(50, 1, 2, 2, seed=1), draw(50, 1, 2, 2, seed=2)
    penalty = wgan_gradient_penalty(discriminator, real, fake, rng())
    share = ((seen[0] - real) / (fake - real)).flatten(1)
    torch.testing.assert_close(share, share[:, :1].expand_as(share))  # on the line between them
    assert 0 <= share.min() < 0.1 and 0.9 < share.max() <= 1
    torch.testing.assert_close(penalty, (seen[0].flatten(1).norm(dim=1) - 1).square().mean())
    other = wgan_gradient_penalty(discriminator, real, fake, rng(1))
    assert other != penalty == wgan_gradient_penalty(discriminator, real, fake, rng())


def test_the_wgan_penalty_of_a_flat_discriminator_has_finite_gradients():
    weight = torch.zeros(4, requires_grad=True)
    images = draw(3, 1, 2, 2, dtype=torch.float32)
    penalty = wgan_gradient_penalty(lambda x: x.flatten(1) @ weight, images, -images, rng())
    penalty.backward()
    assert penalty == 1 and weight.grad.isfinite().all()


@pytest.mark.parametrize("penalty", ["zero_centred", "wgan"])
def test_second_derivatives_of_penalties(penalty):
    real, fake = draw(3, 1, 4, 4, seed=1), draw(3, 1, 4, 4, seed=2)

    def value(weight, head):
        def discriminator(images):
            return F.softplus(F.conv2d(images, weight)).flatten(1) @ head

        if penalty == "wgan":
            return wgan_gradient_penalty(discriminator, real, fake, rng())
        images = real.clone().requires_grad_()
        return zero_centred_penalty(discriminator(images), images)

    parameters = draw(2, 1, 3, 3, seed=3).requires_grad_(), draw(8, seed=4).requires_grad_()
    assert gradcheck(value, parameters)
    assert gradgradcheck(value, parameters)


@pytest.mark.parametrize("kind", [Discriminator, ResidualDiscriminator])
def test_penalties_train_a_real_discriminator(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = kind(4, 1, 16)
        weights = [p for p in discriminator.parameters() if p.ndim > 1]
        for weight in weights:  # residual branches start at zero
            torch.nn.init.kaiming_normal_(weight)
    real, fake = draw(4, 1, 16, 16, dtype=torch.float32), torch.zeros(4, 1, 16, 16)
    images = torch.cat([real, fake]).requires_grad_()
    both = zero_centred_penalty(discriminator(images), images)
    halves = []
    for part in (real, fake):
        part = part.clone().requires_grad_()
        halves.append(zero_centred_penalty(discriminator(part), part))
    torch.testing.assert_close(2 * both, sum(halves))  # R1 + R2 in one pass
    (both + wgan_gradient_penalty(discriminator, real, fake, rng())).backward()
    assert all(w.grad.isfinite().all() and w.grad.any() for w in weights)


# Rules --------------------------------------------------------------------------------------------

TARGETED = "those with targets: bce, minimax, least_squares"
REFUSED = [
    ({"objective": "dcgan"}, "objective is 'dcgan'; allowed: bce, minimax, least_squares, hinge, "),
    (
        {"objective": "bce", "penalty_kind": "r3"},
        "penalty_kind is 'r3'; allowed: none, wgan, r1, r2, r1_r2",
    ),
    ({"objective": "bce", "real_target": 0.5}, "real_target is 0.5; allowed: above 0.5, up to 1"),
    ({"objective": "bce", "real_target": 1.1}, "real_target is 1.1; allowed: above 0.5, up to 1"),
    ({"objective": "bce", "flipped": 0.5}, "flipped is 0.5; allowed: 0 to below 0.5"),
    ({"objective": "bce", "flipped": -0.1}, "flipped is -0.1; allowed: 0 to below 0.5"),
    ({"objective": "bce", "flipped": math.nan}, "flipped is nan; allowed: 0 to below 0.5"),
    (
        {"objective": "hinge", "real_target": 0.9},
        f"real_target is 0.9, but objective 'hinge' has no targets; {TARGETED}",
    ),
    (
        {"objective": "relativistic", "flipped": 0.1},
        f"flipped is 0.1, but objective 'relativistic' has no targets; {TARGETED}",
    ),
    (
        {"objective": "bce", "penalty_kind": "r1", "penalty": 0.0},
        "penalty is 0.0; allowed with penalty_kind 'r1': finite and above 0",
    ),
    (
        {"objective": "bce", "penalty_kind": "r1", "norm": "batch"},
        "penalty_kind 'r1' uses each image's own gradient, but with norm 'batch' scores depend",
    ),
    (
        {"objective": "wgan"},
        "objective 'wgan' with penalty_kind 'none' and norm 'none' leaves the discriminator's",
    ),
    (
        {"objective": "wgan", "norm": "batch"},
        "objective 'wgan' with penalty_kind 'none' and norm 'batch' leaves the discriminator's",
    ),
    (
        {"objective": "least_squares", "semi_cooperative": True},
        "objective 'least_squares' has no probabilities to reward or punish; allowed in the semi-",
    ),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        check_objective(**settings)
    assert "\n" not in str(caught.value)


@NAMES
@pytest.mark.parametrize("penalty", PENALTIES)
def test_what_makes_sense_is_allowed(name, penalty):
    check_objective(name, norm="spectral", penalty_kind=penalty)
    if (name, penalty) != ("wgan", "none"):
        check_objective(name, penalty_kind=penalty)
    if OBJECTIVES[name].takes_targets:
        check_objective(name, penalty_kind=penalty, real_target=0.9, flipped=0.05)
    if name in ("bce", "minimax"):
        check_objective(name, penalty_kind=penalty, semi_cooperative=True)


# The variational autoencoder's two terms ----------------------------------------------------------


def test_kl_is_torchs():
    mean, log_variance = draw(4, 3, seed=1), draw(4, 3, seed=2)
    standard = Normal(torch.zeros(3, dtype=torch.double), 1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), standard).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    assert gaussian_kl(torch.zeros(1, 3), torch.zeros(1, 3)) == 0
    assert gradcheck(gaussian_kl, (mean.requires_grad_(), log_variance.requires_grad_()))


def test_reconstruction_is_torchs_log_likelihood_up_to_a_constant():
    images, outputs = draw(4, 1, 2, 2, seed=1), draw(4, 1, 2, 2, seed=2)
    loss = gaussian_reconstruction(images, outputs, 0.3)
    likelihood = Normal(outputs, 0.3).log_prob(images).flatten(1).sum(dim=1)
    constant = 4 * math.log(0.3 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(loss + constant, -likelihood)
