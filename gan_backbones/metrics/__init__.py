"""How good generated images are, in the feature space of any network.

Distances and shares of feature tensors ``[N, F]``; extractors that make features of images; LPIPS;
what the discriminator takes for real; and the figures behind a training's alarms.
"""

from gan_backbones.metrics.confusion import QUANTILES, discriminator_confusion, output_quantiles
from gan_backbones.metrics.diagnostics import mean_pairwise_distance, overfitting_score, saturation
from gan_backbones.metrics.feature_extractors import (
    classifier_features,
    inception_features,
    vgg16_features,
)
from gan_backbones.metrics.features import batched
from gan_backbones.metrics.frechet import fd_classifier, fd_vgg16, fid, frechet_distance
from gan_backbones.metrics.imagenet import imagenet_weights
from gan_backbones.metrics.kid import kid, kid_subsets
from gan_backbones.metrics.lpips import load_lpips, lpips_distances, lpips_diversity
from gan_backbones.metrics.precision_recall import precision_recall
from gan_backbones.metrics.pretrained_weights import WeightsError

__all__ = [
    "QUANTILES",
    "WeightsError",
    "batched",
    "classifier_features",
    "discriminator_confusion",
    "fd_classifier",
    "fd_vgg16",
    "fid",
    "frechet_distance",
    "imagenet_weights",
    "inception_features",
    "kid",
    "kid_subsets",
    "load_lpips",
    "lpips_distances",
    "lpips_diversity",
    "mean_pairwise_distance",
    "output_quantiles",
    "overfitting_score",
    "precision_recall",
    "saturation",
    "vgg16_features",
]
