"""Networks in whose features image sets are compared."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torchvision.models import vgg16

from gan_backbones.metrics.features import as_float, as_rgb, as_uint8, batched, device_of
from gan_backbones.metrics.imagenet import imagenet_weights
from gan_backbones.metrics.pretrained_weights import check_sha256, find_weights

Extractor = Callable[[torch.Tensor], torch.Tensor]
"""Images ``[N, C, H, W]``, float32 in [-1, 1] or uint8, to features float32 ``[N, F]``."""

INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_ALIAS = "pt_inception-2015-12-05-6726825d.pth"  # the same file, as pytorch-fid calls it
INCEPTION_ADVICE = (
    f"Fetch {INCEPTION} (91 MB, SHA-256 {INCEPTION_SHA256}) from "
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
)
FULL_RANK = 2048
"""Images from which on the covariance of Inception features has full rank."""


def classifier_features(network: Any) -> Extractor:
    """The last layer's inputs of a backbone's judge or classifier: always available.

    Args:
        network: with a method ``features``: a :class:`gan_backbones.networks.Judge` or
            ``Classifier``. It computes where it is, and is put in evaluation mode. Compare only
            distances by the very same network.
    """
    network.eval()
    device = device_of(network)
    return lambda images: batched(
        lambda batch: network.features(as_float(batch.to(device))).cpu(), images
    )


def vgg16_features(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """VGG16's last convolutions (Simonyan & Zisserman 2015), averaged over the image: ``[N, 512]``.

    Images keep their size, 16 pixels or more: enlarging small ones costs a CPU ten times as much.
    Compare only distances of images of equal size.

    Args:
        weights: as in :func:`gan_backbones.metrics.imagenet_weights`.
        device: that computes.

    Raises:
        WeightsError: the ImageNet weights are missing, damaged or others.
    """
    tensors = imagenet_weights("vgg", weights)
    with torch.device("meta"):
        network = vgg16().features[:-1]  # without the last pooling
    network.load_state_dict(tensors, assign=True)
    network = network.to(device).requires_grad_(False).eval()
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float32, device=device)[:, None, None]
    spread = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float32, device=device)[:, None, None]

    def features(batch: torch.Tensor) -> torch.Tensor:
        images = as_rgb(as_float(batch.to(device))) / 2 + 0.5
        return network((images - mean) / spread).mean(dim=(2, 3)).cpu()

    return lambda images: batched(features, images, batch_size=32)


def inception_features(
    weights: str | Path | None = None, device: str | torch.device = "cpu"
) -> Extractor:
    """The pooled features ``[N, 2048]`` of FID's Inception network, through torch-fidelity.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth`` or its folder. By default looked for
            in the folder that the environment variable ``LATENTGYM_WEIGHTS_DIR`` names, then in
            torch's cache. Never downloaded, and never another network's.
        device: that computes.

    Raises:
        WeightsError: the weights are missing or have another hash.
        ModuleNotFoundError: torch-fidelity is not installed; the message says how to get it.
    """
    path = find_weights((INCEPTION_ALIAS, INCEPTION), weights, INCEPTION_ADVICE)
    data = path.read_bytes()
    check_sha256(path, data, INCEPTION_SHA256)
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'FID needs the package torch-fidelity: pip install "latentgym[metrics]"',
            name="torch_fidelity",
        ) from None
    with torch.random.fork_rng(devices=[]):
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=io.BytesIO(data)
        ).to(device)
    return lambda images: batched(
        lambda batch: network(as_rgb(as_uint8(batch)).to(device))[0].cpu(), images, batch_size=32
    )
