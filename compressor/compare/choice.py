"""Which candidate to take: a typed question, and an answer with its reason and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from compressor.compare.pairing import significance
from compressor.compare.ranking import Mark, by_counts, by_intervals, by_tests
from compressor.compare.rows import Row, SpeedCell, noise_in
from compressor.compare.table import Table
from compressor.compare.values import Value
from compressor.compare.verdicts import Word
from compressor.errors import CompressorError, ConfigError


class Want(StrEnum):
    """What is to be as good as it can be."""

    smallest = "smallest"  # fewest bytes
    fastest = "fastest"  # largest speed-up over the teacher
    accurate = "accurate"  # best metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is wanted, and what must hold; bounds that are not set bind nothing.

    Attributes:
        want: What is to be as good as it can be.
        within: Points of the metric that may be lost against the teacher.
        keep: Share of the teacher's metric that must be kept, 0 to 1.
        under_ms: Bound of the median call, in milliseconds.
        under_mb: Bound of the bytes, in MB (10^6).
        runtime: Runtime, or label of a setting, that `fastest` and `under_ms` are about; needed where there are several.
        task: Task that it is about; needed where there are several.

    Raises:
        ConfigError: A bound is out of its range.
    """

    want: Want
    within: float | None = None
    keep: float | None = None
    under_ms: float | None = None
    under_mb: float | None = None
    runtime: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        if self.want not in tuple(Want):
            raise ConfigError(f"pick={self.want}", allowed=", ".join(Want))
        if self.within is not None and not 0 <= self.within < 100:
            raise ConfigError(
                f"within={self.within:g}", allowed="points of the metric, 0 to below 100", hint="within=1.0"
            )
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ConfigError(
                f"keep={self.keep:g}", allowed="a share of the teacher's metric, above 0 to 1", hint="keep=0.99"
            )
        for name in ("under_ms", "under_mb"):
            bound = getattr(self, name)
            if bound is not None and not 0 < bound < float("inf"):
                raise ConfigError(f"{name}={bound:g}", allowed="above 0")
        if self.runtime is not None and self.under_ms is None and self.want is not Want.fastest:
            raise ConfigError(f"runtime={self.runtime}: nothing reads it", allowed="with 'fastest' or under_ms")

    @property
    def times(self) -> bool:
        """Whether a runtime matters."""
        return self.want is Want.fastest or self.under_ms is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One bound on one candidate; `confidence` is None where nothing is known of the value's error."""

    name: str
    value: Value
    bound: float
    holds: bool
    confidence: float | None
    certain: bool
    short: float  # by what share of the bound it is missed; 0 where it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A candidate as the question sees it; `doubts` are about its timing, where that matters."""

    label: str
    value: Value  # of what is wanted
    checks: tuple[Check, ...]
    doubts: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every bound holds, as measured."""
        return all(check.holds for check in self.checks)

    @property
    def certain(self) -> bool:
        """Whether the 95 % interval of each value clears its bound."""
        return all(check.certain for check in self.checks)

    @property
    def confidence(self) -> float | None:
        """At least this sure is it that all bounds hold (Bonferroni); None where that is not known."""
        known = [check.confidence for check in self.checks]
        if any(c is None for c in known):
            return None
        return max(0.0, 1.0 - sum(1.0 - c for c in known if c is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to take.

    Attributes:
        question: The question, with its task and runtime filled in.
        metric: The task's metric.
        chosen: The best that fits; None if nothing does.
        tied: Others that fit and cannot be told from it in what is wanted.
        runners_up: Others that fit, the next best first.
        closest: Where nothing fits, what misses by least.
        left_out: Candidates that cannot be judged, each with the reason.
    """

    question: Question
    metric: str
    chosen: Option | None
    tied: tuple[str, ...]
    runners_up: tuple[Option, ...]
    closest: Option | None
    left_out: tuple[tuple[str, str], ...]


def pick(
    table: Table,
    want: Want | str,
    *,
    within: float | None = None,
    keep: float | None = None,
    under_ms: float | None = None,
    under_mb: float | None = None,
    runtime: str | None = None,
    task: str | None = None,
) -> Answer:
    """Choose among the compressed candidates; see `Question` for what can be asked.

    A candidate fits when its measured value satisfies each bound; how sure that is stands beside it.

    Raises:
        ConfigError: A bound is out of its range, or task or runtime are unknown or not unique.
    """
    if want not in tuple(Want):
        raise ConfigError(f"pick={want}", allowed=", ".join(Want))
    question = Question(
        want=Want(want), within=within, keep=keep, under_ms=under_ms, under_mb=under_mb, runtime=runtime,
        task=table.one_task(task),
    )  # fmt: skip
    assert question.task is not None
    key = (question.task, table.setting(question.task, runtime).label) if question.times else None
    options, left_out = [], []
    for row in table.rows:
        if row.is_teacher:
            continue
        option = _option(row, question, key)
        if isinstance(option, Option):
            options.append(option)
        else:
            left_out.append((row.label, option))
    sign = -1.0 if want == Want.smallest or not _higher(table, question.task) and want == Want.accurate else 1.0
    fitting = sorted((o for o in options if o.fits), key=lambda o: -sign * o.value.value)
    closest = min(options, key=lambda o: max(c.short for c in o.checks)) if options and not fitting else None
    return Answer(
        question=question,
        metric=table.metrics[question.task],
        chosen=fitting[0] if fitting else None,
        tied=_tied(table, question, fitting),
        runners_up=tuple(fitting[1:]),
        closest=closest,
        left_out=tuple(left_out),
    )


def _option(row: Row, question: Question, key: tuple[str, str] | None) -> Option | str:
    """Return the candidate as the question sees it, or why it cannot be judged."""
    cell = row.quality.get(question.task or "")
    if cell is None:
        return "no result on this task"
    if cell.remark and question.want is Want.accurate:
        return cell.remark
    checks = []
    if question.within is not None or question.keep is not None:
        if cell.difference is None or cell.kept is None or not cell.higher_is_better:
            return "not compared with its teacher"
        if question.within is not None:
            checks.append(_check("within", cell.difference, -question.within / 100, above=True, scale=1.0))
        if question.keep is not None:
            checks.append(_check("keep", cell.kept, question.keep, above=True))
    timed = row.speed.get(key) if key else None
    if key and (timed is None or timed.p50_ms is None):
        return f"refused by {key[1]}" if timed and timed.refusals else f"not timed on {key[1]}"
    if question.under_ms is not None and timed is not None and timed.p50_ms is not None:
        checks.append(_check("under_ms", timed.p50_ms, question.under_ms, above=False))
    if question.under_mb is not None:
        checks.append(_check("under_mb", row.size_bytes, question.under_mb * 1e6, above=False))
    wanted = {
        Want.smallest: row.size_bytes,
        Want.accurate: cell.score,
        Want.fastest: timed.speed_up if timed else None,
    }[question.want]
    if wanted is None:
        return "not timed beside its teacher"
    return Option(label=row.label, value=wanted, checks=tuple(checks), doubts=_doubts(timed, question.want))


def _doubts(timed: SpeedCell | None, want: Want) -> tuple[str, ...]:
    """Return what speaks against a timing: the runs' own doubts, and a speed-up that is no verdict."""
    if timed is None:
        return ()
    unclear = want is Want.fastest and timed.verdict is not None and timed.verdict != Word.faster
    return (*([f"against its teacher it is {timed.verdict}"] if unclear else []), *timed.unstable)


def _check(name: str, value: Value, bound: float, *, above: bool, scale: float | None = None) -> Check:
    short = bound - value.value if above else value.value - bound
    return Check(
        name=name,
        value=value,
        bound=bound,
        holds=short <= 1e-9 * max(1.0, abs(bound)),  # 0.85 - 0.86 is no loss of more than a point
        confidence=value.confidence(bound, above=above),
        certain=value.clears(bound, above=above),
        short=max(0.0, short) / (scale or bound),
    )


def _tied(table: Table, question: Question, fitting: Sequence[Option]) -> tuple[str, ...]:
    """Return who cannot be told from the first in what is wanted."""
    values = {option.label: option.value for option in fitting}
    if question.want is Want.smallest:
        marks = by_counts(values)
    elif question.want is Want.fastest:
        marks = by_intervals(values, noise=noise_in(table.rows, (question.task or "", _setting(table, question))))
    else:
        task = question.task or ""
        metric, higher = table.metrics[task], _higher(table, task)

        def p_value(label: str, best: str) -> float:
            arms = [table.row(name).candidate.scored(task, metric) for name in (label, best)]
            difference, p = significance(arms[0], arms[1], metric, table.reader)
            return p if (difference < 0) == higher else 1.0

        try:
            marks = by_tests({label: v.value for label, v in values.items()}, p_value, higher=higher)
        except CompressorError:
            return tuple(option.label for option in fitting[1:])
    return tuple(o.label for o in fitting[1:] if marks.get(o.label) is Mark.tied)


def _setting(table: Table, question: Question) -> str:
    return table.setting(question.task or "", question.runtime).label


def _higher(table: Table, task: str) -> bool:
    return next((row.quality[task].higher_is_better for row in table.rows if task in row.quality), True)
