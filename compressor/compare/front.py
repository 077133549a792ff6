"""The Pareto front: who is beaten in two columns at once, and whether that is certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from compressor.compare.pairing import significance
from compressor.compare.ranking import ALPHA, SAME_COUNT
from compressor.compare.rows import OTHER_EXAMPLES, Row
from compressor.compare.table import Table
from compressor.compare.values import Value, exact
from compressor.errors import CompressorError

SIZE = "size_bytes"
_TRIED = 5  # dominators that are tested; the certainty claimed pays for each


class Place(StrEnum):
    """Where a candidate stands."""

    front = "front"  # nobody is at least as good in both columns and better in one
    perhaps = "perhaps dominated"  # somebody seems to be, within the noise of the measurement
    dominated = "dominated"  # somebody is, in both columns, at the 5 % level


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate in the plane; `by` are those that beat it, the strongest first."""

    label: str
    quality: Value
    other: Value
    place: Place
    by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One plane: a task's metric against the bytes or against the speed-ups of one setting.

    Attributes:
        task: The task.
        metric: Its metric.
        against: `size_bytes`, or the label of a setting.
        points: By quality, the best first.
        left_out: Candidates that lack one of the two, each with the reason.
    """

    task: str
    metric: str
    against: str
    points: tuple[Point, ...]
    left_out: tuple[tuple[str, str], ...]


def pareto(table: Table) -> tuple[Front, ...]:
    """Return the fronts of every task: against the bytes, then against the speed-up in each setting.

    Teachers take part, at a speed-up of 1. A candidate is called dominated only where another one is better in quality by the
    paired test and no worse in the other column by their intervals; each of up to five dominators is tested at 5 % divided by
    their number (Bonferroni).
    """
    fronts = []
    for task in table.metrics:
        fronts.append(_front(table, task, SIZE, lambda row: row.size_bytes, higher=False))
        for setting in (s for s in table.settings if s.task == task):
            key = (task, setting.label)
            fronts.append(_front(table, task, setting.label, partial(_speed, key=key), higher=True))
    return tuple(fronts)


def _speed(row: Row, key: tuple[str, str]) -> Value | None:
    cell = row.speed.get(key)
    if cell is None or cell.p50_ms is None:
        return None
    return exact(1.0) if row.is_teacher else cell.speed_up


def _front(table: Table, task: str, against: str, other: Callable[[Row], Value | None], *, higher: bool) -> Front:
    left_out, rows = [], []
    for row in table.rows:
        cell = row.quality.get(task)
        if cell is None or cell.remark:
            left_out.append((row.label, "no result on this task" if cell is None else cell.remark or OTHER_EXAMPLES))
        elif other(row) is None:
            left_out.append((row.label, "not timed here"))
        else:
            rows.append((row, cell.score, _required(other(row))))
    better = 1.0 if not rows or rows[0][0].quality[task].higher_is_better else -1.0
    rows.sort(key=lambda found: -better * found[1].value)

    def beats(a: tuple[Row, Value, Value], b: tuple[Row, Value, Value]) -> bool:
        gains = better * (a[1].value - b[1].value), _gain(a[2], b[2], higher=higher)
        return min(gains) >= 0 and max(gains) > 0

    points = []
    for found in rows:
        dominators = [r for r in rows if r is not found and beats(r, found)]
        place = Place.front
        if dominators:
            place = Place.dominated if _certain(table, task, found, dominators, higher=higher) else Place.perhaps
        by = tuple(r[0].label for r in dominators)
        points.append(Point(label=found[0].label, quality=found[1], other=found[2], place=place, by=by))
    return Front(task=task, metric=table.metrics[task], against=against, points=tuple(points), left_out=tuple(left_out))


def _certain(
    table: Table,
    task: str,
    found: tuple[Row, Value, Value],
    dominators: Sequence[tuple[Row, Value, Value]],
    *,
    higher: bool,
) -> bool:
    """Tell whether one of the dominators beats a candidate beyond the noise in both columns."""
    metric = table.metrics[task]
    clear = [d for d in dominators if _no_worse(d[2], found[2], higher=higher)][:_TRIED]
    for row, _, _ in clear:
        try:
            arms = [r.candidate.scored(task, metric) for r in (row, found[0])]
            difference, p = significance(arms[0], arms[1], metric, table.reader)
        except CompressorError:
            continue
        ahead = (difference > 0) == row.quality[task].higher_is_better
        if ahead and p * len(clear) <= ALPHA:
            return True
    return False


def _gain(ours: Value, theirs: Value, *, higher: bool) -> float:
    """Return by how much one is ahead in the other column: in speed, or in bytes, of which nearly as many are as many."""
    if higher:
        return ours.value - theirs.value
    return 0.0 if ours.overlaps(theirs, noise=SAME_COUNT) else theirs.value - ours.value


def _no_worse(ours: Value, theirs: Value, *, higher: bool) -> bool:
    if ours.ci95 is None or theirs.ci95 is None:
        return False
    if higher:
        return ours.ci95.low >= theirs.ci95.high
    return _gain(ours, theirs, higher=False) == 0.0 or ours.ci95.high <= theirs.ci95.low


def _required(value: Value | None) -> Value:
    assert value is not None
    return value
