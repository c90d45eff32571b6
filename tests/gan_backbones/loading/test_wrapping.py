import functools
import pickle
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from foreign import DIGITS, LATENT_DIM, VAE, ConvClassifier, ConvGenerator, latents, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gan_backbones
import latentgym  # noqa: F401  (registers the environments)
from gan_backbones import AttributeSchema, BackboneError, check_backbone, wrap
from gan_backbones.loading.wrapping import to_images, to_values

LATENTS = latents()
COLUMN = (LATENT_DIM, 1, 1)
FLAT = dict(latent_dim=LATENT_DIM, image_shape=(1, 8, 8), value_range=(0, 1))


@pytest.fixture
def generator():
    return seeded(ConvGenerator, nn.Tanh())


@pytest.fixture
def wrapped(generator):
    """A backbone with all networks, none of ours."""
    discriminator = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(4, 1, 4)))
    return wrap(
        generator,
        LATENT_DIM,
        latent_shape=COLUMN,
        discriminator=discriminator,
        classifier=seeded(ConvClassifier),
        judge=seeded(ConvClassifier, seed=1),
        schema=DIGITS,
        name="foreign",
    )


def eval_of(network, inputs):
    with torch.no_grad():
        return network.eval()(inputs)


# Using it -----------------------------------------------------------------------------------------


def test_five_lines_make_an_environment():
    my_generator, my_classifier = seeded(VAE).decode, seeded(nn.Linear, 64, 3)
    backbone = wrap(
        my_generator,
        latent_dim=LATENT_DIM,
        value_range=(0, 1),
        image_shape=(1, 8, 8),
        classifier=nn.Sequential(nn.Flatten(), my_classifier),
        schema=DIGITS,
    )
    env = gym.make("LatentEdit-v0", backbone=backbone, target={"digit": "two"}, realism_weight=0)
    env.reset(seed=0)
    for action in range(6):
        observation, reward, *_, info = env.step(action)
        assert observation in env.observation_space and np.isfinite(reward)
    assert info["rewards"]["realism"] == 0
    check_backbone(backbone)


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"directions": "sefa"}], ids=str)
def test_an_environment_of_foreign_networks_runs(wrapped, options):
    check_backbone(wrapped)
    env = gym.make_vec("LatentEdit-v0", num_envs=3, backbone=wrapped, **options)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(5):
        _, rewards, *_ = env.step(env.action_space.sample())
        assert np.isfinite(rewards).all() and rewards.any()


def test_what_a_reward_needs_and_the_backbone_lacks_is_said_at_make(generator):
    arguments = dict(latent_dim=LATENT_DIM, latent_shape=COLUMN)
    with pytest.raises(ValueError, match=r"needs: pass classifier=\.\.\. and schema=\.\.\. to gan"):
        gym.make("LatentEdit-v0", backbone=wrap(generator, **arguments), realism_weight=0)
    backbone = wrap(generator, **arguments, classifier=seeded(ConvClassifier), schema=DIGITS)
    with pytest.raises(ValueError, match=r"or pass realism_weight=0 \(gan_backbones.wrap takes di"):
        gym.make("LatentEdit-v0", backbone=backbone)


def test_a_registered_factory(generator, monkeypatch):
    monkeypatch.setattr(gan_backbones.registry, "_factories", {})
    gan_backbones.register("foreign", lambda: wrap(generator, LATENT_DIM, latent_shape=COLUMN))
    assert repr(gan_backbones.load("foreign")) == "<Backbone unnamed: generator; latent_dim 6>"


def test_name_card_and_schema(generator):
    make = functools.partial(wrap, generator, LATENT_DIM, latent_shape=COLUMN)
    assert make().card == {} and make().schema is None
    assert make(name="a", card={"licence": "MIT"}).card == {"name": "a", "licence": "MIT"}
    assert make(schema=DIGITS).schema == make(schema=AttributeSchema(DIGITS)).schema


def test_a_wrapped_backbone_can_be_pickled_but_not_saved(wrapped, tmp_path):
    again = pickle.loads(pickle.dumps(wrapped))
    assert torch.equal(again.generator(LATENTS), wrapped.generator(LATENTS))
    check_backbone(again)
    with pytest.raises(BackboneError, match="the generator is a WrappedGenerator, which is no gen"):
        wrapped.save(tmp_path / "wrapped.safetensors")


# Value ranges -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value_range", [(-1, 1), (0, 1), (0, 255), (1, 3)], ids=str)
def test_images_of_any_value_range(value_range):
    low, high = value_range
    unit = seeded(ConvGenerator, nn.Sigmoid()).eval()
    seen = []

    def my_generator(z):
        return low + (high - low) * unit(z)

    def my_discriminator(images):
        seen.append(images)
        return images.mean(dim=(1, 2, 3))

    backbone = wrap(
        my_generator,
        LATENT_DIM,
        latent_shape=COLUMN,
        value_range=value_range,
        discriminator=my_discriminator,
    )
    images = backbone.generator(LATENTS)
    made = unit(LATENTS.reshape(-1, *COLUMN))
    torch.testing.assert_close(images, 2 * made - 1, rtol=0, atol=1e-6)
    assert images.min() < -0.5 and images.max() > 0.5
    values = my_generator(LATENTS.reshape(-1, *COLUMN))
    backbone.discriminator(images)  # gets them as the generator makes them
    torch.testing.assert_close(seen[-1], values, rtol=0, atol=1e-6 * (high - low))
    if value_range == (-1, 1):
        assert torch.equal(images, values) and torch.equal(seen[-1], values)


FINITE = functools.partial(st.floats, allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FINITE(-1, 1), min_size=1), FINITE(-300, 300), FINITE(0.5, 600))
def test_value_ranges_map_back_and_forth(pixels, low, width):
    images, value_range = torch.tensor(pixels), (low, low + width)
    values = to_values(images, value_range)
    rounding = 1e-6 * (abs(low) + width)  # float32, at the size of the values
    assert values.min() >= low - rounding and values.max() <= low + width + rounding
    back = to_images(values, value_range)
    torch.testing.assert_close(back, images, rtol=0, atol=4 * rounding / width)
    assert back.abs().max() <= 1


@given(FINITE(-300, 300), FINITE(0.5, 600), FINITE(0.0625, 1000))
def test_values_outside_the_range_are_clamped(low, width, beyond):
    high = low + width
    values = torch.tensor([low - beyond, low, (low + high) / 2, high, high + beyond])
    expected = torch.tensor([-1.0, -1.0, 0.0, 1.0, 1.0])
    images = to_images(values, (low, high))
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5 * (abs(low) + width) / width)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float16])
def test_images_of_any_dtype(dtype):
    vae = seeded(VAE).eval()
    backbone = wrap(
        lambda z: (vae.decode(z) * 255).to(dtype),
        LATENT_DIM,
        image_shape=(1, 8, 8),
        value_range=(0, 255),
    )
    check_backbone(backbone)
    expected = vae.decode(LATENTS).reshape(-1, 1, 8, 8) * 2 - 1
    torch.testing.assert_close(backbone.generator(LATENTS), expected, rtol=0, atol=0.02)


# Shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.flatten(1), lambda x: x.squeeze(1)])
def test_outputs_are_reshaped_to_images(form, channels):
    layer = seeded(nn.Linear, LATENT_DIM, channels * 20)
    backbone = wrap(
        lambda z: form(layer(z).tanh().reshape(-1, channels, 4, 5)),
        LATENT_DIM,
        image_shape=(channels, 4, 5),
    )
    images = backbone.generator(LATENTS)
    assert torch.equal(images, layer(LATENTS).tanh().reshape(-1, channels, 4, 5))


def test_images_reach_the_networks_contiguous(generator):
    def channels_last(z):
        return eval_of(generator, z).contiguous(memory_format=torch.channels_last)

    classifier = nn.Sequential(nn.Identity(), seeded(ConvClassifier))
    flat = seeded(nn.Linear, 192, 1)
    backbone = wrap(
        channels_last,
        LATENT_DIM,
        latent_shape=COLUMN,
        classifier=classifier,
        discriminator=lambda images: flat(images.view(-1, 192)),
        schema=DIGITS,
    )
    check_backbone(backbone)


@pytest.mark.parametrize("shape", [COLUMN, (2, 3), (1, 2, 3), (LATENT_DIM,)], ids=str)
def test_latents_of_any_shape(shape):
    shapes = []

    def my_generator(z):
        shapes.append(tuple(z.shape))
        return z.reshape(-1, 1, 2, 3).tanh()

    backbone = wrap(my_generator, LATENT_DIM, latent_shape=shape)
    backbone.generator(LATENTS)
    assert shapes[-1] == (5, *shape)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 1, 1, 1)], ids=str)
def test_realism_of_any_shape(generator, shape):
    layer = seeded(nn.Linear, 192, 1)
    discriminator = nn.Sequential(nn.Flatten(), layer, nn.Unflatten(1, shape[1:] or (1,)))
    backbone = wrap(generator, LATENT_DIM, latent_shape=COLUMN, discriminator=discriminator)
    images = backbone.generator(LATENTS)
    expected = layer(images.flatten(1))[:, 0]
    torch.testing.assert_close(backbone.discriminator(images), expected)
    assert backbone.discriminator(images[:0]).shape == (0,)


def test_realism_as_a_probability(generator):
    logits = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))
    make = functools.partial(wrap, generator, LATENT_DIM, latent_shape=COLUMN)
    backbone = make(
        discriminator=nn.Sequential(logits, nn.Sigmoid()), discriminator_output="probability"
    )
    images = 0.1 * backbone.generator(LATENTS)
    expected = logits(images)[:, 0]
    torch.testing.assert_close(backbone.discriminator(images), expected, rtol=1e-4, atol=1e-4)
    for certain in (0.0, 1.0):
        backbone = make(
            discriminator=lambda x, p=certain: torch.full((len(x),), p),
            discriminator_output="probability",
        )
        assert 10 < backbone.discriminator(images).abs().max() < 20


def test_attribute_logits_of_a_convolution(generator):
    classifier = seeded(nn.Conv2d, 3, 3, 8)
    backbone = wrap(
        generator, LATENT_DIM, latent_shape=COLUMN, classifier=classifier, schema=DIGITS
    )
    images = backbone.generator(LATENTS)
    assert torch.equal(backbone.classifier(images), classifier(images)[:, :, 0, 0])
    assert backbone.classifier(images[:0]).shape == (0, 3)


# Kinds of networks --------------------------------------------------------------------------------


def test_a_method_brings_its_module():
    vae = seeded(VAE)
    backbone = wrap(vae.decode, **FLAT)
    assert vae.training and all(p.requires_grad for p in vae.parameters())
    assert {id(p) for p in backbone.generator.parameters()}.isdisjoint(map(id, vae.parameters()))
    assert not backbone.generator.network.owner.training
    check_backbone(backbone)
    before = backbone.generator(LATENTS)
    with torch.no_grad():
        vae.decoder[0].weight.add_(1)
    assert torch.equal(backbone.generator(LATENTS), before)
    assert next(backbone.to("meta").generator.parameters()).device.type == "meta"


def test_a_callable_that_cannot_be_copied():
    class Locked:
        def __init__(self):
            self.lock, self.vae = threading.Lock(), seeded(VAE).eval()

        def __call__(self, z):
            with self.lock:
                return self.vae.decode(z)

    check_backbone(wrap(Locked(), **FLAT))


def test_torchscript_is_a_module_like_others(generator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script = torch.jit.script(generator.train())
    backbone = wrap(script, LATENT_DIM, latent_shape=COLUMN)
    assert script.training and all(p.requires_grad for p in script.parameters())
    expected = eval_of(generator, LATENTS.reshape(-1, *COLUMN))
    torch.testing.assert_close(backbone.generator(LATENTS), expected)
    check_backbone(backbone)


def test_modules_stay_as_they_are(generator):
    classifier = seeded(lambda: nn.Sequential(ConvClassifier(), nn.Dropout()))
    state = {k: v.clone() for k, v in generator.state_dict().items()}
    random_state = torch.get_rng_state()
    backbone = wrap(
        generator, LATENT_DIM, latent_shape=COLUMN, classifier=classifier, schema=DIGITS
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    for network in (generator, classifier):
        assert all(module.training for module in network.modules())
        assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(v, state[k]) for k, v in generator.state_dict().items())
    before = backbone.generator(LATENTS)
    generator(LATENTS.reshape(-1, *COLUMN)).mean().backward()  # training goes on
    with torch.no_grad():
        generator.main[0].weight.add_(1)
    assert torch.equal(backbone.generator(LATENTS), before)
    check_backbone(backbone)


@pytest.mark.parametrize(
    "norm",
    [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm],
    ids=["hook", "parametrization"],
)
def test_a_discriminator_in_the_midst_of_training(generator, norm):
    discriminator = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 1))
    )
    norm(discriminator[0])
    made = generator(LATENTS.reshape(-1, *COLUMN))
    discriminator(made).mean().backward()  # leaves a computed weight behind
    backbone = wrap(generator, LATENT_DIM, latent_shape=COLUMN, discriminator=discriminator)
    check_backbone(backbone)
    images = backbone.generator(LATENTS)
    expected = eval_of(discriminator, images)[:, 0]
    torch.testing.assert_close(backbone.discriminator(images), expected)


# Errors -------------------------------------------------------------------------------------------


def tuple_of(network):
    return lambda inputs: (network(inputs),)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is 0; expected a positive int"),
        ({"latent_dim": "6"}, "latent_dim is '6'; expected a positive int"),
        ({"latent_dim": True}, "latent_dim is True; expected a positive int"),
        (
            {"latent_shape": (5, 1, 1)},
            "latent_shape is (5, 1, 1); its product must be latent_dim, 6",
        ),
        ({"latent_shape": 6}, "latent_shape is 6; expected a tuple of positive ints"),
        ({"image_shape": (3, 0, 8)}, "image_shape is (3, 0, 8); expected a tuple of positive ints"),
        (
            {"value_range": (1, 0)},
            "value_range is (1, 0); expected (black, white), as (-1, 1), (0, 1) or (0, 255)",
        ),
        ({"value_range": 255}, "value_range is 255; expected (black, white), as "),
        ({"value_range": (0, float("nan"))}, "value_range is (0, nan); expected (black, white)"),
        ({"value_range": (0, "1")}, "value_range is (0, '1'); expected (black, white)"),
        (
            {"discriminator_output": "odds"},
            "discriminator_output is 'odds'; allowed: logit, probability",
        ),
        ({"schema": [1, 2]}, "schema is [1, 2]; expected a dict of attribute to variants"),
        ({"schema": {"digit": []}}, "attribute 'digit' has no variants"),
        ({"generator": 5}, "generator is 5; expected an nn.Module or a callable"),
        ({"judge": "j.onnx"}, "judge is 'j.onnx'; expected an nn.Module or a callable"),
        (
            {"latent_shape": None},
            "the generator fails on inputs of shape (2, 6): Expected 3D (unbatched) or 4D (batched",
        ),
        (
            {"latent_shape": None, "generator": lambda z: z},
            "the generator returns shape (2, 6); expected (2, C, H, W) with C 1 or 3 "
            "(with latent_shape=(6,), image_shape=None)",
        ),
        (
            {"image_shape": (1, 8, 8)},
            "the generator fails on inputs of shape (2, 6): shape '[2, 1, 8, 8]' is invalid for ",
        ),
        ({"image_shape": (192,)}, "the generator returns shape (2, 192); expected (2, C, H, W)"),
        ({"image_shape": (4, 6, 8)}, "the generator returns shape (2, 4, 6, 8); expected (2, C, H"),
        (
            {"generator": tuple_of(lambda z: z)},
            "the generator fails on inputs of shape (2, 6): it returns a tuple; expected a tensor",
        ),
        (
            {"generator": lambda z: z.reshape(-1, 1, 2, 3) * float("nan")},
            "the generator returns values that are not finite",
        ),
        (
            {"generator": lambda z: z.reshape(-1, 1, 2, 3).sigmoid() * 255},
            "value_range is (-1, 1), but the generator's images have mean 1",
        ),
        (
            {"generator": lambda z: z.reshape(-1, 1, 2, 3) * 0 - 0.5, "value_range": (0, 1)},
            "value_range is (0, 1), but the generator's images have mean -0.5",
        ),
        (
            {"classifier": ConvClassifier()},
            "the classifier has no schema; expected one that names its outputs",
        ),
        (
            {"classifier": ConvClassifier(4), "schema": DIGITS},
            "the classifier returns shape (2, 4); expected (2, 3), as the schema has 3 variants",
        ),
        (
            {"judge": ConvClassifier(2), "schema": DIGITS},
            "the judge returns shape (2, 2); expected (2, 3), as the schema has 3 variants",
        ),
        (
            {"discriminator": nn.Conv2d(3, 1, 4)},
            "the discriminator fails on inputs of shape (2, 3, 8, 8): shape '[2]' is invalid for i",
        ),
        (
            {"discriminator": nn.Linear(192, 1)},
            "the discriminator fails on inputs of shape (2, 3, 8, 8): ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments(generator, arguments, message):
    defaults = dict(generator=generator, latent_dim=LATENT_DIM, latent_shape=COLUMN)
    with pytest.raises(ValueError) as caught:
        wrap(**{**defaults, **arguments})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_cause_of_a_failure_is_kept():
    def broken(z):
        raise KeyError("my own bug")

    with pytest.raises(BackboneError, match="my own bug") as caught:
        wrap(broken, LATENT_DIM)
    assert isinstance(caught.value.__cause__, KeyError)
