"""Whether hyper-parameters are in range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any


def check_names(
    agent: str, values: Mapping[str, Any], parameters: Mapping[str, Parameter], allowed: list[str]
) -> None:
    """Raise a ValueError for the first hyper-parameter that does not exist or is no number.

    Args:
        agent: its kind, for the message.
        values: by name.
        parameters: of the agent's constructor, whose defaults tell what must be a number.
        allowed: the names there are.
    """
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(
                f"unknown hyper-parameter {name!r} of {agent}; allowed: {', '.join(allowed)}"
            )
        numeric = name in parameters and isinstance(parameters[name].default, (int, float))
        if numeric and isinstance(value, str):
            raise ValueError(f"{name} is {value!r}; it must be a number")


def check_hyperparameters(
    values: Mapping[str, Any],
    at_least: Mapping[int, Sequence[str]],
    from_0_to_1: Sequence[str],
    above_0: Sequence[str],
) -> None:
    """Raise a ValueError that names the first hyper-parameter out of range.

    Args:
        values: by name; ``net_arch`` is among them, the widths of hidden layers.
        at_least: names by their least value; ``None`` is allowed.
        from_0_to_1: names of shares and probabilities.
        above_0: names of the rest.
    """
    for least, names in at_least.items():
        for name in names:
            if values[name] is not None and not values[name] >= least:
                raise ValueError(f"{name} is {values[name]}; it must be at least {least}")
    for name in from_0_to_1:
        if not 0 <= values[name] <= 1:
            raise ValueError(f"{name} is {values[name]}; it must be from 0 to 1")
    for name in above_0:
        if not values[name] > 0:
            raise ValueError(f"{name} is {values[name]}; it must be above 0")
    if not all(width >= 1 for width in values["net_arch"]):
        raise ValueError(f"net_arch is {values['net_arch']}; each width must be at least 1")
