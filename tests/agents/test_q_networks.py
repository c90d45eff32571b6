import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.networks import NoisyLinear, QNetwork

FLAT = spaces.Box(-1, 1, (3,))


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


def test_dueling_heads_add_up():
    network = QNetwork(FLAT, 4, (8,), dueling=True)
    rows = torch.randn(5, 3)
    hidden = torch.relu(network.body[0](rows))
    values, advantages = network.value(hidden), network.advantage(hidden)
    found = network(rows)
    torch.testing.assert_close(found.mean(dim=1), values.squeeze(1))
    torch.testing.assert_close(found - found[:, :1], advantages - advantages[:, :1])


@pytest.mark.parametrize("shape", [(40, 150, 1), (64, 64, 3), (3, 64, 64), (8, 9, 4), (16, 16, 3)])
def test_images_of_many_shapes(shape):
    network = QNetwork(image(*shape), 4, (8,))
    pixels = torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    assert network(pixels).shape == (5, 4)
    assert not torch.equal(network(pixels), network(255 - pixels))


def test_channels_first_and_last_are_the_same():
    last, first = QNetwork(image(16, 20, 3), 4, (8,)), QNetwork(image(3, 16, 20), 4, (8,))
    first.load_state_dict(last.state_dict())
    pixels = torch.randint(0, 256, (5, 16, 20, 3), dtype=torch.uint8)
    torch.testing.assert_close(first(pixels.permute(0, 3, 1, 2)), last(pixels))


def test_pixels_are_scaled_and_centred():
    network = QNetwork(image(16, 16, 1), 4, ())
    seen = []
    network.features[0].layers.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(torch.full((1, 16, 16, 1), 51, dtype=torch.uint8))
    torch.testing.assert_close(seen[0], torch.full((1, 1, 16, 16), -0.3))


def test_images_that_are_too_small():
    with pytest.raises(ValueError) as caught:
        QNetwork(image(7, 64, 3), 4, (8,))
    assert str(caught.value) == "images are 7 x 64 pixels; they must be at least 8 x 8"


def test_each_key_of_a_dict_counts():
    parts = {"image": image(8, 8, 3), "flat": FLAT, "with.dot": spaces.Box(0, 9, (2,), np.int64)}
    network = QNetwork(spaces.Dict(parts), 4, (16,))
    rows = {
        "image": torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        "flat": torch.zeros(2, 3),
        "with.dot": torch.zeros(2, 2, dtype=torch.int64),
    }
    before = network(rows)
    assert torch.equal(before[0], before[1])
    for key, value in rows.items():
        changed = network({**rows, key: torch.stack([value[0], value[1] + 1])})
        assert torch.equal(changed[0], before[0])
        assert not torch.equal(changed[1], before[1])


def test_the_mean_and_variance_of_noise():
    layer, rng = NoisyLinear(3, 2), torch.Generator().manual_seed(0)
    row = torch.tensor([[1.0, -2.0, 0.5]])
    with torch.no_grad():
        layer.weight_sigma.copy_(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.0, 0.2]]))
        layer.bias_sigma.copy_(torch.tensor([0.5, 0.1]))
        quiet = layer(row)
        torch.testing.assert_close(quiet, row @ layer.weight.T + layer.bias)
        drawn = []
        for _ in range(20_000):
            layer.draw_noise(rng)
            drawn.append(layer(row)[0])
        layer.draw_noise(None)
        torch.testing.assert_close(layer(row), quiet)
    drawn = torch.stack(drawn)
    # f(x) = sign(x) sqrt(|x|) of a normal x has mean 0 and variance E|x| = sqrt(2 / pi).
    c = (2 / np.pi) ** 0.5
    variance = c * (c * (layer.weight_sigma**2) @ (row[0] ** 2) + layer.bias_sigma**2)
    torch.testing.assert_close(drawn.mean(dim=0), quiet[0], atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), variance, atol=0, rtol=0.06)


def test_noise_begins_as_the_paper_has_it():
    layer = NoisyLinear(16, 5)
    assert (layer.weight_sigma == 0.125).all()
    assert (layer.bias_sigma == 0.125).all()
    assert layer.weight.abs().max() <= 0.25
    assert layer.weight.abs().max() > 0.2


@pytest.mark.parametrize("dueling", [False, True])
def test_all_linear_layers_are_noisy(dueling):
    network = QNetwork(FLAT, 4, (8, 8), dueling, noisy=True)
    noisy = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert len(noisy) == 3 + dueling
    assert all(isinstance(layer, NoisyLinear) for layer in noisy)
    rows = torch.randn(5, 3)
    first = network(rows)
    network.draw_noise(torch.Generator().manual_seed(0))
    second = network(rows)
    network.draw_noise(torch.Generator().manual_seed(1))
    assert not torch.equal(first, second)
    assert not torch.equal(second, network(rows))
    network.draw_noise(None)
    assert torch.equal(first, network(rows))
