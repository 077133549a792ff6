"""One candidate's numbers: its quality on each task and its speed in each setting, from one run or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressor.compare.candidates import TEACHER, Arm, Candidate
from compressor.compare.conditions import Conditions, Machine, software
from compressor.compare.ranking import Mark
from compressor.compare.runs import Run
from compressor.compare.statistics import Interval
from compressor.compare.values import Value, exact, interval_at, over_runs, over_seeds, over_tasks
from compressor.compare.verdicts import MARGIN, NOISE, accuracy_word, latency_word, noise_of
from compressor.results import Comparison, Latency, LineageStep

OTHER_EXAMPLES = "other examples"
SpeedKey = tuple[str, str, Conditions]  # task, runtime, conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityCell:
    """A candidate's metric on one task.

    Attributes:
        score: The metric, over the seeds.
        higher_is_better: Its direction.
        kept: Share of the teacher's value of the same run; None for a teacher, or beside one that is not above 0.
        difference: From the teacher of the same run, paired by example; None for a teacher.
        verdict: On that difference.
        detectable: The smallest difference that would be found with 80 % power.
        mark: Whether it is the best, or cannot be told from the best.
        remark: Why it is not ranked.
    """

    score: Value
    higher_is_better: bool
    kept: Value | None = None
    difference: Value | None = None
    verdict: str | None = None
    detectable: float | None = None
    mark: Mark | None = None
    remark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCell:
    """A candidate's speed in one setting.

    Attributes:
        p50_ms: Median call of each run as (seed, milliseconds), pooled with an interval; compared with no other run's.
        speed_up: Ratio to the teacher that was interleaved in the same run; None for a teacher, or one that was refused.
        verdict: On the ratio.
        null_ratio: Of the null arm that strayed furthest from 1: the instrument's own error.
        refusals: The runtime's words, where it did not take the candidate.
        unstable: Why a run's own timing is doubtful.
        mark: Whether it is the fastest, or cannot be told from the fastest.
        load_seconds: Loading, libraries imported and files warm, mean over the runs; never ranked: its error is not known.
        first_call_seconds: The first call after it, likewise.
    """

    p50_ms: Value | None
    speed_up: Value | None = None
    verdict: str | None = None
    null_ratio: float | None = None
    refusals: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()
    mark: Mark | None = None
    load_seconds: float | None = None
    first_call_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate.

    Attributes:
        candidate: What it is, and its runs.
        parameters: Parameters; a mean where seeds differ.
        size_bytes: Bytes of the artifact as shipped.
        peak_memory_bytes: Never ranked, for nothing is known about its error.
        training_seconds: Of its own chain; never ranked, for machines and loads differ.
        cost: Of these seconds at the run's `bench.price_per_hour`, in its currency; None unless every run says its price.
        quality: Its cell of each task.
        speed: Its cell of each setting, by task and the setting's label.
        macro_kept: Mean over the tasks of what it keeps; None with fewer than two tasks, or where it lacks one.
        marks: Of the columns `parameters` and `size_bytes`.
    """

    candidate: Candidate
    parameters: Value
    size_bytes: Value
    peak_memory_bytes: Value | None
    training_seconds: Value | None
    cost: Value | None
    quality: Mapping[str, QualityCell]
    speed: Mapping[tuple[str, str], SpeedCell]
    macro_kept: Value | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What it is called."""
        return self.candidate.label

    @property
    def is_teacher(self) -> bool:
        """Whether others are compared with it; a teacher is no winner of a column."""
        return self.candidate.role == TEACHER


def make_row(candidate: Candidate, metrics: Mapping[str, str], speed: Mapping[tuple[str, str], SpeedCell]) -> Row:
    """Return a candidate's row without marks; `metrics` names each task's column."""
    quality = {t: cell for t, m in metrics.items() if (cell := quality_cell(candidate, t, m)) is not None}
    first = candidate.on(next(t for t in metrics if candidate.on(t)))  # the head differs between tasks
    kept = [cell.kept for cell in quality.values() if cell.kept is not None]
    memory = [(a.seed, float(a.result.peak_memory_bytes)) for a in first if a.result.peak_memory_bytes is not None]
    made = [(a, s) for a in first if (s := making_seconds(a.result.lineage)) is not None]
    costs = [(a.seed, s * price / 3600) for a, s in made if (price := _price(a.run)) is not None]
    return Row(
        candidate=candidate,
        parameters=_count([(a.seed, float(a.result.parameters)) for a in first]),
        size_bytes=_count([(a.seed, float(a.result.size_bytes)) for a in first]),
        peak_memory_bytes=over_seeds(memory, [None] * len(memory)) if memory else None,
        training_seconds=over_seeds([(a.seed, s) for a, s in made], [None] * len(made)) if made else None,
        cost=over_seeds(costs, [None] * len(costs)) if costs and len(costs) == len(made) else None,
        quality=quality,
        speed=speed,
        macro_kept=over_tasks(kept) if len(kept) == len(metrics) > 1 else None,
    )


def quality_cell(candidate: Candidate, task: str, metric: str) -> QualityCell | None:
    """Return a candidate's metric on a task; None where it has none."""
    arms = candidate.scored(task, metric)
    if not arms:
        return None
    found = [arm.result.metrics[metric] for arm in arms]
    score = over_seeds(
        [(a.seed, m.value) for a, m in zip(arms, found, strict=True)], [Interval(*m.ci95) for m in found]
    )
    higher = found[0].higher_is_better
    verdicts = [next((c for c in a.against(a.teacher.name) if c.metric == metric), None) for a in arms]
    known = [(a, c) for a, c in zip(arms, verdicts, strict=True) if c is not None and c.difference is not None]
    if candidate.role == TEACHER or len(known) < len(arms):
        return QualityCell(score=score, higher_is_better=higher)
    difference = over_seeds([(a.seed, c.difference or 0.0) for a, c in known], [Interval(*c.ci95) for _, c in known])
    bases = [a.teacher.metrics[metric].value for a, _ in known]
    word, detectable = _quality_verdict(difference, sum(bases) / len(bases), higher, [c for _, c in known])
    return QualityCell(
        score=score,
        higher_is_better=higher,
        kept=_kept(arms, metric, [c for _, c in known]) if min(bases) > 0 else None,
        difference=difference,
        verdict=word,
        detectable=detectable,
    )


def speed_cells(candidate: Candidate) -> dict[SpeedKey, SpeedCell]:
    """Return a candidate's speed under all conditions that it was timed under."""
    groups: dict[SpeedKey, list[tuple[Arm, Latency]]] = {}
    for arm in candidate.arms:
        for timed in arm.result.latency:
            key = arm.run.result.task, timed.runtime, conditions_of(arm, timed)
            groups.setdefault(key, []).append((arm, timed))
    return {key: _speed_cell(entries) for key, entries in groups.items()}


def noise_in(rows: Sequence[Row], key: tuple[str, str]) -> float:
    """Return how far apart two ratios of a setting must be to be called different, from the null arms of all its runs."""
    return max((noise_of(row.speed[key].null_ratio) for row in rows if key in row.speed), default=NOISE)


def conditions_of(arm: Arm, timed: Latency) -> Conditions:
    """Return what another latency must share with this one to be compared with it.

    A teacher counts as the same when recipe and size are: its weights, which the seed moves, do not change its speed.
    """
    environment = arm.run.result.environment
    return Conditions(
        machine=Machine.of(environment, arm.run.name),
        protocol=str(environment.get("protocol", f"unknown, of {arm.run.name}")),
        software=software(environment),
        threads=timed.threads,
        batch_size=timed.batch_size,
        workload=_workload(arm.run),
        teacher=f"{arm.teacher_recipe}, {arm.teacher.parameters:,} parameters",
    )


def _workload(run: Run) -> str:
    """Return from what the timed texts were drawn, how many, and where they ran.

    Which ones is decided by the seed: they are drawn evenly over all lengths, and a ratio over several seeds is over several
    draws.
    """
    bench, task, environment = run.config.get("bench"), run.config["task"], run.result.environment
    bench = bench if isinstance(bench, Mapping) else {}
    words = {"max_length": task.get("max_length"), "texts": bench.get("texts"), "pin": bench.get("pin")}
    timed, splits = environment.get("workload"), environment.get("splits")
    if isinstance(timed, Mapping) and isinstance(splits, Mapping):  # older results do not say
        words["of data"] = splits.get(str(timed.get("split")))
    return ", ".join(f"{name} {value}" for name, value in words.items())


def _speed_cell(entries: Sequence[tuple[Arm, Latency]]) -> SpeedCell:
    refusals = tuple(dict.fromkeys(timed.refusal for _, timed in entries if timed.refusal))
    calls = [(a, t, t.latency_ms_p50) for a, t in entries if t.latency_ms_p50]
    if not calls:
        return SpeedCell(p50_ms=None, refusals=refusals)
    p50 = over_runs(
        [(a.seed, ms) for a, _, ms in calls], [None if t.ci95 is None else Interval(*t.ci95) for _, t, _ in calls]
    )
    load, first = (_mean([getattr(t, n) for _, t, _ in calls]) for n in ("load_seconds", "first_call_seconds"))
    compared = [
        (arm, found)
        for arm, timed, _ in calls
        for found in arm.against(arm.teacher.name)
        if found.runtime == timed.runtime and found.ratio
    ]
    if not compared:
        return SpeedCell(p50_ms=p50, refusals=refusals, load_seconds=load, first_call_seconds=first)
    ratio = over_runs([(a.seed, c.ratio or 1.0) for a, c in compared], [Interval(*c.ci95) for _, c in compared])
    null = furthest(c.null_ratio for _, c in compared)
    word = compared[0][1].verdict if len(compared) == 1 else ratio_word(ratio, null)
    doubts = tuple(dict.fromkeys(text for _, timed, _ in calls for text in timed.unstable))
    return SpeedCell(
        p50_ms=p50,
        speed_up=ratio,
        verdict=word,
        null_ratio=null,
        refusals=refusals,
        unstable=doubts,
        load_seconds=load,
        first_call_seconds=first,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def furthest(null_ratios: Iterable[float | None]) -> float | None:
    """Return which of several null arms strayed furthest from 1; None where nothing is known of any."""
    return max((n for n in null_ratios if n is not None), key=lambda n: abs(n - 1), default=None)


def ratio_word(ratio: Value, null_ratio: float | None = None) -> str | None:
    """Return the verdict on a ratio of speeds; None where nothing is known of its error."""
    narrow = interval_at(ratio, 0.90)
    if ratio.ci95 is None or narrow is None:
        return None
    return latency_word(ratio.ci95, narrow, noise_of(null_ratio)).value


def _quality_verdict(
    difference: Value, base: float, higher: bool, compared: Sequence[Comparison]
) -> tuple[str | None, float | None]:
    """Return verdict and smallest difference that can be found: the run's own, or over the seeds."""
    if len(compared) == 1:
        return compared[0].verdict, compared[0].detectable_difference
    if difference.ci95 is None:
        return None, None
    found = difference.ci95 if higher else Interval(-difference.ci95.high, -difference.ci95.low)
    # The strictest that the runs were judged by; a result from elsewhere may not say.
    margins = [c.margin for c in compared if c.margin is not None]
    word = accuracy_word(found, min(margins, default=MARGIN * abs(base))).value
    if difference.freedom is None:
        return word, max(c.detectable_difference for c in compared)
    from scipy.stats import t

    wide, power = (float(t.ppf(q, difference.freedom)) for q in (0.975, 0.8))
    return word, (difference.half or 0.0) / wide * (wide + power)


def _kept(arms: Sequence[Arm], metric: str, compared: Sequence[Comparison]) -> Value:
    """Return the share of the teacher's value; the interval of one run is its paired difference's, around 1."""
    shares, intervals = [], []
    for arm, found in zip(arms, compared, strict=True):
        base = arm.teacher.metrics[metric].value
        shares.append((arm.seed, arm.result.metrics[metric].value / base))
        intervals.append(Interval(1 + found.ci95[0] / base, 1 + found.ci95[1] / base))
    return over_seeds(shares, intervals)


def making_seconds(lineage: Sequence[LineageStep]) -> float | None:
    """Return what making a model took, training stages that were reused included; None for one that came as it is."""
    return sum(max(step.seconds, _training_seconds(step.notes)) for step in lineage) if lineage else None


def _training_seconds(notes: Any) -> float:
    """Add up what the stages of a step recorded; a stage that was reused counts as when it was trained."""
    if isinstance(notes, Mapping):
        own = notes.get("training_seconds")
        return float(own) if isinstance(own, (int, float)) else sum(_training_seconds(v) for v in notes.values())
    return sum(_training_seconds(v) for v in notes) if isinstance(notes, (list, tuple)) else 0.0


def _price(run: Run) -> float | None:
    """Return what an hour of the run's machine costs; None where nobody said."""
    bench = run.config.get("bench")
    price = bench.get("price_per_hour") if isinstance(bench, Mapping) else None
    return float(price) if isinstance(price, (int, float)) and 0 <= price < math.inf else None


def _count(each: Sequence[tuple[int, float]]) -> Value:
    return exact(each[0][1]) if len({value for _, value in each}) == 1 else over_seeds(each, [None] * len(each))
