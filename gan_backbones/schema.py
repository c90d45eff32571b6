"""What can be said about an image: ordered attributes, each with named variants."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

Target = Mapping[str, str]


class AttributeSchema:
    """Ordered attributes, each with named variants, laid side by side in one one-hot vector.

    A classifier's ``[N, size]`` logits and a target's one-hot vector share this layout: attribute
    ``a`` owns the columns ``slices[a]``, one per variant.

    Args:
        variants: attribute name to its variant names, in order.

    Raises:
        ValueError: an attribute without variants, or with a variant named twice.

    Example:
        >>> schema = AttributeSchema({"hairColor": ["black", "red"], "glasses": ["none", "round"]})
        >>> schema.encode({"glasses": "round"})
        array([0., 0., 0., 1.], dtype=float32)
    """

    def __init__(self, variants: Mapping[str, Sequence[str]]):
        self.variants: dict[str, tuple[str, ...]] = {
            str(name): tuple(str(v) for v in names) for name, names in variants.items()
        }
        for name, names in self.variants.items():
            if not names:
                raise ValueError(f"attribute {name!r} has no variants")
            if len(set(names)) != len(names):
                raise ValueError(f"attribute {name!r} names a variant twice: {list(names)}")
        self.names: tuple[str, ...] = tuple(self.variants)
        self.sizes: tuple[int, ...] = tuple(len(names) for names in self.variants.values())
        ends = np.cumsum(self.sizes).tolist()
        self.slices: dict[str, slice] = {
            name: slice(end - size, end)
            for name, size, end in zip(self.names, self.sizes, ends, strict=True)
        }
        self.size: int = int(sum(self.sizes))

    @property
    def editable(self) -> tuple[str, ...]:
        """The attributes that an edit can change: those with two or more variants."""
        return tuple(name for name, names in self.variants.items() if len(names) > 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttributeSchema) and list(self.variants.items()) == list(
            other.variants.items()
        )

    def __repr__(self) -> str:
        listing = ", ".join(f"{name}: {len(names)}" for name, names in self.variants.items())
        return f"AttributeSchema({listing})"

    def index(self, attribute: str, variant: str) -> int:
        """The position of ``variant`` within ``attribute``.

        Raises:
            ValueError: an unknown name; the message lists the allowed ones.
        """
        if attribute not in self.variants:
            raise ValueError(f"unknown attribute {attribute!r}; allowed: {', '.join(self.names)}")
        names = self.variants[attribute]
        if variant not in names:
            raise ValueError(
                f"unknown variant {variant!r} of attribute {attribute!r}; "
                f"allowed: {', '.join(names)}"
            )
        return names.index(variant)

    def encode(self, target: Target) -> np.ndarray:
        """One-hot float32 ``[size]``; attributes that ``target`` leaves out stay zero.

        Raises:
            ValueError: an unknown attribute or variant.
        """
        one_hot = np.zeros(self.size, dtype=np.float32)
        for attribute, variant in target.items():
            index = self.index(attribute, variant)
            one_hot[self.slices[attribute].start + index] = 1.0
        return one_hot

    def decode(self, one_hot: np.ndarray) -> dict[str, str]:
        """The inverse of :meth:`encode`: attributes whose columns are all zero are left out.

        Raises:
            ValueError: a vector of another length, or one that is not one-hot per attribute.
        """
        one_hot = np.asarray(one_hot)
        if one_hot.shape != (self.size,):
            raise ValueError(f"one_hot has shape {one_hot.shape}; expected ({self.size},)")
        target = {}
        for name, columns in self.slices.items():
            part = one_hot[columns]
            if not (np.isin(part, (0, 1)).all() and part.sum() <= 1):
                raise ValueError(f"one_hot is not one-hot at attribute {name!r}: {part.tolist()}")
            if part.any():
                target[name] = self.variants[name][int(part.argmax())]
        return target

    def encode_indices(self, indices: np.ndarray) -> np.ndarray:
        """Variant indices int ``[N, len(names)]`` to one-hot float32 ``[N, size]``.

        Raises:
            ValueError: another shape, or an index out of range.
        """
        indices = np.asarray(indices)
        if indices.ndim != 2 or indices.shape[1] != len(self.names):
            raise ValueError(f"indices have shape {indices.shape}; expected (N, {len(self.names)})")
        if ((indices < 0) | (indices >= np.array(self.sizes, dtype=int))).any():
            raise ValueError(f"indices out of range; each attribute's variants: {self.sizes}")
        starts = np.array([self.slices[name].start for name in self.names], dtype=int)
        one_hot = np.zeros((len(indices), self.size), dtype=np.float32)
        np.put_along_axis(one_hot, indices + starts, 1.0, axis=1)
        return one_hot

    def to_json(self) -> str:
        """The schema as JSON text: ``{"attribute": ["variant", ...], ...}`` in order."""
        return json.dumps(self.variants)

    @classmethod
    def from_json(cls, text: str) -> AttributeSchema:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: text that is not such a JSON object.
        """
        try:
            variants = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"attribute schema is not JSON: {error}") from None
        if not isinstance(variants, dict) or not all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in variants.values()
        ):
            raise ValueError("attribute schema is not a JSON object of lists of variant names")
        return cls(variants)
