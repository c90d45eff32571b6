"""The conditional variational autoencoder learns: what the label says, and what it does not."""

import pytest
import torch

from gan_backbones.networks import ConditionalVAE
from gan_backbones.training.losses import gaussian_kl, gaussian_reconstruction

SIDE = 16


def bars(count, seed):
    """Images of one bright bar: the label says where it is, but not how bright."""
    rng = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 3, (count,), generator=rng)
    brightness = torch.rand(count, 1, 1, 1, generator=rng)
    columns = torch.arange(SIDE) // 5 == places[:, None]
    images = torch.where(columns[:, None, None, :], brightness, -1.0).expand(-1, 1, SIDE, -1)
    return images.contiguous(), torch.eye(3)[places]


@pytest.fixture(scope="module")
def trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        vae = ConditionalVAE(3, 2, 8, 1, SIDE)
    images, labels = bars(512, seed=0)
    optimizer = torch.optim.Adam(vae.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(400):
        chosen = torch.randint(0, len(images), (64,), generator=rng)
        outputs, mean, log_variance = vae(images[chosen], labels[chosen], rng)
        reconstruction = gaussian_reconstruction(images[chosen], outputs, 0.3)
        loss = (reconstruction + gaussian_kl(mean, log_variance)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vae.eval().requires_grad_(False)


def test_at_first_the_label_counts_as_much_as_the_latent():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = ConditionalVAE(10, 32, 8, 1, SIDE).decoder.layers[0].requires_grad_(False)
        latents = torch.randn(200, 32)
    of_latents = torch.cat([latents, torch.zeros(200, 10)], dim=1)
    of_labels = torch.cat([torch.zeros(10, 32), torch.eye(10)], dim=1)
    by_latents, by_labels = (
        first(inputs[:, :, None, None]).square().mean() for inputs in (of_latents, of_labels)
    )
    assert 0.5 < by_labels / by_latents < 2


def test_it_reconstructs_unseen_images(trained):
    images, labels = bars(64, seed=1)
    outputs, mean, log_variance = trained(images, labels)
    assert (outputs - images).square().mean() < 0.05 * images.var()
    assert gaussian_kl(mean, log_variance).mean() > 0.5  # the latent is in use


def test_any_latent_is_decoded_to_what_the_label_says(trained):
    latents = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for place in range(3):
        images = trained.decoder(latents, torch.eye(3)[place].expand(50, -1))
        columns = images.mean(dim=(1, 2))
        parts = torch.stack([columns[:, 5 * i : 5 * i + 5].mean(dim=1) for i in range(3)], dim=1)
        assert (parts.argmax(dim=1) == place).all()
        assert parts[:, place].std() > 0.1  # the latent says how bright
