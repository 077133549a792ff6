"""Two candidates side by side: what they got right and wrong, how large and fast they are, and what made them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from compressor.compare.candidates import Arm
from compressor.compare.conditions import Conditions, Machine, Setting
from compressor.compare.pairing import PairedDifference, paired
from compressor.compare.rows import Row, conditions_of, furthest, ratio_word
from compressor.compare.statistics import Interval
from compressor.compare.table import Table
from compressor.compare.values import Value, exact, over_runs
from compressor.errors import CompressorError, ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedContrast:
    """How many times faster the first is than the second in one setting; above 1 the first is faster.

    `one_run` says whether both were interleaved in one run; else the ratio is the quotient of theirs to the teacher.
    """

    task: str
    setting: str
    ratio: Value
    verdict: str | None
    one_run: bool

    @property
    def how(self) -> str:
        """How it is known, in words."""
        return "interleaved in one run" if self.one_run else "through the teacher that was interleaved with each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """First candidate against second.

    Attributes:
        first: The one candidate.
        second: The other.
        quality: The paired difference on each task that both have.
        speed: Ratios, where latencies may meet.
        not_compared: What cannot be compared, as (what, why).
        options: Settings that differ, as (first's, second's); None is unset.
    """

    first: Row
    second: Row
    quality: Mapping[str, PairedDifference]
    speed: tuple[SpeedContrast, ...]
    not_compared: tuple[tuple[str, str], ...]
    options: Mapping[str, tuple[Any, Any]]


def diff(table: Table, first: str, second: str) -> Contrast:
    """Compare two candidates by their labels.

    Raises:
        ConfigError: A label is unknown, or both are the same.
    """
    if first == second:
        raise ConfigError(f"diff of '{first}' with itself", allowed="two candidates")
    ours, theirs = table.row(first), table.row(second)
    quality, refused = {}, []
    for task, metric in table.metrics.items():
        arms = [row.candidate.scored(task, metric) for row in (ours, theirs)]
        if not all(arms):
            refused.append((f"{metric} on {task}", "not scored for both"))
            continue
        try:
            quality[task] = paired(arms[0], arms[1], metric, table.reader)
        except CompressorError as error:
            refused.append((f"{metric} on {task}", error.got))
    speed = []
    for task, runtime in dict.fromkeys((s.task, s.runtime) for s in table.settings):
        columns = [s for s in table.settings if (s.task, s.runtime) == (task, runtime)]
        shared = [s for s in columns if all(_timed(row, (task, s.label)) for row in (ours, theirs))]
        for setting in shared:
            found = _ratio(ours, theirs, setting)
            if found is not None:
                speed.append(found)
        if not shared:
            refused.append((f"speed on {task}, {runtime}", _why_not(ours, theirs, columns)))
    keys = sorted({*ours.candidate.options, *theirs.candidate.options})
    pairs = {key: (ours.candidate.options.get(key), theirs.candidate.options.get(key)) for key in keys}
    return Contrast(
        first=ours,
        second=theirs,
        quality=quality,
        speed=tuple(speed),
        not_compared=tuple(refused),
        options={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    )


def _timed(row: Row, key: tuple[str, str]) -> bool:
    cell = row.speed.get(key)
    return cell is not None and cell.p50_ms is not None


def _ratio(ours: Row, theirs: Row, setting: Setting) -> SpeedContrast | None:
    """Return the ratio that one run measured by itself, else the quotient of the two ratios to the teacher."""
    key = setting.task, setting.label
    value, word = _in_one_run(ours, theirs, setting)
    one_run = value is not None
    if value is None:
        first, second = (exact(1.0) if row.is_teacher else row.speed[key].speed_up for row in (ours, theirs))
        if first is None or second is None:
            return None
        value = quotient(first, second)
    word = word or ratio_word(value, furthest(row.speed[key].null_ratio for row in (ours, theirs)))
    return SpeedContrast(task=setting.task, setting=setting.label, ratio=value, verdict=word, one_run=one_run)


def _in_one_run(ours: Row, theirs: Row, setting: Setting) -> tuple[Value | None, str | None]:
    """Return the ratio over the runs in which both were timed under the setting's conditions; None if there are none.

    With it comes the verdict of the run, where there is one that was asked the same way round.
    """
    words: list[str | None] = []
    found: list[tuple[int, float]] = []
    intervals: list[Interval | None] = []
    for a in ours.candidate.on(setting.task):
        for b in theirs.candidate.on(setting.task):
            if a.run is not b.run or not all(_under(arm, setting) for arm in (a, b)):
                continue
            for one, other, back in ((a, b, False), (b, a, True)):
                for c in one.against(other.result.name):
                    if c.runtime == setting.runtime and c.ratio:
                        found.append((a.seed, 1 / c.ratio if back else c.ratio))
                        words.append(None if back else c.verdict)
                        ends = [1 / c.ci95[1], 1 / c.ci95[0]] if back else list(c.ci95)
                        intervals.append(Interval(ends[0], ends[1]))
    return over_runs(found, intervals) if found else None, words[0] if len(words) == 1 else None


def _under(arm: Arm, setting: Setting) -> bool:
    timed = [t for t in arm.result.latency if t.runtime == setting.runtime and t.latency_ms_p50]
    return any(conditions_of(arm, t) == setting.conditions for t in timed)


def quotient(first: Value, second: Value) -> Value:
    """Return first over second, whose errors are independent: on the logarithm the half-widths add in squares."""
    value = first.value / second.value
    interval = None
    if first.ci95 and second.ci95 and min(first.ci95.low, second.ci95.low) > 0:
        down = math.hypot(math.log(first.value / first.ci95.low), math.log(second.ci95.high / second.value))
        up = math.hypot(math.log(first.ci95.high / first.value), math.log(second.value / second.ci95.low))
        interval = Interval(value * math.exp(-down), value * math.exp(up))
    freedom = [v.freedom for v in (first, second) if v.freedom is not None]
    return Value(value=value, ci95=interval, each=(), freedom=min(freedom, default=None))


def _why_not(ours: Row, theirs: Row, columns: list[Any]) -> str:
    """Say which conditions differ, or that one was not timed."""
    timed = [[s.conditions for s in columns if _timed(row, (s.task, s.label))] for row in (ours, theirs)]
    for row, found in zip((ours, theirs), timed, strict=True):
        if not found:
            cells = [row.speed[key] for s in columns if (key := (s.task, s.label)) in row.speed]
            return f"{row.label}: {'; '.join(r for c in cells for r in c.refusals) or 'not timed'}"
    return f"timed under other conditions: {', '.join(_differing(timed[0][0], timed[1][0]))}"


def _differing(one: Conditions | Machine, other: Conditions | Machine) -> list[str]:
    return [f.name.replace("_", " ") for f in fields(one) if getattr(one, f.name) != getattr(other, f.name)]
