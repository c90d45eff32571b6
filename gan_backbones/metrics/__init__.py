"""How good generated images are, in the feature space of any network."""

from gan_backbones.metrics.alarms import mean_pairwise_distance, overfitting_score, saturation
from gan_backbones.metrics.confusion import QUANTILES, discriminator_confusion, output_quantiles
from gan_backbones.metrics.distances import frechet_distance, kid, kid_subsets
from gan_backbones.metrics.features import batched
from gan_backbones.metrics.neighbours import precision_recall

__all__ = [
    "QUANTILES",
    "batched",
    "discriminator_confusion",
    "frechet_distance",
    "kid",
    "kid_subsets",
    "mean_pairwise_distance",
    "output_quantiles",
    "overfitting_score",
    "precision_recall",
    "saturation",
]
