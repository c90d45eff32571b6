"""Steps and resets that are undone if an interrupt cuts them off halfway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from gan_backbones import BackboneError

FAILURES = (FloatingPointError, BackboneError)
"""Errors of a failed network: the episode cannot continue, and nothing is undone."""


class Undo:
    """A block of code whose changes are undone if it is interrupted.

    A notebook's stop button, Ctrl-C and signal handlers can raise an exception at any line. After
    one of these, or any other exception but `FAILURES`, the block's changes are undone. Attributes
    are restored by reference, so that nothing needs to be copied: the block must replace their
    values, not change them in place.

    Args:
        *parts: objects, each with the names of the attributes that the block replaces.

    Example:
        >>> class Counter:
        ...     count = 0
        >>> counter = Counter()
        >>> try:
        ...     with Undo((counter, ["count"])):
        ...         counter.count += 1
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     print(counter.count)
        0
    """

    def __init__(self, *parts: tuple[object, Iterable[str]]):
        self._attributes: list[tuple[object, str, Any]] = []
        self._random: list[tuple[np.random.BitGenerator, Mapping[str, Any]]] = []
        for part, names in parts:
            self.add(part, names)

    def add(self, part: object, names: Iterable[str]) -> Undo:
        """Also undo changes of these attributes of an object; return the context itself."""
        self._attributes += [(part, name, getattr(part, name)) for name in names]
        return self

    def remember(self, rngs: Iterable[np.random.Generator]) -> None:
        """Also undo draws from these generators; call this before drawing."""
        self._random += [(rng.bit_generator, rng.bit_generator.state) for rng in rngs]

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, FAILURES):
            return
        for part, name, value in self._attributes:
            setattr(part, name, value)
        for bit_generator, state in reversed(self._random):
            bit_generator.state = state
