import re

import numpy as np
import pytest
import torch

from gan_backbones import AttributeSchema
from gan_backbones.datasets.cartoon_set import to_float
from gan_backbones.networks import Classifier, Judge
from gan_backbones.training import classifiers
from gan_backbones.training.classifiers import (
    _divide,
    _pushed,
    attribute_loss,
    predict_attributes,
    train_classifier,
)

SCHEMA = AttributeSchema({"red": ["little", "some", "much"], "blue": ["little", "much"]})


def colours(count, seed=0):
    """16x16 images of one noisy colour, and what it is."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(3, size=count), rng.integers(2, size=count)], axis=1)
    colour = np.stack([labels[:, 0] * 110, rng.integers(256, size=count), labels[:, 1] * 220], 1)
    images = colour[:, :, None, None] + rng.integers(36, size=(count, 3, 16, 16))
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.from_numpy(labels)


def network(kind=Classifier):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(SCHEMA.size, 4, 3, 16)


def trained(kind=Classifier, count=64, **options):
    options = {"updates": 4, "batch_size": 16, "bf16": False, **options}
    return train_classifier(network(kind), *colours(count), SCHEMA, **options)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [Classifier, Judge])
def test_it_learns_colours(kind, bf16):
    classifier = trained(kind, 512, updates=300, learning_rate=1e-2, bf16=bf16)
    assert not classifier.training
    images, labels = colours(200, seed=1)
    with torch.no_grad():
        logits = classifier(to_float(images))
    assert logits.dtype == torch.float32
    assert (predict_attributes(logits, SCHEMA) == labels).double().mean() > 0.97


def test_the_seed_decides():
    def weights(seed):
        return torch.cat([p.flatten() for p in trained(seed=seed).parameters()])

    state = torch.get_rng_state()
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("updates", range(1, 12))
def test_any_number_of_updates(updates):
    before = network().head.weight.detach().clone()
    classifier = trained(updates=updates, batch_size=8)
    assert not torch.equal(classifier.head.weight, before)


@pytest.mark.parametrize("count", [2, 10])
def test_fewer_images_than_a_batch(count):
    trained(count=count, batch_size=64)


def test_one_image_is_refused():
    with pytest.raises(ValueError, match=r"^there are 1 images; training needs at least 2$"):
        trained(count=1)


def test_it_stops_where_accuracy_stops_rising(monkeypatch, capsys):
    monkeypatch.setattr(classifiers, "EVAL_INTERVAL", 10)
    trained(Judge, 64, updates=5000, learning_rate=1e-2)
    done = int(re.search(r"(\d+)/5000 .*accuracy", capsys.readouterr().err).group(1))
    assert 90 <= done < 1000


def test_images_to_measure_with_are_kept_apart_and_fair():
    _, labels = colours(300)
    training, validation = _divide(labels, torch.Generator().manual_seed(0))
    assert len(validation) == 32
    assert sorted([*training.tolist(), *validation.tolist()]) == list(range(300))
    for row in labels.unique(dim=0):
        share = (labels[validation] == row).all(dim=1).sum() / (labels == row).all(dim=1).sum()
        assert 0.05 < share < 0.18


def test_loss_is_the_mean_cross_entropy():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(7, SCHEMA.size, generator=rng)
    _, labels = colours(7)
    expected = 0.0
    for row, (red, blue) in zip(logits.double().numpy(), labels.numpy(), strict=True):
        for part, label in ((row[:3], red), (row[3:], blue)):
            expected -= np.log(np.exp(part[label]) / np.exp(part).sum()) / (7 * 2)
    assert attribute_loss(logits, labels, SCHEMA).item() == pytest.approx(expected, rel=1e-5)


def test_predict_attributes():
    logits = torch.tensor([[0.0, 2.0, 1.0, 5.0, 4.0], [-1.0, -3.0, -2.0, 0.0, 0.1]])
    assert predict_attributes(logits, SCHEMA).tolist() == [[1, 0], [0, 1]]


def test_a_push_goes_uphill_and_no_farther_than_asked():
    classifier, (images, labels) = trained(), colours(32, seed=1)
    images = to_float(images)

    def loss_of(images):
        return attribute_loss(classifier(images), labels, SCHEMA)

    pushed = _pushed(images.clone(), loss_of, 0.5, torch.Generator().manual_seed(0))
    moved = (pushed - images).flatten(1).norm(dim=1)
    assert 0.4 < moved.max() <= 0.5 and moved.min() < 0.1
    assert loss_of(pushed) > loss_of(images)
    assert not pushed.requires_grad


def test_an_adversary_makes_robust():
    """Pushed images of a test set are told better by the one that trained on pushed images."""
    images, labels = colours(200, seed=1)
    accuracy = {}
    for adversary in (0.0, 6.0):
        classifier = trained(count=512, updates=300, learning_rate=1e-2, adversary=adversary)

        def loss_of(images, classifier=classifier):
            return attribute_loss(classifier(images), labels, SCHEMA)

        pushed = _pushed(to_float(images), loss_of, 8.0, torch.Generator().manual_seed(0))
        right = predict_attributes(classifier(pushed), SCHEMA) == labels
        accuracy[adversary] = right.double().mean()
    assert accuracy[6.0] > accuracy[0.0] + 0.05
