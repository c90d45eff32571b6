"""The settings of an editing task: plain JSON data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Real
from typing import TypeGuard

import numpy as np
import torch

from gan_backbones import AttributeSchema, Backbone, load
from gan_backbones.latents.directions import DEFAULT_PROBES, direction_matrix
from gan_backbones.networks import ConditionalGenerator
from gan_backbones.registry import version
from gan_backbones.utils.devices import usable_device
from gan_backbones.utils.validation import check_choice
from latentgym.scores import ATTRIBUTE_SCORES, REALISM_SCORES

OBSERVATION_PARTS = ("latent", "target", "start", "attributes", "realism")
STARTS = ("lacks_target", "any")
ATTRIBUTE_REWARDS = ("relative", "absolute")

WEIGHTS = (
    "realism_weight",
    "attribute_weight",
    "keep_weight",
    "identity_weight",
    "success_bonus",
)
"""The weights of a reward's components, in the order of `latentgym.core.COMPONENTS`."""

REWARD_ARGUMENTS = (*WEIGHTS, "realism_score", "attribute_score", "attribute_reward")


@dataclass(frozen=True)
class EditTask:
    """All settings that single and vector environment share; see `LatentEditEnv` for each.

    Values are checked here. What depends on the backbone is checked by :meth:`check_backbone`.

    Raises:
        ValueError: a value that is not allowed; the message names it and what is allowed.
    """

    backbone: str | Backbone = "cartoon-faces"
    target: Mapping[str, str] | Sequence[str] | None = None
    directions: str | list[list[float]] = "attributes"
    num_directions: int | None = None
    num_probes: int = DEFAULT_PROBES
    delta: float = 0.5
    latent_bound: float | str = 3.0
    start: str = "lacks_target"
    observation: Sequence[str] = ("latent", "target", "start", "attributes", "realism")
    realism_score: str = "log_probability"
    realism_weight: float = 10.0
    attribute_score: str = "log_probability"
    attribute_weight: float = 5.0
    attribute_reward: str = "relative"
    keep_weight: float = 2.0
    identity_weight: float = 0.0
    success_bonus: float = 5.0
    terminate_on_success: bool = False
    bf16: bool = False
    compile: bool = False
    device: str = "cpu"
    label: Mapping[str, str] | None = None

    def __post_init__(self):
        for name in ("target", "directions", "observation", "label"):
            # The caller's own list or dict may change later.
            object.__setattr__(self, name, copy.deepcopy(getattr(self, name)))
        for name in ("terminate_on_success", "bf16", "compile"):
            _check_flag(name, getattr(self, name))
        usable_device(self.device)
        check_choice("start", self.start, STARTS)
        check_choice("realism_score", self.realism_score, REALISM_SCORES)
        check_choice("attribute_score", self.attribute_score, ATTRIBUTE_SCORES)
        check_choice("attribute_reward", self.attribute_reward, ATTRIBUTE_REWARDS)
        parts = self.observation
        if isinstance(parts, str) or not isinstance(parts, Sequence) or not parts:
            raise ValueError(
                f"observation is {parts!r}; expected a list of {', '.join(OBSERVATION_PARTS)}"
            )
        for part in parts:
            check_choice("observation", part, OBSERVATION_PARTS)
        if len(set(parts)) != len(parts):
            raise ValueError(f"observation is {parts!r}; name each part once")
        if not _positive(self.delta):
            raise ValueError(f"delta is {self.delta!r}; it must be a finite number above 0")
        if not (self.latent_bound == "sphere" or _positive(self.latent_bound)):
            raise ValueError(
                f"latent_bound is {self.latent_bound!r}; it must be a finite number above 0, "
                "or 'sphere'"
            )
        for name in WEIGHTS:
            value = getattr(self, name)
            if not (_positive(value) or (_is_number(value) and value == 0)):
                raise ValueError(f"{name} is {value!r}; it must be a finite number, 0 or more")
        if self.label is not None and not _is_dict_of_text(self.label):
            raise ValueError(
                f"label is {self.label!r}; expected a dict of attribute to variant, or None"
            )

    def check_backbone(self) -> None:
        """Load the backbone and check that it fits the settings.

        Raises:
            ValueError: the backbone lacks a network or schema that the settings need, or the
                settings name what its schema does not have.
            BackboneError: unknown backbone or damaged file.

        Warns:
            UserWarning: by its model card, the judge is bad at an attribute of the target.
        """
        self._check_has_label()
        backbone = self.loaded_backbone
        if self.realism_weight and backbone.discriminator is None:
            raise ValueError(
                "the backbone has no discriminator: give it one, or pass realism_weight=0 "
                "(gan_backbones.wrap takes discriminator=...)"
            )
        if backbone.classifier is None or backbone.schema is None:
            raise ValueError(
                "the backbone has no classifier and schema, which the target needs: pass "
                "classifier=... and schema=... to gan_backbones.wrap"
            )
        if not backbone.schema.editable:
            raise ValueError(
                "the backbone has no attribute with two or more variants: nothing can be edited"
            )
        self.check_target(self.target)
        self._warn_of_weak_judge()

    @cached_property
    def loaded_backbone(self) -> Backbone:
        """The backbone, conditioned on the ``label`` if there is one.

        It stays the same when the file is written again or the name registered again. Tasks with
        the same backbone, label and device share it.
        """
        backbone = self._load_unconditioned()
        if self.label is None:
            return backbone
        return _condition(backbone, tuple(self.label.items())).to(self.device)

    @property
    def schema(self) -> AttributeSchema:
        """The backbone's attributes; see :meth:`check_backbone`."""
        schema = self.loaded_backbone.schema
        assert schema is not None
        return schema

    def direction_matrix(self) -> torch.Tensor:
        """Return the directions as rows of unit length, float32 ``[K, latent_dim]``.

        Raises:
            ValueError: see `gan_backbones.latents.directions.direction_matrix`.
        """
        return direction_matrix(
            self.loaded_backbone, self.directions, self.num_directions, self.num_probes
        )

    def check_target(self, target: Mapping[str, str] | Sequence[str] | None) -> None:
        """Raise a ValueError if ``target`` names what the schema does not have or cannot change."""
        if target is None:
            return
        schema = self.schema
        if not isinstance(target, (Mapping, Sequence)) or isinstance(target, str):
            raise ValueError(
                f"target is {target!r}; expected a dict of attribute to variant, "
                "a list of attributes to draw one from, or None"
            )
        if not target:
            raise ValueError("target is empty; name at least one attribute, or pass None")
        if isinstance(target, Mapping):
            schema.encode(target)
        for attribute in target:
            check_choice("target", attribute, schema.names)
            if attribute not in schema.editable:
                raise ValueError(
                    f"target names {attribute!r}, which has one variant alone; "
                    f"allowed: {', '.join(schema.editable)}"
                )

    def _warn_of_weak_judge(self) -> None:
        held_out = self.loaded_backbone.card.get("held_out") or {}
        weak = (held_out.get("weak_attributes") or {}).get("judge", ())
        wanted = self.schema.editable if self.target is None else tuple(self.target)
        if named := [name for name in weak if name in wanted]:
            warnings.warn(
                f"the backbone's judge is little better than chance at {', '.join(named)}: "
                "is_success and kept mean little there",
                stacklevel=2,
            )

    def _load_unconditioned(self) -> Backbone:
        if isinstance(self.backbone, Backbone):
            return self.backbone.to(self.device)
        return _load(self.backbone, self.device, version(self.backbone))

    def _check_has_label(self) -> None:
        if self.label is not None:
            return
        backbone = self._load_unconditioned()
        generator = backbone.generator
        if isinstance(generator, ConditionalGenerator) and not generator.label.any():
            names = ", ".join(backbone.schema.names) if backbone.schema else "no schema"
            raise ValueError(
                "label is None; this backbone's generator is a conditional one and needs a "
                f"variant for every attribute ({names})"
            )


@lru_cache(maxsize=8)
def _load(name: str, device: str, version: Hashable) -> Backbone:
    """Load a backbone once per process, device and version of its file or factory."""
    return load(name, device)


@lru_cache(maxsize=16)
def _condition(backbone: Backbone, label: tuple[tuple[str, str], ...]) -> Backbone:
    return backbone.condition(dict(label))


def _check_flag(argument: str, value: object) -> None:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} is {value!r}; allowed: True, False")


def _is_dict_of_text(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))


def _positive(value: object) -> bool:
    return _is_number(value) and 0 < value < float("inf")
