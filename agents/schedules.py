"""Schedules: how a hyper-parameter changes while learning."""

from __future__ import annotations


def linear(start: float, end: float, fraction: float, progress: float) -> float:
    """From ``start`` to ``end`` over the first ``fraction`` of learning, then constant.

    Args:
        start: the value at progress 0.
        end: the value from ``fraction`` on.
        fraction: in [0, 1]; 0 means ``end`` from the beginning.
        progress: share of learning done, in [0, 1].
    """
    if progress >= fraction:
        return end
    return start + (end - start) * progress / fraction
