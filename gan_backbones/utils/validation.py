"""Checks of settings and arguments. Each error is one line: name, value, and what is allowed.

`check_fields` checks the fields of a dataclass by their annotations, the other functions check one
argument each. A value that fits after a conversion without loss is converted: ``1e4`` to 10000,
NumPy's numbers to Python's.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Range:
    """Numbers that a field allows, as in ``Annotated[int, Range(least=1)]``; None: no bound.

    Attributes:
        least: smallest number allowed.
        above: excluded lower bound.
        most: largest number allowed.
        below: excluded upper bound.
    """

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {"least": "at least", "above": "above", "most": "at most", "below": "below"}
        bounds = ((word, getattr(self, name)) for name, word in words.items())
        return " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


MAX_SEED = 2**32 - 1
"""The largest seed that NumPy, torch and Stable-Baselines3 all take."""

PositiveInt = Annotated[int, Range(least=1)]
NonNegativeInt = Annotated[int, Range(least=0)]
PositiveFloat = Annotated[float, Range(above=0)]
NonNegativeFloat = Annotated[float, Range(least=0)]
Seed = Annotated[int, Range(least=0, most=2**63 - 1)]


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``allowed``.

    Raises:
        ValueError: it is not.
    """
    if value not in (choices := tuple(allowed)):
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
    return value


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return ``value`` as an int from ``least`` to ``most``.

    Raises:
        ValueError: not a whole number, or out of range.
    """
    if not is_number(value) or value % 1 != 0:
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
    return int(value)


def number(
    name: str,
    value: Any,
    least: float | None = None,
    above: float | None = None,
    finite: bool = True,
) -> float:
    """Return ``value`` as a float that is at least ``least`` or above ``above``.

    Raises:
        ValueError: not a number, out of range, or infinite where ``finite`` is asked for.
    """
    if not is_number(value):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    if least is not None and not value >= least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    if above is not None and not value > above:
        raise ValueError(f"{name} is {value}; it must be above {above}")
    try:
        converted = float(value)
    except OverflowError:  # an int of more than 308 digits
        converted = math.inf
    if finite and math.isinf(converted):
        raise ValueError(f"{name} is {value}; it must be finite")
    return converted


def fraction(name: str, value: Any) -> float:
    """Return ``value`` as a float from 0 to 1.

    Raises:
        ValueError: not a number, or out of range.
    """
    if not is_number(value):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be from 0 to 1")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """Return ``value`` as a bool; text and numbers are refused, as ``bool("False")`` is true.

    Raises:
        ValueError: neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def layer_widths(name: str, value: Any) -> list[int]:
    """Return the widths of hidden layers as a list of ints, which may be empty.

    Raises:
        ValueError: not a sequence of whole numbers, or a width below 1.
    """
    widths = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(widths, Sequence) or isinstance(widths, (str, bytes)):
        raise ValueError(f"{name} is {value!r}; it must be a list of whole numbers")
    try:
        return [integer(name, width, 1) for width in widths]
    except ValueError as error:
        _, _, reason = str(error).partition("; it must be ")
        raise ValueError(f"{name} is {list(widths)}; each width must be {reason}") from None


def checked_seed(value: Any) -> int | None:
    """Return a seed as an int; ``None`` stays ``None``.

    Raises:
        ValueError: not a whole number, or out of range.
    """
    return None if value is None else integer("seed", value, 0, MAX_SEED)


def is_number(value: Any) -> bool:
    """Return whether it is a real number, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass against its annotation, and convert it to that type.

    NumPy numbers become Python's, whole floats become ints where ints are expected, and sequences
    tuples; text is never read as a number. Numbers must be finite.

    Args:
        settings: instance of a dataclass, frozen or not. Its annotations may be ``int``,
            ``float``, ``bool``, ``str``, ``Path``, ``Literal``, tuples and unions of these, each
            ``Annotated`` with a :class:`Range` or not.

    Raises:
        ValueError: one line that names the field, its value and what is allowed.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        try:
            converted = _convert(value, hint)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{field.name} is {value!r}; allowed: {_describe(hint)}") from None
        object.__setattr__(settings, field.name, converted)


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``; ValueError or TypeError if it is none."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        converted = _convert(value, arguments[0])
        if converted not in arguments[1]:
            raise ValueError
        return converted
    if kind in (Union, UnionType):
        for choice in arguments:
            try:
                return _convert(value, choice)
            except (TypeError, ValueError, OverflowError):
                continue
        raise ValueError
    if kind is Literal:
        if isinstance(value, bool):
            raise ValueError
        return arguments[arguments.index(value)]
    if kind is tuple:
        if isinstance(value, str):
            raise ValueError
        items = tuple(value)
        if arguments[-1] is Ellipsis:
            arguments = arguments[:1] * len(items)
        return tuple(_convert(item, each) for item, each in zip(items, arguments, strict=True))
    return _SIMPLE[hint](value)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError
    return bool(value)


def _to_int(value: Any) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise ValueError
    is_real = isinstance(value, numbers.Real)
    if is_real and value == int(value):
        return int(value)
    return operator.index(value)


def _to_float(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise ValueError
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _is_a(kind: type) -> Any:
    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError
        return value

    return check


_SIMPLE = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _is_a(str),
    Path: _is_a(os.PathLike),
    NoneType: _is_a(NoneType),
}


def _describe(hint: Any) -> str:
    """What :func:`_convert` takes, in words."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return f"{_describe(arguments[0])} {arguments[1]}"
    if kind in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    if kind is Literal:
        return ", ".join(map(str, arguments))
    if kind is tuple:
        if arguments[-1] is Ellipsis:
            return f"a sequence, each element {_describe(arguments[0])}"
        return f"{len(arguments)} values, each {_describe(arguments[0])}"
    return {
        bool: "True or False",
        int: "a whole number",
        float: "a finite number",
        str: "text",
        NoneType: "None",
    }.get(hint, "a path")
