"""Who is best in a column, as far as the statistics can tell: a winner, or all that cannot be told from the best."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from enum import StrEnum
from typing import TypeVar

from compressor.compare.multiplicity import holm
from compressor.compare.values import Value

ALPHA = 0.05

K = TypeVar("K", bound=Hashable)


class Mark(StrEnum):
    """What a cell is called."""

    best = "best"  # separable from every other
    tied = "tied"  # not separable from the best


def by_tests(values: Mapping[K, float], p_value: Callable[[K, K], float], *, higher: bool) -> dict[K, Mark]:
    """Mark the best and all that a test against the best does not separate from it, after Holm over the tests.

    One alone is no winner and bears no mark; so it is in `by_intervals`.

    Args:
        values: What is ranked.
        p_value: Of no difference between a candidate and the best; not called with equal ones.
        higher: Whether more is better.
    """
    if len(values) < 2:
        return {}
    best = (max if higher else min)(values, key=lambda key: values[key])
    others = [key for key in values if key != best]
    adjusted = holm([p_value(key, best) for key in others])
    return _marks(best, [key for key, p in zip(others, adjusted, strict=True) if p > ALPHA])


def by_intervals(values: Mapping[K, Value], *, higher: bool = True) -> dict[K, Mark]:
    """Mark the best and all whose interval meets that of the best."""
    if len(values) < 2:
        return {}
    best = (max if higher else min)(values, key=lambda key: values[key].value)
    return _marks(best, [key for key in values if key != best and values[key].overlaps(values[best])])


def _marks(best: K, tied: list[K]) -> dict[K, Mark]:
    return {best: Mark.best} if not tied else dict.fromkeys([best, *tied], Mark.tied)
