import copy
import dataclasses
import random
import threading

import numpy as np
import pytest
import torch
from backbones import SCHEMA, tiny_backbone
from torch import nn
from torch.nn import functional as F

import gan_backbones
from gan_backbones import AttributeSchema, BackboneError, check_backbone


@pytest.fixture
def backbone():
    return tiny_backbone()


class Around(nn.Module):
    """The network between a change of its inputs and a change of its outputs."""

    def __init__(self, network, after=lambda y: y, before=lambda x: x):
        super().__init__()
        self.network, self.after, self.before = network, after, before

    def forward(self, x):
        return self.after(self.network(self.before(x)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tiny_backbone_passes(channels, seed):
    check_backbone(tiny_backbone(channels), seed)


def test_the_shipped_backbone_passes():
    check_backbone(gan_backbones.load("cartoon-faces"))


def test_a_generator_alone_passes(backbone):
    check_backbone(
        dataclasses.replace(backbone, discriminator=None, classifier=None, judge=None, schema=None)
    )


def test_nothing_is_changed(backbone):
    states = {r: copy.deepcopy(n.state_dict()) for r, n in backbone.networks.items()}
    random_state = torch.get_rng_state()
    check_backbone(backbone)
    assert torch.equal(torch.get_rng_state(), random_state)
    for role, network in backbone.networks.items():
        torch.testing.assert_close(network.state_dict(), states[role], rtol=0, atol=0)


# Each rule, broken --------------------------------------------------------------------------------


def replaced(role, change):
    """A way to break a backbone: ``change`` makes another network of the one that has ``role``."""

    def break_it(backbone):
        setattr(backbone, role, change(getattr(backbone, role)).requires_grad_(False).eval())

    return break_it


def after(role, change):
    return replaced(role, lambda network: Around(network, after=change))


def changed(**values):
    def break_it(backbone):
        vars(backbone).update(values)

    return break_it


def in_training_mode(backbone):
    backbone.generator.layers[1].train()


def trainable(backbone):
    backbone.judge.head.bias.requires_grad_(True)


def batch_statistics(x):
    """Batch norm as in training mode, which it is not in."""
    return F.batch_norm(x, None, None, training=True)


class MinibatchDeviation(nn.Module):
    """As in the discriminators of ProGAN and StyleGAN, where a group is the whole batch."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images) + images.std(dim=0, correction=0).mean()


class SeesItsPosition(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + 0.1 * (torch.arange(len(x)) > 8)[:, None]


class Counts(nn.Module):
    """Keeps running statistics, as batch norm in training mode."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen += len(x)
        return self.network(x)


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self, network):
        super().__init__()
        self.network, self.lock = network, threading.Lock()

    def forward(self, x):
        return self.network(x)


class ForgetsCopies(Counts):
    """Its copies are not as it is."""

    def __deepcopy__(self, memo):
        return Around(copy.deepcopy(self.network, memo), lambda y: 0.9 * y)

    def forward(self, x):
        return self.network(x)


def reseeding(images):
    torch.manual_seed(0)  # makes the noise deterministic, and everything else as well
    return (images + 0.1 * torch.randn_like(images[:1])).clamp(-1, 1)


def drawing(library):
    def draw(logits):
        library()
        return logits

    return draw


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (changed(latent_dim=0), "latent_dim is 0; expected a positive int"),
        (changed(latent_dim=8.0), "latent_dim is 8.0; expected a positive int"),
        (
            changed(latent_dim=9),
            "the generator fails on inputs of shape (16, 9): ",
        ),
        (
            changed(schema=None),
            "the classifier has no schema; expected one that names its outputs",
        ),
        (
            changed(schema=None, classifier=None),
            "the judge has no schema; expected one that names its outputs",
        ),
        (
            changed(schema=AttributeSchema({**SCHEMA.variants, "beard": ["no", "yes"]})),
            "the classifier returns shape (16, 7); expected (16, 9), as the schema has 9 variants",
        ),
        (
            after("judge", lambda logits: logits[:, :5]),
            "the judge returns shape (16, 5); expected (16, 7), as the schema has 7 variants",
        ),
        (
            in_training_mode,
            "the generator is in training mode (layers.1); expected evaluation mode: call .eval()",
        ),
        (
            lambda backbone: backbone.discriminator.train(),
            "the discriminator is in training mode (itself); expected evaluation mode: call .e",
        ),
        (
            trainable,
            "the judge has parameters that require gradients (head.bias); expected none: call .re",
        ),
        (
            after("generator", lambda images: (images,)),
            "the generator returns a tuple; expected a tensor",
        ),
        (
            after("generator", lambda images: images[0]),
            "the generator returns shape (3, 16, 16); expected (16, C, H, W) with C 1 or 3",
        ),
        (
            after("generator", lambda images: images[:, :2]),
            "the generator returns shape (16, 2, 16, 16); expected (16, C, H, W) with C 1 or 3",
        ),
        (
            after("generator", lambda images: images.permute(0, 2, 3, 1)),
            "the generator returns shape (16, 16, 16, 3); expected (16, C, H, W) with C 1 or 3",
        ),
        (
            after("discriminator", lambda logits: logits[:, None]),
            "the discriminator returns shape (16, 1); expected (16,)",
        ),
        (
            after("generator", torch.Tensor.double),
            "the generator returns torch.float64; expected torch.float32",
        ),
        (
            after("classifier", torch.Tensor.bfloat16),
            "the classifier returns torch.bfloat16; expected torch.float32",
        ),
        (
            after("generator", lambda images: images.sign() * 127.5 + 127.5),
            "the generator returns values from 0 to 255; expected -1 to 1",
        ),
        (
            after("generator", lambda images: images.log()),
            "the generator returns values that are not finite",
        ),
        (
            after("discriminator", lambda logits: logits / 0),
            "the discriminator returns values that are not finite",
        ),
        (
            after("generator", lambda images: (images + torch.rand_like(images)).clamp(-1, 1)),
            "the generator is not deterministic: outputs of the same inputs lie ",
        ),
        (
            after("classifier", lambda logits: F.dropout(logits, training=True)),
            "the classifier is not deterministic: outputs of the same inputs lie ",
        ),
        (
            replaced("discriminator", MinibatchDeviation),
            "the discriminator depends on the rest of the batch: outputs of inputs in a smal",
        ),
        (
            replaced("classifier", SeesItsPosition),
            "the classifier depends on the rest of the batch: outputs of inputs in reverse ord",
        ),
        (
            after("classifier", batch_statistics),
            "the classifier depends on the rest of the batch: outputs of inputs in a smaller bat",
        ),
        (
            after("judge", lambda logits: logits - logits.mean() * (len(logits) == 1)),
            "the judge depends on the rest of the batch: outputs of inputs alone lie ",
        ),
        (
            after("discriminator", lambda logits: logits.reshape(-1, 4).flatten()[: len(logits)]),
            "the discriminator fails on inputs of shape (5, 3, 16, 16): shape '[-1, 4]' is invalid",
        ),
        (
            after("generator", torch.zeros_like),
            "the generator makes the same image of different latents: 16 lie 0 apart; expected mo",
        ),
        (
            replaced("generator", lambda net: Around(net, before=lambda z: z.mul_(0.5))),
            "the generator changes its inputs in place",
        ),
        (
            replaced("judge", lambda net: Around(net, before=lambda images: images.neg_())),
            "the judge changes its inputs in place",
        ),
        (
            replaced("discriminator", Counts),
            "the discriminator changes its own seen as it runs; expected no change",
        ),
        (
            after("generator", reseeding),
            "the generator changes the global random state of torch; expected no change",
        ),
        (
            after("discriminator", drawing(random.random)),
            "the discriminator changes the global random state of random; expected no change",
        ),
        (
            after("judge", drawing(np.random.rand)),
            "the judge changes the global random state of numpy; expected no change",
        ),
        (replaced("classifier", Locked), "the classifier cannot be copied: cannot pickle '_thread"),
        (
            replaced("generator", ForgetsCopies),
            "the generator does not survive copying: outputs of a copy lie ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_rule(backbone, break_it, message):
    break_it(backbone)
    with pytest.raises(BackboneError) as caught:
        check_backbone(backbone)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def shifted_alone(by):
    return after("discriminator", lambda logits: logits + by * (len(logits) == 1))


def test_distances_are_told_beside_what_is_allowed(backbone):
    shifted_alone(3.0)(backbone)
    found = r"the discriminator .*alone lie 3 apart; expected at most 0\.000\d+"
    with pytest.raises(BackboneError, match=found):
        check_backbone(backbone)


def test_rounding_is_tolerated(backbone):
    shifted_alone(3e-5)(backbone)
    check_backbone(backbone)


def test_a_backbone_without_values(backbone):
    with pytest.raises(BackboneError, match="the generator is on the meta device, which holds no"):
        check_backbone(backbone.to("meta"))
