"""Steps and resets that an interrupt leaves undone instead of half done."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np

from gan_backbones import BackboneError

FAILURES = (FloatingPointError, BackboneError)
"""Errors of a network that has failed: the episode cannot continue, and nothing is undone."""


class Undo:
    """A block of code whose changes are undone if it is interrupted.

    The stop button of a notebook, Ctrl-C and the exceptions of signal handlers can strike at any
    line. After one of them, and any other exception but those of `FAILURES`, all is as it was
    before the block. Attributes are restored by reference, so that nothing needs to be copied:
    the block must replace their values, not change them in place.

    Args:
        *parts: objects, each with the names of the attributes that the block replaces; see
            :meth:`add`.

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
        self._random: list[tuple[np.random.BitGenerator, dict[str, Any]]] = []
        for part, names in parts:
            self.add(part, names)

    def add(self, part: object, names: Iterable[str]) -> Undo:
        """Undo changes of these attributes of an object, too; returns itself."""
        self._attributes += [(part, name, getattr(part, name)) for name in names]
        return self

    def remember(self, rngs: Iterable[np.random.Generator]) -> None:
        """Undo the draws from these generators, too. To be called before they are made."""
        for rng in rngs:
            state: Any = rng.bit_generator.state
            self._random.append((rng.bit_generator, state))

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
