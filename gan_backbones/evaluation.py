"""The figures of a backbone, on images that none of its networks has seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gan_backbones.backbone import Backbone
from gan_backbones.datasets.cartoon_set import to_float
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.metrics import (
    QUANTILES,
    batched,
    classifier_features,
    discriminator_confusion,
    frechet_distance,
    kid,
    output_quantiles,
    precision_recall,
)
from gan_backbones.networks import ConditionalGenerator
from gan_backbones.schema import AttributeSchema
from gan_backbones.training.classifiers import predict_attributes
from gan_backbones.utils.devices import plain_mode

NEIGHBOURS = 5
"""Which nearest neighbour precision and recall reach to, given more images than that."""

WEAK = 0.5
"""Share of the way from chance to 100 % below which an accuracy counts as weak."""


def evaluate_backbone(
    backbone: Backbone, images: torch.Tensor, labels: torch.Tensor | None, seed: int = 0
) -> dict[str, Any]:
    """Compare as many generated images with held-out real ones.

    Args:
        backbone: with generator and discriminator, and with a schema, classifier and judge;
            without a schema only the discriminator's figures are there.
        images: held-out real images, uint8 ``[N, C, H, W]``, N at least 2.
        labels: their variant indices, int64 ``[N, A]``, if there is a schema. A conditional
            generator makes one image under each.
        seed: seed of the N latents.

    Returns:
        Plain JSON data: ``classifier_accuracy`` and ``judge_accuracy`` on the real images (mean
        over attributes), ``classifier_accuracies`` and ``judge_accuracies`` by attribute;
        ``chance`` by attribute: the share of its most common variant, which is the accuracy of
        always naming that one; ``weak_attributes`` of each of the two: see
        :func:`find_weak_attributes`; ``agreement`` of the two on generated images;
        ``lowest_share``: over all variants, the smallest ratio of a variant's share among
        generated images (as the judge sees them) to its share in the data, and which variant;
        in the judge's features: Fréchet distance ``fd_classifier``, ``kid_classifier`` (of all
        points), k-NN ``precision`` and ``recall`` with ``neighbours`` (5, or fewer where there are
        fewer images), comparable only between backbones of one judge and equally many images;
        the discriminator's probability quantiles, and its confusion
        matrix and rates as :func:`gan_backbones.metrics.discriminator_confusion` has them; of
        a conditional generator also ``label_accuracy``: how often the judge sees what was asked
        for.

    Raises:
        ValueError: fewer than 2 images, or a seed out of range.
    """
    if len(images) < 2:
        raise ValueError(f"images has {len(images)} images; at least 2 are needed")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; allowed: a whole number at least 0 and below 2**64")
    with plain_mode():
        return _evaluate(backbone, images, labels, seed)


def find_weak_attributes(accuracies: dict[str, float], chance: dict[str, float]) -> list[str]:
    """Return the attributes that a classifier hardly recognizes.

    Its accuracy there is less than half of the way from chance to 100 %.

    Args:
        accuracies: share of right answers by attribute.
        chance: share of right answers of always naming the most common variant, by attribute.
    """
    return [
        name
        for name, accuracy in accuracies.items()
        if chance[name] < 1 and accuracy - chance[name] < WEAK * (1 - chance[name])
    ]


def _evaluate(
    backbone: Backbone, images: torch.Tensor, labels: torch.Tensor | None, seed: int
) -> dict[str, Any]:
    schema = backbone.schema
    latents = draw_latents(len(images), backbone.latent_dim, seed)
    generated = generate(backbone.generator, latents, labels, schema)

    def real(network):
        return batched(lambda batch: network(to_float(batch)), images)

    realism_real = real(backbone.discriminator)
    assert backbone.discriminator is not None
    realism_generated = batched(backbone.discriminator, generated)
    realism = {
        "realism_quantiles": {
            "at": list(QUANTILES),
            "real": _quantiles(realism_real),
            "generated": _quantiles(realism_generated),
        },
        "discriminator": {
            name: figure if name == "matrix" else round(figure, 4)
            for name, figure in discriminator_confusion(realism_real, realism_generated).items()
        },
    }
    if schema is None or labels is None:
        return {"images": len(images), **realism}
    seen_real = {
        role: predict_attributes(real(getattr(backbone, role)), schema)
        for role in ("classifier", "judge")
    }
    seen_generated = {
        role: predict_attributes(batched(getattr(backbone, role), generated), schema)
        for role in ("classifier", "judge")
    }
    accuracies = {
        role: dict(zip(schema.names, _shares(seen.eq(labels)), strict=True))
        for role, seen in seen_real.items()
    }
    commonest = labels.eq(labels.mode(dim=0).values).double()
    chance = dict(zip(schema.names, _shares(commonest), strict=True))
    agreement = (seen_generated["classifier"] == seen_generated["judge"]).double()
    ratios = _share_ratios(seen_generated["judge"], labels, schema)
    rarest = min(ratios, key=lambda name: ratios[name])
    judge_features = classifier_features(backbone.judge)
    features = judge_features(images), judge_features(generated)
    neighbours = min(NEIGHBOURS, len(images) - 1)
    precision, recall = precision_recall(*features, k=neighbours)
    conditional = {}
    if isinstance(backbone.generator, ConditionalGenerator):
        matches = seen_generated["judge"].eq(labels).double().mean()
        conditional["label_accuracy"] = round(matches.item(), 4)
    return {
        "images": len(images),
        **conditional,
        "classifier_accuracy": _mean(accuracies["classifier"]),
        "judge_accuracy": _mean(accuracies["judge"]),
        "classifier_accuracies": accuracies["classifier"],
        "judge_accuracies": accuracies["judge"],
        "chance": chance,
        "weak_attributes": {
            role: find_weak_attributes(found, chance) for role, found in accuracies.items()
        },
        "agreement": round(agreement.mean().item(), 4),
        "agreement_by_attribute": dict(zip(schema.names, _shares(agreement), strict=True)),
        "lowest_share": {"variant": rarest, "ratio": ratios[rarest]},
        "fd_classifier": _significant(frechet_distance(*features)),
        "kid_classifier": _significant(kid(*features)),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "neighbours": neighbours,
        **realism,
    }


def generate(
    generator: nn.Module,
    latents: torch.Tensor,
    labels: torch.Tensor | None = None,
    schema: AttributeSchema | None = None,
) -> torch.Tensor:
    """Images of ``latents``, in batches; of a conditional generator under a label each.

    Args:
        generator: latents to images.
        latents: ``[N, latent_dim]``.
        labels: variant indices int64 ``[N, A]``; ignored unless the generator is conditional.
        schema: of the labels.
    """
    if not isinstance(generator, ConditionalGenerator) or schema is None or labels is None:
        return batched(generator, latents)
    one_hot = torch.from_numpy(schema.encode_indices(labels.numpy()))
    split = latents.shape[1]
    both = torch.cat([latents, one_hot], dim=1)
    return batched(lambda rows: generator(rows[:, :split], rows[:, split:]), both)


def _share_ratios(generated: torch.Tensor, real: torch.Tensor, schema) -> dict[str, float]:
    ratios = {}
    for position, (name, variants) in enumerate(schema.variants.items()):
        for index, variant in enumerate(variants):
            in_data = (real[:, position] == index).double().mean().item()
            in_generated = (generated[:, position] == index).double().mean().item()
            if in_data > 0:
                ratios[f"{name}={variant}"] = round(in_generated / in_data, 3)
    return ratios


def _shares(matches: torch.Tensor) -> list[float]:
    return [round(share, 4) for share in matches.double().mean(dim=0).tolist()]


def _mean(by_attribute: dict[str, float]) -> float:
    return round(sum(by_attribute.values()) / len(by_attribute), 4)


def _quantiles(logits: torch.Tensor) -> list[float]:
    return [round(quantile, 4) for quantile in output_quantiles(logits)]


def _significant(figure: float) -> float:
    """To five digits: the scale is the judge's own."""
    return float(f"{figure:.5g}")
