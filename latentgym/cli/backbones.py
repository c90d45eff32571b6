"""Commands that make and measure backbones."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from gan_backbones import GANConfig, load
from gan_backbones.cvae_training import CVAEConfig
from gan_backbones.datasets import find_held_out, open_dataset, render_cartoon_faces
from gan_backbones.evaluation import NEIGHBOURS, evaluate_backbone
from gan_backbones.files import check_output_file, write_json
from gan_backbones.networks import cost
from gan_backbones.training import check_output
from gan_backbones.training import train_backbone as run_training
from latentgym.cli.arguments import check_seed


def train_backbone(
    config: Annotated[GANConfig, tyro.conf.arg(name="")],
    kind: Literal["gan", "cvae"] = "gan",
    name: str = "backbone",
    faces: int = 0,
    features: int | None = None,
    scale: float = CVAEConfig.scale,
) -> None:
    """Train a generator, and what judges its images, on a folder of images; write a backbone.

    Images without attributes give generator and discriminator alone. At least ten images are
    needed. After an interrupt, run the same command again to resume.

    Args:
        config: how to train.
        kind: a GAN, or a conditional VAE, which needs attributes. Of the settings of GANs a VAE
            has only widths, latent length, learning rate and penalty.
        name: name of the backbone and its file.
        faces: first render that many cartoon faces into `data`; 0: use what is there.
        features: width of both networks, instead of naming each.
        scale: standard deviation of a pixel given latent and label, for `cvae`. Smaller: sharper
            and more varied images, of which fewer match their label.
    """
    if features is not None:
        if features < 1:
            raise ValueError(f"features is {features}; allowed: a whole number at least 1")
        config = replace(config, generator_features=features, discriminator_features=features)
    chosen = config if kind == "gan" else _cvae_config(config, scale)
    if faces:
        check_output(config, name)
        render_cartoon_faces(config.data, faces, config.seed)
    folder = str(config.data).partition("?")[0]
    card: dict[str, object] = {"data": Path(folder).name, "seed": config.seed}
    origin = Path(folder) / "render.json"
    if origin.exists():
        card["data"] = json.loads(origin.read_text())
    card["command"] = " ".join(["latentgym", *sys.argv[1:]])
    file = run_training(chosen, name, card)
    if not file.exists():  # in all processes but the first
        return
    print(
        f"backbone: {file}\nsamples:  {file.with_suffix('.png')}\nlog:      {file.parent}/log.jsonl"
    )
    backbone = load(file)
    for role, network in backbone.networks.items():
        print(f"{role:24s} {type(network).__name__}, {cost(network)}")
    _print_figures(backbone.card["held_out"])
    _print_warnings(backbone.card.get("warnings", []))


def _cvae_config(config: GANConfig, scale: float) -> CVAEConfig:
    """The settings that a conditional VAE shares with a GAN; others must not have been chosen."""
    names = {field.name for field in fields(CVAEConfig)}
    for field in fields(GANConfig):
        shared = field.name in names or field.name == "generator_features"
        if not shared and getattr(config, field.name) != field.default:
            raise ValueError(
                f"{field.name} is {getattr(config, field.name)!r}; a conditional VAE has no such "
                "setting"
            )
    shared = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return CVAEConfig(**shared, features=config.generator_features, scale=scale)


def benchmark_backbone(
    data: str, backbone: str = "cartoon-faces", out: Path | None = None, seed: int = 0
) -> None:
    """Measure a backbone on held-out images: accuracies, agreement, dropped modes, precision.

    Args:
        data: the images it was trained on; those that its model card names as held out are used.
        backbone: name or path.
        out: also write the figures to this JSON file.
        seed: of the generated images.
    """
    check_seed(seed)
    if out is not None:
        check_output_file(out, ".json")
    loaded = load(backbone)
    config = loaded.discriminator.config
    dataset = open_dataset(data, config["image_size"], config["channels"])
    if dataset.schema != loaded.schema:
        raise ValueError(f"data has {dataset.schema}; the backbone has {loaded.schema}")
    for note in dataset.notes:
        print(note)
    known = sum(loaded.card.get("images", {}).values())
    if known not in (0, len(dataset)):
        print(
            f"warning: data has {len(dataset):,} images, the backbone was made with {known:,}: if "
            "they are the same in part, some may be ones that it was trained with",
            file=sys.stderr,
        )
    rows = find_held_out(dataset, loaded.card)
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[rows])
    figures = evaluate_backbone(loaded, dataset.images(rows), labels, seed)
    _print_figures(figures)
    if out is not None:
        write_json(out, figures)
        print(f"figures: {out}")


def _print_figures(figures: dict) -> None:
    """Print each figure with what it means and which way is better."""
    quantiles = figures["realism_quantiles"]
    discriminator = figures["discriminator"]
    _print_figure("images", figures["images"], "held-out real images, and as many generated ones")
    if "label_accuracy" in figures:
        asked = "generated images that show what was asked for (higher is better)"
        _print_figure("label accuracy", _percent(figures["label_accuracy"]), asked)
    if "judge_accuracy" in figures:
        for role in ("classifier", "judge"):
            accuracy = _percent(figures[f"{role}_accuracy"])
            _print_figure(f"{role} accuracy", accuracy, "on real images (higher is better)")
        agree = "classifier and judge agree on generated images (higher is better)"
        _print_figure("agreement", _percent(figures["agreement"]), agree)
        lowest = figures["lowest_share"]
        share = f"share of {lowest['variant']} in generated images, divided by that in the data"
        _print_figure("rarest variant", f"{lowest['ratio']:.2f}", f"{share} (1 is best)")
        distance = "from real images, in the judge's features; not FID (lower is better)"
        _print_figure("Frechet distance", figures["fd_classifier"], distance)
        distance = "the same, in the form of KID (lower is better, 0 is best)"
        _print_figure("kernel distance", figures["kid_classifier"], distance)
        neighbours = figures.get("neighbours", NEIGHBOURS)
        how = f"by {neighbours} nearest neighbours"
        if neighbours < NEIGHBOURS:
            how += f", too few images for {NEIGHBOURS}"
        real = f"generated images that look real, {how} (higher is better)"
        _print_figure("precision", _percent(figures["precision"]), real)
        covered = "real images that could have been generated (higher is better)"
        _print_figure("recall", _percent(figures["recall"]), covered)
    told = "real and generated images told apart (50 % if they look alike)"
    _print_figure("discriminator accuracy", _percent(discriminator["accuracy"]), told)
    taken = "real images taken for real"
    _print_figure("  real", _percent(discriminator["true_positive_rate"]), taken)
    taken = "generated images taken for generated"
    _print_figure("  generated", _percent(discriminator["true_negative_rate"]), taken)
    print(f"realism (0 to 1) at the quantiles {quantiles['at']}")
    for kind in ("real", "generated"):
        print(f"  {kind:9s} {quantiles[kind]}")
    _print_accuracies(figures)


def _print_figure(label: str, value: object, meaning: str) -> None:
    print(f"{label:24s} {value!s:>10s}   {meaning}")


def _print_accuracies(figures: dict) -> None:
    """Print the accuracy of classifier and judge for each attribute, and warn about weak ones."""
    if "chance" not in figures:  # no attributes, or a file made before they were recorded
        return
    weak = figures["weak_attributes"]
    print(f"{'accuracy by attribute':24s} {'classifier':>10s} {'judge':>10s} {'chance':>10s}")
    for name, chance in figures["chance"].items():
        found = [figures[f"{role}_accuracies"][name] for role in ("classifier", "judge")]
        cells = "".join(f" {_percent(value):>10s}" for value in (*found, chance))
        print(f"{name:24s}{cells}{'   weak' if any(name in weak[role] for role in weak) else ''}")
    effects = {
        "classifier": "rewards for these attributes mean little",
        "judge": "success and kept mean little for these attributes",
    }
    for role, effect in effects.items():
        if weak[role]:
            print(
                f"warning: the {role} hardly recognizes {', '.join(weak[role])} (less than half of "
                f"the way from chance to 100 %): {effect}; add labelled images"
            )


def _print_warnings(warnings: list[dict]) -> None:
    for entry in warnings:
        when = f"iteration {entry['first']}"
        if entry["count"] > 1:
            when = f"iterations {entry['first']} to {entry['last']}"
        often = f"{entry['count']} of {entry['checks']} checks ({when})"
        print(f"warning: {entry['warning']} at {often}; what may help: {entry['advice']}")


def _percent(share: float) -> str:
    return f"{share:.2%}"
