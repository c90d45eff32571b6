"""Whether arguments have the right type and are in range.

A value that fits after a conversion without loss is converted: ``1e4`` to 10000, NumPy's numbers to
Python's. All else is refused with one line that names the argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from numbers import Real
from typing import Any

import numpy as np

MAX_SEED = 2**32 - 1
"""The largest seed that NumPy, torch and Stable-Baselines3 all take."""


def check_names(
    agent: str, values: Mapping[str, Any], parameters: Mapping[str, Parameter], allowed: list[str]
) -> None:
    """Raise a ValueError for the first hyper-parameter that does not exist or is no number.

    Args:
        agent: its kind, for the message.
        values: by name.
        parameters: parameters of the agent's constructor; a default that is a number says that the
            value must be one.
        allowed: the names there are.
    """
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(
                f"unknown hyper-parameter {name!r} of {agent}; allowed: {', '.join(allowed)}"
            )
        if name in parameters and _is_number(parameters[name].default) and isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; it must be a number")


def integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as an int from ``least`` to ``most``.

    Raises:
        ValueError: not a whole number, or out of range.
    """
    if not _is_number(value) or value % 1 != 0:
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
    """``value`` as a float that is at least ``least`` or above ``above``.

    Raises:
        ValueError: not a number, out of range, or infinite where ``finite`` is asked for.
    """
    if not _is_number(value):
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
    """``value`` as a float from 0 to 1.

    Raises:
        ValueError: not a number, or out of range.
    """
    if not _is_number(value):
        raise ValueError(f"{name} is {value!r}; it must be a number")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be from 0 to 1")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """``value`` as a bool; text and numbers are refused, as ``bool("False")`` is true.

    Raises:
        ValueError: neither True nor False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; it must be True or False")
    return bool(value)


def layer_widths(name: str, value: Any) -> list[int]:
    """The widths of hidden layers as a list of ints, which may be empty.

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
    """A seed as an int; ``None`` stays.

    Raises:
        ValueError: not a whole number, or out of range.
    """
    return None if value is None else integer("seed", value, 0, MAX_SEED)


def callables(callback: Callable | Iterable[Callable] | None) -> list[Callable]:
    """One callback, several, or ``None``, as a list.

    Raises:
        ValueError: something that cannot be called.
    """
    if callback is None or callable(callback):
        return [] if callback is None else [callback]
    if not isinstance(callback, Iterable) or not all(map(callable, found := list(callback))):
        raise ValueError(f"callback is {callback!r}; it must be a function or a list of functions")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, (bool, np.bool_))
