"""The networks of a backbone: generator, discriminator, attribute classifier and judge.

Every network works on square images whose side is a power of two from 16 pixels up, and has its
constructor's arguments as ``config``.
"""

from gan_backbones.networks.classifiers import Classifier, Judge
from gan_backbones.networks.cost import Cost, cost
from gan_backbones.networks.cvae import ConditionalGenerator, ConditionalVAE, reparametrise
from gan_backbones.networks.dcgan import Discriminator, Generator, bake
from gan_backbones.networks.residual import ResidualDiscriminator, ResidualGenerator

KINDS = {
    "generator": (Generator, ResidualGenerator, ConditionalGenerator),
    "discriminator": (Discriminator, ResidualDiscriminator),
    "classifier": (Classifier, Judge),
    "judge": (Classifier, Judge),
}
"""Which classes a backbone file may hold, by role."""

__all__ = [
    "KINDS",
    "Classifier",
    "ConditionalGenerator",
    "ConditionalVAE",
    "Cost",
    "Discriminator",
    "Generator",
    "Judge",
    "ResidualDiscriminator",
    "ResidualGenerator",
    "bake",
    "cost",
    "reparametrise",
]
