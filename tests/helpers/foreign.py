"""Networks as people outside this package write them, tiny and random but lively."""

import torch
from torch import nn

LATENT_DIM = 6
DIGITS = {"digit": ["one", "two", "three"]}


class ConvGenerator(nn.Module):
    """Latents ``[N, 6, 1, 1]`` to images ``[N, 3, 8, 8]``; in the manner of many DCGANs."""

    def __init__(self, last: nn.Module):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(LATENT_DIM, 8, 4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            last,
        )

    def forward(self, z):
        return self.main(z)


class ConvClassifier(nn.Module):
    """Images ``[N, 3, 8, 8]`` to ``[N, outputs]``, with a `.view` that needs contiguous ones."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.fc = nn.Linear(64, outputs)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).view(-1, 64))


class VAE(nn.Module):
    """Its `decode` maps latents ``[N, 6]`` to flat grey images ``[N, 64]`` in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 2 * LATENT_DIM)
        self.decoder = nn.Sequential(
            nn.Linear(LATENT_DIM, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64)
        )

    def decode(self, z):
        return torch.sigmoid(self.decoder(z))


def seeded(make, *args, seed: int = 0):
    """``make(*args)`` with weights of ``seed``, three times as large; global state untouched."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = make(*args)
        for parameter in network.parameters():
            parameter.mul_(3)
    return network


def latents(count: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, LATENT_DIM, generator=torch.Generator().manual_seed(seed))
