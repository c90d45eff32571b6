import pytest
import torch

from gan_backbones.networks import Classifier, Discriminator, Generator, Judge

SIDES = [16, 32, 64, 128]
FEATURES = 4
OUTPUTS = 7


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(kind, channels=3, image_size=16):
    """A network in evaluation mode whose norm statistics are those of real activations."""
    torch.manual_seed(1)
    arguments = {"features": FEATURES, "channels": channels, "image_size": image_size}
    if kind is Generator:
        network, shape = Generator(latent_dim=5, **arguments), (5,)
    else:
        first = () if kind is Discriminator else (OUTPUTS,)
        network, shape = kind(*first, **arguments), (channels, image_size, image_size)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # average over all batches
    with torch.no_grad():
        network.train()(random(32, *shape))
    return network.eval().requires_grad_(False), shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_generator_makes_images_in_range(side, channels):
    generator, shape = make(Generator, channels, side)
    images = generator(100 * random(3, *shape))
    assert images.shape == (3, channels, side, side)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert images.std() > 0.1  # a constant would be in range too


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_discriminator_gives_one_logit_an_image(side, channels):
    discriminator, shape = make(Discriminator, channels, side)
    for count in (0, 1, 3):
        assert discriminator(random(count, *shape)).shape == (count,)


@pytest.mark.parametrize(("kind", "per_image"), [(Classifier, None), (Judge, 128)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_classifiers_give_logits_and_features(kind, per_image, side, channels):
    network, shape = make(kind, channels, side)
    images = random(3, *shape)
    features = network.features(images)
    # The classifier's last layer sees 4x4 maps, at most four times `features` of them.
    width = per_image or 16 * FEATURES * min(side // 8, 4)
    assert features.shape == (3, width)
    assert network(images).shape == (3, OUTPUTS)
    assert torch.equal(network.head(features), network(images))


@pytest.mark.parametrize("kind", [Generator, Discriminator, Classifier, Judge])
def test_an_output_does_not_depend_on_its_neighbours(kind):
    network, shape = make(kind)
    batch = random(8, *shape)
    together = network(batch)
    alone = torch.cat([network(row[None]) for row in batch])
    neighbours = torch.cat([batch[:1], 10 * random(7, *shape, seed=2)])
    spread = together.std(dim=0).mean()
    assert spread > 1e-3
    assert (together - alone).abs().max() < 1e-4 * spread
    assert (together[0] - network(neighbours)[0]).abs().max() < 1e-4 * spread


@pytest.mark.parametrize("side", [-16, 0, 1, 8, 15, 24, 63, 96])
@pytest.mark.parametrize("kind", [Generator, Discriminator, Classifier, Judge])
def test_other_image_sizes_are_refused(kind, side):
    message = f"^image_size is {side}; it must be a power of two, 16 or more$"
    with pytest.raises(ValueError, match=message):
        make(kind, image_size=side)


@pytest.mark.parametrize("kind", [Discriminator, Classifier, Judge])
def test_images_of_another_size_are_refused(kind):
    network, _ = make(kind, image_size=16)
    with pytest.raises(RuntimeError):
        network(random(2, 3, 32, 32))


@pytest.mark.parametrize("kind", [Generator, Discriminator, Classifier, Judge])
def test_config_rebuilds_the_network(kind):
    network, shape = make(kind, channels=1, image_size=32)
    again = kind(**network.config).eval()
    again.load_state_dict(network.state_dict())
    inputs = random(2, *shape)
    assert torch.equal(network(inputs), again(inputs))


def test_classifier_and_judge_are_of_different_architecture():
    kinds = [
        {type(module) for module in make(kind)[0].modules()} - {kind}
        for kind in (Classifier, Judge)
    ]
    assert torch.nn.BatchNorm2d in kinds[0]
    assert torch.nn.BatchNorm2d not in kinds[1]
