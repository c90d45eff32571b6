"""Fréchet distance of two sets of features; FID is this in Inception's features.

Only :func:`fid`, with the standard weights, is a Fréchet inception distance. Distances in other
networks' features have those networks' names and scales of their own.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from gan_backbones.metrics.feature_extractors import (
    FULL_RANK,
    Extractor,
    classifier_features,
    inception_features,
    vgg16_features,
)
from gan_backbones.metrics.features import checked_features


def frechet_distance(real: torch.Tensor, generated: torch.Tensor) -> float:
    """Squared Fréchet distance of two Gaussians with the sets' means and covariances.

    ``|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))`` (Dowson & Landau 1982; Heusel et al. 2017, whose
    FID is this in one certain network's features). With a set's centred rows ``X / sqrt(N - 1) = Q
    R``, ``S = R^T R``, and the square roots of the eigenvalues of ``S1 S2`` are the singular values
    of ``R1 R2^T``: real and not negative by construction, so no matrix root and no complex numbers.

    A set of no more points than features has a singular covariance. The distance stays defined and
    exact, and costs less; but as an estimate it is biased upwards, by about 1 / N. Compare only
    distances of equally many images, and of few images rather :func:`kid`.

    Args:
        real: features ``[N, F]``, N at least 2; float64 inside.
        generated: features ``[M, F]``.

    Returns:
        The distance, 0 or more; the same with the sets exchanged.

    Raises:
        ValueError: sets of the wrong shape or with values that are not finite.
    """
    real, generated = checked_features(real, generated)
    offset = real.mean(dim=0) - generated.mean(dim=0)
    roots = [_covariance_root(features) for features in (real, generated)]
    spread = sum(root.square().sum() for root in roots)
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    # Rounding can take the distance of equal sets below 0.
    return max((offset.square().sum() + spread - 2 * overlap).item(), 0.0)


def _covariance_root(features: torch.Tensor) -> torch.Tensor:
    """A matrix ``R`` of at most F rows whose ``R^T R`` is the covariance of ``features``."""
    centred = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    if len(features) <= features.shape[1]:
        return centred
    return torch.linalg.qr(centred, mode="r").R


def fd_classifier(real: torch.Tensor, generated: torch.Tensor, network: nn.Module) -> float:
    """Fréchet distance in the features of our own ``network``. Not FID.

    Args:
        real: images ``[N, C, H, W]``, float32 in [-1, 1] or uint8.
        generated: images ``[M, C, H, W]``, of the same kind.
        network: as in :func:`classifier_features`.

    Raises:
        ValueError: as :func:`gan_backbones.metrics.frechet_distance`.
    """
    return _distance(classifier_features(network), real, generated)


def fd_vgg16(
    real: torch.Tensor, generated: torch.Tensor, weights: str | Path | None = None
) -> float:
    """Fréchet distance in VGG16's features. Not FID.

    Args:
        real: images ``[N, C, H, W]``, float32 in [-1, 1] or uint8.
        generated: images ``[M, C, H, W]``, of the same kind.
        weights: as in :func:`vgg16_features`.

    Raises:
        WeightsError: as :func:`vgg16_features`.
        ValueError: as :func:`gan_backbones.metrics.frechet_distance`.
    """
    return _distance(vgg16_features(weights), real, generated)


def fid(real: torch.Tensor, generated: torch.Tensor, weights: str | Path | None = None) -> float:
    """Fréchet inception distance (Heusel et al. 2017), with the standard weights or not at all.

    The bias falls with the number of images: state it, and compare only equal numbers. Below 2048
    the covariances lack full rank, and a warning says so.

    Args:
        real: images ``[N, C, H, W]``, float32 in [-1, 1] or uint8; compared after rounding to
            uint8, as files would be. Grey ones are made RGB.
        generated: images ``[M, C, H, W]``, of the same kind.
        weights: as in :func:`inception_features`.

    Raises:
        WeightsError: as :func:`inception_features`.
        ModuleNotFoundError: torch-fidelity is not installed.
        ValueError: as :func:`gan_backbones.metrics.frechet_distance`.
    """
    features = inception_features(weights)
    fewest = min(len(real), len(generated))
    if fewest < FULL_RANK:
        warnings.warn(
            f"FID of {fewest} images is biased far upwards; {FULL_RANK} are the least, "
            "50,000 the custom",
            stacklevel=2,
        )
    return _distance(features, real, generated)


def _distance(features: Extractor, real: torch.Tensor, generated: torch.Tensor) -> float:
    return frechet_distance(features(real), features(generated))
