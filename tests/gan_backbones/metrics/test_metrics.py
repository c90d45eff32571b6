import time

import numpy as np
import pytest
import scipy.linalg
import torch
from backbones import tiny_backbone
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from sklearn.metrics.pairwise import polynomial_kernel
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_kid import (
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_KID_STD,
    kid_features_to_metric,
)
from torch_fidelity.metric_prc import calculate_precision_recall_full

from gan_backbones.metrics import (
    QUANTILES,
    batched,
    classifier_features,
    discriminator_confusion,
    fd_classifier,
    frechet_distance,
    kid,
    kid_subsets,
    mean_pairwise_distance,
    output_quantiles,
    overfitting_score,
    precision_recall,
    saturation,
)
from gan_backbones.metrics.features import as_float, as_rgb, as_uint8
from gan_backbones.networks import Discriminator
from gan_backbones.training.calibration import fit_platt, rescale


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


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_against_torch_fidelity(k):
    real, generated = points(400, 10), points(300, 10, seed=1, shift=0.7)
    # It wants the generated set first.
    expected = calculate_precision_recall_full(generated.double(), real.double(), k)
    assert precision_recall(real, generated, k) == pytest.approx(expected, abs=1e-4)


def test_copies_are_on_a_manifold_of_radius_zero():
    real = torch.full((20, 4), 1e3) + torch.arange(2).repeat(10)[:, None] * 0.1
    assert precision_recall(real, real[:8]) == (1, 1)
    assert precision_recall(real, real + 0.01) == (0, 0)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 256])
def test_batched_equals_unbatched(batch_size):
    network, inputs, sizes = torch.nn.Linear(3, 2), points(20), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    outputs = batched(network, inputs, batch_size)
    torch.testing.assert_close(outputs, network(inputs).detach())
    assert not outputs.requires_grad
    assert max(sizes[:-1]) <= batch_size


# Distances ----------------------------------------------------------------------------------------


def correlated(count, features, seed, shift=0.0, scale=1.0):
    """Points of a covariance far from the identity, all positive like a ReLU's outputs."""
    mix = np.random.default_rng(9).normal(size=(features, features)) / features**0.5
    x = points(count, features, seed).double() @ torch.from_numpy(mix) * scale + shift
    return x.relu().float()


def scipy_frechet(real, generated):
    (m1, s1), (m2, s2) = (
        (x.mean(axis=0), np.cov(x, rowvar=False)) for x in (real.numpy(), generated.numpy())
    )
    root = scipy.linalg.sqrtm(s1 @ s2)
    return ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(root))


@pytest.mark.parametrize(("n", "m", "features"), [(500, 400, 20), (300, 900, 64), (700, 65, 64)])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 2.0), (30.0, 0.1)])
def test_frechet_against_torch_fidelity_and_scipy(n, m, features, shift, scale):
    real, generated = correlated(n, features, 0), correlated(m, features, 1, shift, scale)
    found = frechet_distance(real, generated)
    statistics = [fid_features_to_statistics(x.double()) for x in (real, generated)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found == pytest.approx(scipy_frechet(real.double(), generated.double()), rel=1e-6)
    assert found == pytest.approx(frechet_distance(generated, real), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 20), (30, 500), (500, 30), (2, 2), (101, 100)])
def test_frechet_of_fewer_points_than_features(n, m):
    # Singular covariances, where a matrix root is complex or fails; torch-fidelity's eigenvalues of
    # their product carry noise of the square root of the precision, hence the looser bound.
    real, generated = correlated(n, 100, 0), correlated(m, 100, 1, 0.3)
    statistics = [fid_features_to_statistics(x.double()) for x in (real, generated)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-4)


def test_frechet_in_closed_form():
    # One feature: (m1 - m2)^2 + (s1 - s2)^2.
    real, generated = points(300, 1), points(200, 1, seed=1) * 3 + 5
    (m1, s1), (m2, s2) = ((x.double().mean(), x.double().std()) for x in (real, generated))
    expected = ((m1 - m2) ** 2 + (s1 - s2) ** 2).item()
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("count", [20, 300])
def test_frechet_of_equal_and_moved_sets(count):
    real = correlated(count, 64, 0)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-10)
    moved = real.double() + 0.25
    assert frechet_distance(real, moved) == pytest.approx(64 * 0.25**2, rel=1e-9)
    # Far from the origin nothing is lost.
    assert frechet_distance(real + 1e4, real + 1e4) == pytest.approx(0, abs=1e-8)


@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_frechet_of_features_that_never_vary():
    real, generated = correlated(50, 8, 0), correlated(50, 8, 1)
    real[:, :3] = generated[:, 2:5] = 0
    expected = scipy_frechet(real.double(), generated.double())
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(torch.zeros(5, 3), torch.ones(4, 3)) == pytest.approx(3)


def brute_force_kid(a, b):
    def kernel(x, y):
        return polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1)

    def within(x):
        total = kernel(x, x)
        return (total.sum() - np.trace(total)) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * kernel(a, b).mean()


@pytest.mark.parametrize(("n", "m"), [(2, 2), (50, 80), (1000, 1001), (2300, 1200)])
def test_kid_against_scikit_learn(n, m):
    real, generated = correlated(n, 12, 0), correlated(m, 12, 1, 0.5)
    expected = brute_force_kid(real.double().numpy(), generated.double().numpy())
    assert kid(real, generated) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("count", "features"), [(200, 16), (1500, 64)])
def test_kid_against_torch_fidelity(count, features):
    real, generated = correlated(count, features, 0), correlated(count, features, 1, 0.1)
    expected = kid_features_to_metric(
        real.double(), generated.double(), kid_subsets=1, kid_subset_size=count, verbose=False
    )[KEY_METRIC_KID_MEAN]
    assert kid(real, generated) == pytest.approx(expected, rel=1e-6)
    mean, deviation = kid_subsets(real, generated, 3, count)  # a subset that is the whole set
    assert (mean, deviation) == pytest.approx((expected, 0), rel=1e-6, abs=1e-12)


def test_kid_over_subsets_against_torch_fidelity():
    real, generated = correlated(1000, 16, 0), correlated(1200, 16, 1, 0.3)
    mean, deviation = kid_subsets(real, generated, subsets=200, subset_size=100)
    expected = kid_features_to_metric(
        real.double(), generated.double(), kid_subsets=200, kid_subset_size=100, verbose=False
    )
    error = deviation / 200**0.5
    assert mean == pytest.approx(kid(real, generated), abs=4 * error)
    assert mean == pytest.approx(expected[KEY_METRIC_KID_MEAN], abs=6 * error)  # other draws
    assert deviation == pytest.approx(expected[KEY_METRIC_KID_STD], rel=0.3)
    assert kid_subsets(real, generated, 5, 100, seed=3) == kid_subsets(real, generated, 5, 100, 3)
    assert kid_subsets(real, generated, 5, 100, 3) != kid_subsets(real, generated, 5, 100, 4)


def test_kid_is_unbiased():
    both = [(points(10, 4, 2 * seed), points(15, 4, 2 * seed + 1)) for seed in range(400)]
    values = np.array([kid(*pair) for pair in both])
    assert (values < 0).any()
    assert abs(values.mean()) < 4 * values.std() / 400**0.5


@pytest.mark.parametrize(
    ("subsets", "subset_size", "message"),
    [
        (0, 10, "subsets is 0; it must be at least 1"),
        (5, 31, "subset_size is 31; it must lie between 2 and the smaller set's 30"),
        (5, 1, "subset_size is 1; it must lie between 2 and the smaller set's 30"),
    ],
)
def test_wrong_subsets(subsets, subset_size, message):
    with pytest.raises(ValueError) as caught:
        kid_subsets(points(40), points(30), subsets, subset_size)
    assert str(caught.value) == message


@pytest.mark.parametrize("metric", [frechet_distance, kid, kid_subsets, precision_recall])
@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (points(9, 3), points(9, 4), "real has 3 features and generated 4; both must come from"),
        (points(9)[:, 0], points(9), r"real has shape (9,); it must be [N, F], N at least 2"),
        (points(9), points(9) / 0, "generated holds features that are not finite"),
    ],
)
def test_features_that_cannot_be_compared(metric, real, generated, message):
    with pytest.raises(ValueError) as caught:
        metric(real, generated)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("metric", [frechet_distance, kid])
def test_a_single_point_has_no_spread(metric):
    with pytest.raises(ValueError) as caught:
        metric(points(9), points(1))
    assert str(caught.value) == "generated has shape (1, 3); it must be [N, F], N at least 2"


def test_thousands_of_points_take_seconds():
    real, generated = points(4000, 128), points(4000, 128, 1, 0.05)
    began = time.process_time()  # of all threads
    for metric in (frechet_distance, kid, precision_recall):
        metric(real, generated)
    assert time.process_time() - began < 15


# Images -------------------------------------------------------------------------------------------


def test_distance_in_a_classifiers_features():
    backbone = tiny_backbone()
    images = batched(backbone.generator, points(300, 8))
    real, generated = as_uint8(images[:160]), images[160:]
    found = fd_classifier(real, generated, backbone.judge)
    features = [backbone.judge.features(x) for x in (real / 127.5 - 1, generated)]
    assert found == pytest.approx(scipy_frechet(*(x.double() for x in features)), rel=1e-4)
    assert fd_classifier(real, generated.flip(3), backbone.judge) > found
    assert classifier_features(backbone.classifier)(images).shape == (300, 128)


def test_image_formats():
    levels = torch.arange(256).byte().reshape(1, 1, 16, 16)
    assert torch.equal(as_uint8(as_float(levels)), levels)
    assert as_uint8(levels) is levels
    assert as_uint8(torch.tensor([-1.2, -1, -0.997, 0.001, 1, 1.2])).tolist() == [
        *(0, 0, 0, 128, 255, 255)
    ]
    assert torch.equal(as_rgb(levels), levels.repeat(1, 3, 1, 1))
    with pytest.raises(ValueError, match=r"^images has shape \(1, 4, 8, 8\); it must be \[N, 1"):
        as_rgb(torch.zeros(1, 4, 8, 8))


# Discriminator and alarms -------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, -0.5, 2.0])
def test_confusion_against_scikit_learn(threshold):
    real, generated = points(300, 1, 0, 1.0)[:, 0], points(200, 1, 1)[:, 0]
    found = discriminator_confusion(real, generated, threshold)
    truth = np.repeat([1, 0], [300, 200])
    said = (torch.cat([real, generated]) > threshold).int().numpy()
    assert found["matrix"] == confusion_matrix(truth, said, labels=[1, 0]).tolist()
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert found["true_positive_rate"] == pytest.approx(recall_score(truth, said))
    assert found["true_negative_rate"] == pytest.approx(recall_score(truth, said, pos_label=0))


def test_confusion_of_a_discriminator_that_misses_real_images():
    # The figures that the sources report: 495 of 640 real images missed, every fake caught.
    real = torch.cat([torch.full((495,), -1.0), torch.full((145,), 1.0)])
    found = discriminator_confusion(real, torch.full((640,), -1.0))
    assert found["matrix"] == [[145, 495], [0, 640]]
    assert found["accuracy"] == pytest.approx(0.6133, abs=5e-5)
    assert found["true_positive_rate"] == pytest.approx(0.2266, abs=5e-5)
    assert found["true_negative_rate"] == 1


def test_a_logit_on_the_threshold_is_not_above_it():
    assert discriminator_confusion(torch.zeros(3), torch.zeros(2))["matrix"] == [[0, 3], [0, 2]]


@pytest.mark.parametrize("function", [discriminator_confusion, saturation])
def test_wrong_logits(function):
    with pytest.raises(
        ValueError, match=r"^real has shape \(0,\); it must be \[N\], N at least 1$"
    ):
        function(torch.zeros(0), torch.zeros(2))
    with pytest.raises(ValueError, match=r"^generated holds logits that are not finite$"):
        function(torch.zeros(2), torch.tensor([0, float("nan")]))


def test_output_quantiles():
    logits = points(1001, 1)[:, 0]
    expected = np.quantile(1 / (1 + np.exp(-logits.double().numpy())), QUANTILES)
    assert output_quantiles(logits) == pytest.approx(expected.tolist(), abs=1e-6)


def test_saturation():
    calm, far = points(500, 1)[:, 0], points(500, 1, 1)[:, 0]
    assert 0.4 < saturation(calm, far)["accuracy"] < 0.6
    figures = saturation(calm + 20, far - 20)
    assert figures["accuracy"] == 1
    assert min(figures["real"]) > 0.999 and max(figures["generated"]) < 0.001


@pytest.mark.parametrize("count", [2, 30, 1500])
def test_mean_pairwise_distance_against_scipy(count):
    x = points(count, 5, shift=100)
    assert mean_pairwise_distance(x) == pytest.approx(pdist(x.double().numpy()).mean(), rel=1e-9)


def test_mean_pairwise_distance_falls_as_modes_collapse():
    images = points(64, 3 * 8 * 8).reshape(64, 3, 8, 8)
    assert mean_pairwise_distance(images[:1].repeat(64, 1, 1, 1)) == pytest.approx(0, abs=1e-6)
    few = mean_pairwise_distance(images[:4].repeat(16, 1, 1, 1))
    assert few == pytest.approx(mean_pairwise_distance(images) * 0.75 * 64 / 63, rel=0.1)
    with pytest.raises(ValueError, match=r"^features holds 1 points; it must hold at least 2$"):
        mean_pairwise_distance(images[:1])


def test_overfitting_score():
    train, generated = points(50, 1, 0, 3.0)[:, 0], points(60, 1, 1, -2.0)[:, 0]
    span = train.double().mean() - generated.double().mean()
    for share in (0.0, 0.3, 1.0):
        validation = (train.double().mean() - share * span).repeat(40)
        assert overfitting_score(train, validation, generated) == pytest.approx(share, abs=1e-9)
    assert np.isnan(overfitting_score(torch.ones(3), torch.zeros(3), torch.ones(2)))


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
