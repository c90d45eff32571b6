import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gan_backbones.calibration import fit_platt, rescale
from gan_backbones.metrics import batched, precision_recall
from gan_backbones.networks import Discriminator


def points(count, features=3, seed=0, shift=0.0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=rng) + shift


def brute_force(points, manifold, k):
    points, manifold = points.double().numpy(), manifold.double().numpy()
    radii = [
        sorted(np.linalg.norm(m - other) for j, other in enumerate(manifold) if i != j)[k - 1]
        for i, m in enumerate(manifold)
    ]
    inside = [
        any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True))
        for p in points
    ]
    return np.mean(inside)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_precision_and_recall_against_brute_force(k, shift):
    real, generated = points(40), points(30, seed=1, shift=shift)
    precision, recall = precision_recall(real, generated, k)
    assert precision == pytest.approx(brute_force(generated, real, k))
    assert recall == pytest.approx(brute_force(real, generated, k))
    assert 0 < precision < 1 or 0 < recall < 1


def test_identical_sets():
    assert precision_recall(points(50), points(50)) == (1, 1)


def test_sets_far_apart():
    assert precision_recall(points(50), points(50, seed=1, shift=100)) == (0, 0)


def test_a_dropped_mode_costs_recall_only():
    real = torch.cat([points(100), points(100, seed=1, shift=50)])
    precision, recall = precision_recall(real, real[:100])
    assert precision == 1
    assert recall == 0.5


def test_more_points_than_one_part():
    real, generated = points(1100, 2), points(1200, 2, seed=1, shift=0.5)
    for value in precision_recall(real, generated):
        assert 0.7 < value <= 1
    assert precision_recall(real, real.flip(0)) == (1, 1)


@pytest.mark.parametrize(("real", "generated"), [(5, 50), (50, 5)])
def test_too_few_points(real, generated):
    with pytest.raises(ValueError, match=r"^k is 5; each set needs more points than that$"):
        precision_recall(points(real), points(generated))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 256])
def test_batched_equals_unbatched(batch_size):
    network, inputs, sizes = torch.nn.Linear(3, 2), points(20), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    outputs = batched(network, inputs, batch_size)
    torch.testing.assert_close(outputs, network(inputs).detach())
    assert not outputs.requires_grad
    assert max(sizes[:-1]) <= batch_size


# Calibration --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.2, 1.5), (40.0, -3.0)])
def test_platt_recovers_scale_and_shift(scale, shift):
    # N(+m, s) against N(-m, s), equally many: the log-odds of x are 2 m x / s^2.
    # With m = 1, s = 1.5 that is x * 8 / 9. Then the logits are disturbed linearly.
    x = points(20_000, 1).squeeze(1) * 1.5
    real, generated = x[:10_000] + 1, x[10_000:] - 1
    found = fit_platt(*(((part * 8 / 9) - shift) / scale for part in (real, generated)))
    assert found == pytest.approx((scale, shift), rel=0.05, abs=0.05)


@pytest.mark.parametrize("counts", [(3000, 3000), (4000, 1000)])
def test_platt_agrees_with_logistic_regression(counts):
    real, generated = points(counts[0], 1, 1, 5.0)[:, 0] * 9, points(counts[1], 1, 2, 4.0)[:, 0] * 9
    reference = LogisticRegression(C=1e9, tol=1e-8).fit(
        torch.cat([real, generated]).numpy()[:, None], np.repeat([1, 0], counts)
    )
    expected = reference.coef_.item(), reference.intercept_.item()
    assert fit_platt(real, generated) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("gap", [1.0, 1e4])
def test_platt_stays_finite_on_separable_logits(gap):
    real, generated = torch.linspace(gap, 2 * gap, 500), torch.linspace(-2 * gap, -gap, 300)
    scale, shift = fit_platt(real, generated)
    assert 0 < scale < 20 / gap
    assert abs(shift) < 20
    assert torch.sigmoid(scale * real + shift).min() > 0.9
    assert torch.sigmoid(scale * generated + shift).max() < 0.1


def test_rescale():
    discriminator = Discriminator(4, 3, 16).requires_grad_(False)
    images = torch.rand(6, 3, 16, 16) * 2 - 1
    before = discriminator(images)
    rescale(discriminator, 2.5, -0.75)
    torch.testing.assert_close(discriminator(images), 2.5 * before - 0.75)


def test_rescale_of_a_network_that_is_not_frozen():
    discriminator = Discriminator(4, 3, 16)
    rescale(discriminator, 2.0, 1.0)
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
