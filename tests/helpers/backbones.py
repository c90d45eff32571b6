"""A backbone small enough for tests, with random but lively networks."""

import torch

from gan_backbones import AttributeSchema, Backbone
from gan_backbones.networks import (
    Classifier,
    ConditionalGenerator,
    Discriminator,
    Generator,
    Judge,
)

SCHEMA = AttributeSchema(
    {"hair": ["bob", "bun", "fro"], "hairColor": ["a55728", "2c1b18"], "glasses": ["none", "round"]}
)
LATENT_DIM = 8


def tiny_backbone(channels: int = 3) -> Backbone:
    """16x16 images; every variant of every attribute is seen in a fair share of them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        generator = Generator(LATENT_DIM, 4, channels, 16).eval()
        for parameter in generator.parameters():
            if parameter.ndim == 4:
                parameter.mul_(12)  # DCGAN's initial weights make grey images
        discriminator = Discriminator(4, channels, 16)
        images = generator(torch.randn(500, LATENT_DIM))
        logits = discriminator(images)
        discriminator.layers[-1].weight.div_(logits.std())
        discriminator.layers[-1].bias.sub_(logits.mean() / logits.std())
        networks = [kind(SCHEMA.size, 4, channels, 16).eval() for kind in (Classifier, Judge)]
        for network in networks:
            logits = network(images)
            network.head.bias.sub_(logits.mean(dim=0))
            network.head.weight.mul_(3 / logits.std(dim=0)[:, None])
            network.head.bias.mul_(3 / logits.std(dim=0))
    return Backbone(
        generator, LATENT_DIM, discriminator, networks[0], networks[1], SCHEMA, {"name": "tiny"}
    )


def conditional_backbone() -> Backbone:
    """The tiny backbone's judges round a conditional generator."""
    tiny = tiny_backbone()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        generator = ConditionalGenerator(LATENT_DIM, SCHEMA.size, 4, 3, 16)
        for parameter in generator.parameters():
            if parameter.ndim == 4:
                parameter.mul_(12)
    return Backbone(generator, LATENT_DIM, tiny.discriminator, tiny.classifier, tiny.judge, SCHEMA)
