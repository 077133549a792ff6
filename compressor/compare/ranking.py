"""Who is best in a column, as far as the statistics can tell: a winner, or all that cannot be told from the best."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from compressor.compare.multiplicity import holm
from compressor.compare.statistics import Interval
from compressor.compare.values import Value
from compressor.compare.verdicts import Word
from compressor.results import Comparison

ALPHA = 0.05
SAME_COUNT = 0.001  # share by which equal counts of bytes or parameters may differ: a longer name in a header
_DECIDED = frozenset({Word.better, Word.worse, Word.faster, Word.slower})

K = TypeVar("K", bound=Hashable)


class Mark(StrEnum):
    """What a cell is called."""

    best = "best"  # separable from every other
    tied = "tied"  # not separable from the best


def by_tests(values: Mapping[K, float], p_value: Callable[[K, K], float], *, higher: bool) -> dict[K, Mark]:
    """Mark the best and all that a test against the best does not separate from it, after Holm over the tests.

    One alone is no winner and bears no mark; so it is in the functions below.

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


def by_intervals(values: Mapping[K, Value], *, higher: bool = True, noise: float = 0.0) -> dict[K, Mark]:
    """Mark the best and all whose interval meets that of the best, or comes closer to it than `noise`, a share."""
    if len(values) < 2:
        return {}
    best = (max if higher else min)(values, key=lambda key: values[key].value)
    return _marks(best, [key for key in values if key != best and values[key].overlaps(values[best], noise=noise)])


def by_counts(values: Mapping[K, Value]) -> dict[K, Mark]:
    """Mark the smallest of counted things, and all that are as small but for `SAME_COUNT`."""
    return by_intervals(values, higher=False, noise=SAME_COUNT)


def by_records(
    values: Mapping[str, float], found: Sequence[Comparison], reference: str, *, higher: bool, noise: float = 0.0
) -> dict[str, Mark]:
    """Mark by the comparisons that one run recorded, for one metric or one runtime.

    Two that were compared with each other have the p-value of that test, or where none was kept its verdict. Two that were
    not are separable where their intervals against the reference do not meet.

    Args:
        values: What is ranked, by model.
        found: The comparisons.
        reference: The model that all were compared with.
        higher: Whether more is better.
        noise: Intervals closer than this share of their value meet.
    """

    def p_value(a: str, b: str) -> float:
        met = [c for c in found if {c.candidate, c.baseline} == {a, b}]
        if known := [c.p_value for c in met if c.p_value is not None]:
            return min(known)
        if met:
            return 0.0 if any(c.verdict in _DECIDED for c in met) else 1.0
        apart = [_interval(c) for n in (a, b) for c in found if c.candidate == n and c.baseline == reference]
        return 0.0 if len(apart) == 2 and not apart[0].overlaps(apart[1], noise=noise) else 1.0

    return by_tests(values, p_value, higher=higher)


def _interval(found: Comparison) -> Value:
    return Value(value=found.ratio or found.difference or 0.0, ci95=Interval(*found.ci95), each=())


def _marks(best: K, tied: list[K]) -> dict[K, Mark]:
    return {best: Mark.best} if not tied else dict.fromkeys([best, *tied], Mark.tied)
