import copy
from functools import partial

import pytest
import torch
from backbones import LATENT_DIM, tiny_backbone
from torch import nn

from gan_backbones.networks import (
    ConditionalGenerator,
    Discriminator,
    Generator,
    ResidualDiscriminator,
    ResidualGenerator,
)
from gan_backbones.networks.inference import fold

ROLES = ("generator", "discriminator", "classifier", "judge")


def settled(network):
    """``network`` with the batch norm statistics of a trained one."""
    rng = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=rng)
                module.bias.data.normal_(0, 0.3, generator=rng)
    return network.eval()


def norms(network):
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def compare(network, inputs):
    """Fold; check that outputs agree and that ``network`` is as it was; return the folded one."""
    state, kinds = copy.deepcopy(network.state_dict()), [type(m) for m in network.modules()]
    folded = fold(network)
    with torch.no_grad():
        expected, outputs = network(inputs), folded(inputs)
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4)
    assert outputs.std() > 1e-2
    assert kinds == [type(m) for m in network.modules()]
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert not any(p.requires_grad for p in folded.parameters()) and not folded.training
    own = {p.data_ptr() for p in network.parameters()}
    assert own.isdisjoint(p.data_ptr() for p in folded.parameters())
    return folded


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("role", ROLES)
def test_folded_networks_of_a_backbone_say_the_same(role, channels):
    backbone = tiny_backbone(channels)
    network = settled(getattr(backbone, role))
    inputs = torch.randn(20, LATENT_DIM, generator=torch.Generator().manual_seed(0))
    if role != "generator":
        inputs = backbone.generator(inputs)
    assert bool(norms(network)) == (role in ("generator", "classifier"))
    assert not norms(compare(network, inputs))


OWN = {
    "upconv": partial(Generator, 6, upsampling="upconv"),
    "residual generator": partial(ResidualGenerator, 6),
    "conditional generator": partial(ConditionalGenerator, 6, 3),
    "batch norm": partial(Discriminator, norm="batch"),
    "spectral norm": partial(Discriminator, norm="spectral"),
    "residual discriminator": ResidualDiscriminator,
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OWN)
def test_folded_networks_of_other_kinds_say_the_same(name, channels):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = OWN[name](features=4, channels=channels, image_size=32)
        for parameter in network.parameters():
            if parameter.ndim == 4 and name != "spectral norm":
                nn.init.kaiming_normal_(parameter)  # lively, and no branch is zero
    if name == "conditional generator":
        network.label[1] = 1
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    if isinstance(network, (Discriminator, ResidualDiscriminator)):
        inputs = 100 * torch.randn(20, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    folded = compare(settled(network), inputs)
    assert not norms(folded)
    assert not any(hasattr(module, "parametrizations") for module in folded.modules())
    weights = [p for p in folded.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_a_trainable_network_stays_trainable():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    fold(network)
    assert network.training and all(p.requires_grad for p in network.parameters())


class Reversed(nn.Sequential):
    def forward(self, x):
        for layer in reversed(self):
            x = layer(x)
        return x


def spectral():
    layer = nn.Conv2d(3, 3, 3, padding=1)
    return nn.utils.spectral_norm(layer), nn.utils.parametrizations.spectral_norm(
        copy.deepcopy(nn.Conv2d(3, 3, 3))
    )


@pytest.mark.parametrize(
    ("network", "left"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), 0),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)), 0),
        (nn.Sequential(nn.ConvTranspose2d(3, 5, 3, 2), nn.BatchNorm2d(5, affine=False)), 0),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), 1),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.ReLU(), nn.BatchNorm2d(5)), 2),
        (
            nn.Sequential(  # the inner one moves up a place when the outer one is folded
                nn.Conv2d(3, 3, 3),
                nn.BatchNorm2d(3),
                nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
                nn.Sequential(nn.Conv2d(4, 3, 3), nn.Sequential(nn.BatchNorm2d(3))),
            ),
            1,
        ),
        (Reversed(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), 2),
        (nn.Sequential(*(spectral()[:1]), nn.BatchNorm2d(3)), 1),
        (nn.Sequential(*(spectral()[1:]), nn.BatchNorm2d(3)), 1),
        (nn.Sequential(), 0),
    ],
    ids=lambda value: None,
)
def test_any_other_network_says_the_same(network, left):
    inputs = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert len(norms(compare(settled(network), inputs))) == left


def test_a_layer_used_twice_is_folded_where_it_stands():
    layer, norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
    inputs = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    compare(settled(nn.Sequential(layer, norm, nn.ReLU(), layer, layer, norm)), inputs)


class UsesPlaces(nn.Module):
    """Takes its layers by place, and flattens with `.view`, which wants contiguous activations."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3)
        )

    def forward(self, x):
        y = self.layers[:3](x)
        return torch.cat([y.view(len(x), -1), self.layers[3](y).view(len(x), -1)], dim=1)


def test_layers_keep_their_places_and_other_peoples_activations_their_layout():
    inputs = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert not norms(compare(settled(UsesPlaces()), inputs))


@pytest.mark.parametrize("role", ROLES)
def test_our_own_networks_are_laid_out_for_speed(role):
    folded = fold(getattr(tiny_backbone(), role))
    weights = [p for p in folded.parameters() if p.ndim == 4 and min(p.shape) > 1]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


def test_a_network_that_has_just_been_trained():
    network = nn.Sequential(spectral()[0], nn.BatchNorm2d(3))
    inputs = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    network(inputs).mean().backward()  # leaves a computed weight, which deepcopy refuses
    compare(network.eval(), inputs)
