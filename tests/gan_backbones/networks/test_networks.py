import copy
import math
from functools import partial

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import interpolate

from gan_backbones.networks import (
    Classifier,
    ConditionalGenerator,
    ConditionalVAE,
    Discriminator,
    Generator,
    Judge,
    ResidualDiscriminator,
    ResidualGenerator,
    bake,
    cost,
    reparametrise,
)
from gan_backbones.networks.inference import fold

SIDES = [16, 32, 64, 128]
FEATURES = 4
OUTPUTS = 7


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENT_DIM = 5
UpconvGenerator = partial(Generator, upsampling="upconv")
BatchDiscriminator = partial(Discriminator, norm="batch")
SpectralDiscriminator = partial(Discriminator, norm="spectral")
GENERATORS = [
    partial(kind, LATENT_DIM) for kind in (Generator, UpconvGenerator, ResidualGenerator)
] + [partial(ConditionalGenerator, LATENT_DIM, OUTPUTS)]
DISCRIMINATORS = [
    partial(kind)
    for kind in (Discriminator, BatchDiscriminator, SpectralDiscriminator, ResidualDiscriminator)
]
CLASSIFIERS = [partial(Classifier, OUTPUTS), partial(Judge, OUTPUTS)]
NETWORKS = [*GENERATORS, *DISCRIMINATORS, *CLASSIFIERS]


def describe(kind):
    return kind.func.__name__ + "".join(f" {value}" for value in kind.keywords.values())


def each(kinds):
    return pytest.mark.parametrize("kind", kinds, ids=map(describe, kinds))


def make(kind, channels=3, image_size=16):
    """A network in evaluation mode whose norm statistics are those of real activations."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        network = kind(features=FEATURES, channels=channels, image_size=image_size)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # average over all batches
        if isinstance(network, ConditionalGenerator):
            network.label[2] = 1
        shape = (LATENT_DIM,) if kind in GENERATORS else (channels, image_size, image_size)
        network.train()(random(32, *shape))
    return network.eval().requires_grad_(False), shape


@each(GENERATORS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_generators_make_images_in_range(kind, side, channels):
    generator, shape = make(kind, channels, side)
    images = generator(100 * random(3, *shape))
    assert images.shape == (3, channels, side, side)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert images.std() > 0.05  # a constant would be in range too


@each(DISCRIMINATORS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_discriminators_give_one_logit_an_image(kind, side, channels):
    discriminator, shape = make(kind, channels, side)
    for count in (0, 1, 3):
        assert discriminator(random(count, *shape)).shape == (count,)


@each(DISCRIMINATORS)
def test_logits_come_of_feature_maps(kind):
    discriminator, shape = make(kind, 3, 64)
    images = random(5, *shape)
    maps = discriminator.feature_maps(images)
    sides = [m.shape[-1] for m in maps]
    residual = isinstance(discriminator, ResidualDiscriminator)
    assert sides == [64, 32, 16, 8, 4][0 if residual else 1 :]
    assert [m.shape[1] for m in maps][-4:] == [4, 8, 16, 32]
    for network in (discriminator, fold(discriminator)):  # in the latter, activations are in place
        maps = network.feature_maps(images)
        before = [m.clone() for m in maps]
        torch.testing.assert_close(network.logits(maps), discriminator(images))
        assert all(map(torch.equal, maps, before))


@pytest.mark.parametrize(
    ("kind", "per_image"),
    [(CLASSIFIERS[0], None), (CLASSIFIERS[1], 128)],
    ids=["Classifier", "Judge"],
)
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


@each(NETWORKS)
def test_an_output_does_not_depend_on_its_neighbours(kind):
    network, shape = make(kind)
    batch = random(8, *shape)
    together = network(batch)
    alone = torch.cat([network(row[None]) for row in batch])
    neighbours = torch.cat([batch[:1], 10 * random(7, *shape, seed=2)])
    spread = together.std(dim=0).mean()
    assert spread > (1e-6 if kind.keywords.get("norm") == "spectral" else 1e-3)
    assert (together - alone).abs().max() < 1e-4 * spread
    assert (together[0] - network(neighbours)[0]).abs().max() < 1e-4 * spread


@pytest.mark.parametrize("side", [-16, 0, 1, 8, 15, 24, 63, 96])
@each(NETWORKS)
def test_other_image_sizes_are_refused(kind, side):
    message = f"^image_size is {side}; it must be a power of two, 16 or more$"
    with pytest.raises(ValueError, match=message):
        make(kind, image_size=side)


@each([*DISCRIMINATORS, *CLASSIFIERS])
def test_images_of_another_size_are_refused(kind):
    network, _ = make(kind, image_size=16)
    with pytest.raises(RuntimeError):
        network(random(2, 3, 32, 32))


@each(NETWORKS)
def test_config_rebuilds_the_network(kind):
    network, shape = make(kind, channels=1, image_size=32)
    again = type(network)(**network.config).eval()
    again.load_state_dict(network.state_dict())
    inputs = random(2, *shape)
    assert torch.equal(network(inputs), again(inputs))


def test_classifier_and_judge_are_of_different_architecture():
    kinds = [{type(module) for module in make(kind)[0].modules()} for kind in CLASSIFIERS]
    assert torch.nn.BatchNorm2d in kinds[0]
    assert torch.nn.BatchNorm2d not in kinds[1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (partial(Generator, upsampling="up"), "upsampling is 'up'; allowed: transposed, upconv"),
        (partial(Discriminator, norm="layer"), "norm is 'layer'; allowed: none, batch, spectral"),
    ],
)
def test_other_variants_are_refused(kind, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind()


# Upsampling ---------------------------------------------------------------------------------------


def checkerboard(generator):
    """How unlike an image's four sub-lattices are, on average over latents."""
    images = generator(random(400, LATENT_DIM))[..., 16:48, 16:48]  # away from the border
    mean = images.mean(dim=(0, 1))
    lattices = torch.stack([mean[y::2, x::2].mean() for y in (0, 1) for x in (0, 1)])
    return lattices.std() / images.std()


def test_upconv_treats_all_pixels_alike():
    """Interior pixels of one layer: doubled input, 3x3 filter; no lattice gets more overlaps."""
    transposed, upconv = (make(kind, 1, 64)[0] for kind in GENERATORS[:2])
    assert checkerboard(upconv) < 0.1 * checkerboard(transposed)


# Normalisation ------------------------------------------------------------------------------------


def test_batch_norm_is_between_first_and_last_layer():
    layers = make(BatchDiscriminator, 3, 64)[0].layers
    kinds = [type(layer).__name__ for layer in layers]
    block = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds == ["Conv2d", "LeakyReLU", *(3 * block), "Conv2d"]


def test_spectral_norm_holds_each_layers_largest_singular_value_at_one():
    discriminator, shape = make(DISCRIMINATORS[2], 3, 64)
    with torch.no_grad():
        discriminator.train()
        for _ in range(50):  # a step of the power iteration each
            discriminator(random(1, *shape))
    for layer in bake(discriminator).layers:
        if isinstance(layer, torch.nn.Conv2d):
            largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
            assert abs(largest - 1) < 0.02


def test_spectral_norm_bounds_the_slope():
    """Each layer's operator norm is at most that of its kernel matrix times its overlap, 2."""
    discriminator, shape = make(DISCRIMINATORS[2], 3, 32)
    images = random(64, *shape).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images)
    assert 0 < slope.flatten(1).norm(dim=1).max() < 2 ** (len(discriminator.layers) // 2)


@pytest.mark.parametrize("training", [False, True])
def test_bake_gives_plain_weights_and_leaves_the_network_as_it_is(training):
    discriminator, shape = make(DISCRIMINATORS[2], 3, 32)
    images = random(4, *shape)
    expected = discriminator(images)
    discriminator.train(training)
    state = copy.deepcopy(discriminator.state_dict())
    baked = bake(discriminator)
    torch.testing.assert_close(discriminator.state_dict(), state, rtol=0, atol=0)
    assert baked.training == training
    assert torch.equal(baked(images), expected)
    assert baked.config == {**discriminator.config, "norm": "none"}
    assert baked.state_dict().keys() == Discriminator(**baked.config).state_dict().keys()
    assert all(parameter.requires_grad for parameter in baked.parameters())
    discriminator(images)  # still works, and is still normalised
    assert discriminator.layers[0].weight.data_ptr() != baked.layers[0].weight.data_ptr()


@each([kind for kind in NETWORKS if kind.keywords.get("norm") != "spectral"])
def test_bake_returns_others_as_they_are(kind):
    network, _ = make(kind)
    assert bake(network) is network


# The residual pair --------------------------------------------------------------------------------


@each([GENERATORS[2], DISCRIMINATORS[3]])
@pytest.mark.parametrize("side", [32, 128])
def test_activations_keep_their_scale_without_normalisation(kind, side):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(features=32, image_size=side)
    assert not any("Norm" in type(module).__name__ for module in network.modules())
    if kind is GENERATORS[2]:
        inputs = random(64, LATENT_DIM)
    else:  # smooth as images are: white noise is averaged away
        inputs = interpolate(random(64, 3, 4, 4), size=side, mode="bilinear")
    assert 0.1 < network.train()(inputs).std() < 3


def test_residual_generator_is_clamped_in_evaluation_only():
    generator, shape = make(GENERATORS[2])
    latents = 30 * random(3, *shape)
    free = generator.train()(latents)
    assert free.abs().max() > 1
    assert torch.equal(generator.eval()(latents), free.clamp(-1, 1))


# The conditional variational autoencoder ----------------------------------------------------------


def make_vae(channels=1, image_size=16):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalVAE(OUTPUTS, LATENT_DIM, FEATURES, channels, image_size)


def one_hot(*indices):
    return torch.eye(OUTPUTS)[list(indices)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", SIDES)
def test_autoencoder_shapes(side, channels):
    vae = make_vae(channels, side)
    images = random(3, channels, side, side)
    outputs, mean, log_variance = vae(images, one_hot(0, 1, 2), torch.Generator())
    assert outputs.shape == images.shape
    assert mean.shape == log_variance.shape == (3, LATENT_DIM)
    again = ConditionalVAE(**vae.config)
    again.load_state_dict(vae.state_dict())
    assert isinstance(again.decoder, ConditionalGenerator)


def test_encoder_and_decoder_heed_the_label():
    vae = make_vae().eval()
    images, latents = random(1, 1, 16, 16), random(1, LATENT_DIM)
    means = [vae.encode(images, one_hot(i))[0] for i in range(2)]
    assert (means[0] - means[1]).abs().max() > 1e-3
    pictures = [vae.decoder(latents, one_hot(i)) for i in range(2)]
    assert (pictures[0] - pictures[1]).abs().max() > 1e-6


def test_the_label_held_fixed_is_that_of_all_images():
    generator, shape = make(GENERATORS[3])
    latents = random(4, *shape)
    generator.label.copy_(one_hot(3)[0])
    assert torch.equal(generator(latents), generator(latents, one_hot(3, 3, 3, 3)))
    assert not torch.equal(generator(latents), generator(latents, one_hot(3, 1, 3, 3)))
    again = ConditionalGenerator(**generator.config).eval()
    again.load_state_dict(generator.state_dict())
    assert torch.equal(again(latents), generator(latents))


def test_reparametrisation_draws_from_the_gaussian_it_is_given():
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(9)]])
    count = 20_000
    rng = torch.Generator().manual_seed(0)
    draws = reparametrise(mean.expand(count, -1), log_variance.expand(count, -1), rng)
    torch.testing.assert_close(draws.mean(dim=0), mean[0], atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), torch.tensor([1.0, 3.0]), atol=0, rtol=0.03)

    def draw(mean, log_variance):
        return reparametrise(mean, log_variance, torch.Generator().manual_seed(0))

    assert torch.equal(draw(mean, log_variance), draw(mean, log_variance))
    assert gradcheck(draw, [x.double().requires_grad_() for x in (mean, log_variance)])


def test_only_the_draw_needs_a_random_generator():
    vae = make_vae().eval()
    images, labels, state = random(2, 1, 16, 16), one_hot(0, 4), torch.get_rng_state()
    mean = vae.encode(images, labels)[0]
    assert torch.equal(vae(images, labels)[0], vae.decoder(mean, labels))
    drawn = vae(images, labels, torch.Generator().manual_seed(0))[0]
    assert not torch.equal(drawn, vae(images, labels)[0])
    assert torch.equal(torch.get_rng_state(), state)


# Cost ---------------------------------------------------------------------------------------------


def test_cost_by_hand():
    """16 pixels, 4 features: 8 and 4 pixels a side are left after the two layers."""
    convolutions = 16 * 3 * 4, 16 * 4 * 8, 16 * 8  # kernel 4x4, channels in and out
    plain = cost(Discriminator(4, 3, 16))
    assert plain.parameters == sum(convolutions) + 4 + 8 + 1
    multiply_adds = convolutions[0] * 8**2 + convolutions[1] * 4**2 + convolutions[2]
    assert plain.multiply_adds == multiply_adds
    assert cost(Discriminator(4, 3, 16, "spectral")) == plain
    batch = cost(Discriminator(4, 3, 16, "batch"))
    assert batch.multiply_adds == multiply_adds
    assert batch.parameters == plain.parameters - 8 + 2 * 8  # no bias; scale and shift

    # A transposed convolution multiplies each input with the whole kernel.
    first = 16 * 5 * 8
    transposed = cost(Generator(5, 4, 3, 16))
    assert transposed.multiply_adds == first + 16 * 8 * 4 * 4**2 + 16 * 4 * 3 * 8**2
    assert transposed.parameters == first + 16 * 8 * 4 + 16 * 4 * 3 + 3 + 2 * (8 + 4)
    upconv = cost(Generator(5, 4, 3, 16, "upconv"))
    assert upconv.multiply_adds == first + 9 * 8 * 4 * 8**2 + 9 * 4 * 3 * 16**2
    assert upconv.parameters == first + 9 * 8 * 4 + 9 * 4 * 3 + 3 + 2 * (8 + 4)

    # Encoder like the discriminator's first two layers, of a grey image; two linear layers; the
    # code's prior mean, for encoder and decoder; decoder like the generator with the label beside
    # the code.
    vae = cost(ConditionalVAE(7, 5, 4, 1, 16))
    encoder = 16 * 4 * 8**2 + 16 * 4 * 8 * 4**2
    linear = (16 * 8 + 7) * 16 + 16 * 10
    decoder = 16 * (5 + 7) * 8 + 16 * 8 * 4 * 4**2 + 16 * 4 * 8**2
    prior_mean = 7 * 16 + 16 * 5
    assert vae.multiply_adds == encoder + linear + 2 * prior_mean + decoder


def test_cost_of_a_residual_network():
    block = 2 * 9 * 2 * 1, 2 * 9 * 4 * 2, 2 * 9 * 8 * 4  # two 3x3 convolutions to half the width
    between = 2 * 4, 4 * 8  # 1x1 convolutions, at the smaller side
    sides = 16**2, 8**2, 4**2
    expected = 9 * 3 * 2 * sides[0] + 16 * 8  # first and last layer
    expected += sum(b * s for b, s in zip(block, sides, strict=True))
    assert cost(ResidualDiscriminator(4, 3, 16)).multiply_adds == expected + sum(
        b * s for b, s in zip(between, sides[1:], strict=True)
    )


@each(NETWORKS)
def test_cost_changes_nothing_and_reads_as_a_line(kind):
    network, _ = make(kind)
    state = copy.deepcopy(network.state_dict())
    network.train()
    counted = cost(network)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert network.training
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    expected = f"{counted.parameters:,} parameters, {counted.multiply_adds / 1e6:,.1f}M "
    assert str(counted) == expected + "multiply-adds"
