import pytest
import torch

from gan_backbones.networks import Discriminator, ResidualDiscriminator, bake
from gan_backbones.training.calibration import fit_platt, rescale


def test_equal_logits_give_the_share_of_real_images():
    scale, shift = fit_platt(torch.full((6,), 2.0), torch.full((2,), 2.0))
    assert scale == pytest.approx(1)
    softened = (6 * 7 / 8 + 2 * 1 / 4) / 8
    assert torch.sigmoid(torch.tensor(2 * scale + shift)).item() == pytest.approx(softened)


@pytest.mark.parametrize("kind", ["none", "batch", "spectral", "residual"])
def test_every_discriminator_can_be_rescaled(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (
            ResidualDiscriminator(4, 1, 16) if kind == "residual" else Discriminator(4, 1, 16, kind)
        ).eval()
    images = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = 3 * network(images) - 0.5
        if kind == "spectral":  # weights that are computed cannot be scaled in place
            with pytest.raises(ValueError, match="norm is 'spectral'; bake it before"):
                rescale(network, 3, -0.5)
            network = bake(network)
        rescale(network, 3, -0.5)
        torch.testing.assert_close(network(images), expected)
