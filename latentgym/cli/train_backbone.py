"""Commands that make and measure backbones."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gan_backbones import GANConfig, load
from gan_backbones.datasets import render_cartoon_faces
from gan_backbones.networks import cost
from gan_backbones.training.cvae import CVAEConfig
from gan_backbones.training.pipeline import check_output
from gan_backbones.training.pipeline import train_backbone as run_training
from latentgym.cli.backbone_figures import print_figures, print_warnings


def train_backbone(
    config: Annotated[GANConfig, tyro.conf.arg(name="")],
    kind: Literal["gan", "cvae"] = "gan",
    name: str = "backbone",
    faces: int = 0,
    features: int | None = None,
    scale: float = CVAEConfig.scale,
) -> None:
    """Train a generator, discriminator, classifier and judge on a folder of images.

    Without attributes, only generator and discriminator are trained. At least ten images are
    needed. After an interrupt, run the same command again to resume.

    Args:
        config: settings of the training.
        kind: gan, or cvae: a conditional VAE, which needs attributes. Of the GAN's settings it has
            only widths, latent length, learning rate and penalty.
        name: name of the backbone and its file.
        faces: number of cartoon faces to render into `data` first; 0: use what is there.
        features: width of both networks, instead of one option for each.
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
    print_figures(backbone.card["held_out"])
    print_warnings(backbone.card.get("warnings", []))


def _cvae_config(config: GANConfig, scale: float) -> CVAEConfig:
    """The settings that a conditional VAE shares with a GAN; others must not have been chosen."""
    names = {field.name for field in fields(CVAEConfig)}
    for field in fields(GANConfig):
        is_shared = field.name in names or field.name == "generator_features"
        if not is_shared and getattr(config, field.name) != field.default:
            raise ValueError(
                f"{field.name} is {getattr(config, field.name)!r}; a conditional VAE has no such "
                "setting"
            )
    shared = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return CVAEConfig(**shared, features=config.generator_features, scale=scale)
