"""The comparison of many runs: one row a candidate, and in one column only what may be compared.

Quality is compared within a task on equal examples, whatever the machine. A speed-up is the ratio to the teacher that was
interleaved in the same run, and is compared within one setting (`conditions.py`); milliseconds are shown, and compared with
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from compressor.compare.candidates import join
from compressor.compare.conditions import Setting, settings
from compressor.compare.pairing import PredictionReader, examples_of, significance
from compressor.compare.predictions import PREDICTIONS
from compressor.compare.ranking import Mark, by_counts, by_intervals, by_tests
from compressor.compare.reseeding import SeedFlips, seed_flips
from compressor.compare.rows import OTHER_EXAMPLES, Row, make_row, noise_in, speed_cells
from compressor.compare.runs import Rejected, Run, Runs, Why
from compressor.errors import CompressorError, ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All that the runs say together.

    Attributes:
        rows: Teachers first.
        metrics: The metric of each task's column.
        settings: Columns of speed-ups.
        rejected: Folders that are not compared, each with its reason.
        notes: What a reader should know.
        flips: Answers that differ from the teacher's and between seeds, where there is a second seed.
        reader: Where predictions come from.
    """

    rows: tuple[Row, ...]
    metrics: Mapping[str, str]
    settings: tuple[Setting, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    flips: tuple[SeedFlips, ...]
    reader: PredictionReader = field(repr=False, compare=False)

    def row(self, label: str) -> Row:
        """Find a candidate by its label.

        Raises:
            ConfigError: None has it.
        """
        found = next((row for row in self.rows if row.label == label), None)
        if found is None:
            raise ConfigError(f"no candidate is called '{label}'", allowed="; ".join(row.label for row in self.rows))
        return found

    def setting(self, task: str, runtime: str | None) -> Setting:
        """Find a column of speed-ups by runtime, or by label where one runtime has several.

        Raises:
            ConfigError: There is none, or more than one.
        """
        columns = [s for s in self.settings if s.task == task]
        found = [s for s in columns if runtime in (None, s.label)] or [s for s in columns if s.runtime == runtime]
        if len(found) != 1:
            got = f"runtime={runtime}" if runtime else "no runtime"
            raise ConfigError(
                f"{got}: {len(found)} columns of '{task}' fit",
                allowed=", ".join(s.label for s in columns) or "none timed",
            )
        return found[0]

    def one_task(self, task: str | None) -> str:
        """Return the task that is meant.

        Raises:
            ConfigError: It is unknown, or there are several and none was named.
        """
        chosen = next(iter(self.metrics)) if task is None and len(self.metrics) == 1 else task
        if chosen is None or chosen not in self.metrics:
            raise ConfigError(f"task={task}", allowed=", ".join(self.metrics))
        return chosen


def compare(runs: Runs, *, metric: str | None = None) -> Table:
    """Join runs into one table.

    Args:
        runs: What `load_runs` found.
        metric: The metric of the columns, e.g. `accuracy@vader`; without it the first one of each task.

    Raises:
        ConfigError: No run has the metric.
    """
    metrics = _metrics(runs, metric)
    wanted = [(run, metric or metrics[run.result.task]) for run in runs.runs]
    without = tuple(_without(run, name) for run, name in wanted if name not in run.result.teacher.metrics)
    candidates = join([run for run, name in wanted if name in run.result.teacher.metrics])
    cells = {candidate.label: speed_cells(candidate) for candidate in candidates}
    named = {k: s for k, s in settings(key for found in cells.values() for key in found).items() if k[0] in metrics}
    rows = [
        make_row(
            candidate,
            metrics,
            {(named[k].task, named[k].label): cell for k, cell in cells[candidate.label].items() if k in named},
        )
        for candidate in candidates
    ]
    reader, notes = PredictionReader(), list[str]()
    for task, name in metrics.items():
        rows = _judge_quality(rows, task, name, reader, notes)
    for setting in named.values():
        rows = _judge_speed(rows, setting)
        notes += _doubts(rows, setting)
    columns = tuple(named.values())
    return Table(
        rows=tuple(_judge_counts(rows)),
        metrics=metrics,
        settings=columns,
        rejected=(*runs.rejected, *without),
        notes=tuple(notes),
        flips=seed_flips(candidates, metrics, reader),
        reader=reader,
    )


def _metrics(runs: Runs, wanted: str | None) -> dict[str, str]:
    known: dict[str, dict[str, None]] = {}
    for run in runs.runs:
        known.setdefault(run.result.task, {}).update(dict.fromkeys(run.result.teacher.metrics))
    if wanted is None:
        return {task: next(iter(names)) for task, names in known.items() if names}
    chosen = {task: wanted for task, names in known.items() if wanted in names}
    if not chosen:
        every = dict.fromkeys(name for names in known.values() for name in names)
        raise ConfigError(f"metric={wanted}", allowed=", ".join(every))
    return chosen


def _without(run: Run, metric: str) -> Rejected:
    """Return a run whose models were not scored by the metric."""
    has = f"'{metric}' is not among {', '.join(run.result.teacher.metrics)}"
    return Rejected(folder=run.folder, name=run.name, why=Why.no_metric, reason=has, overrides=run.overrides)


def _judge_quality(
    rows: Sequence[Row], task: str, metric: str, reader: PredictionReader, notes: list[str]
) -> list[Row]:
    """Mark the best of a task; a row of other examples, or without predictions, says so and is not ranked."""
    examples: dict[str, str] = {}
    remarks: dict[str, str] = {}
    present = [row for row in rows if task in row.quality]
    bare = [
        row for row in present if not any((arm.run.folder / PREDICTIONS).is_dir() for arm in row.candidate.on(task))
    ]
    if bare and len(present) > 1:
        notes.append(f"not ranked on {task}, for want of predictions: {', '.join(row.label for row in bare)}")
    for row in present if len(present) > 1 else ():
        if row in bare:
            continue
        scored = row.candidate.scored(task, metric)
        if row.is_teacher:
            scored = scored[:1]  # it lies in every run, and is not ranked
        try:
            examples[row.label] = examples_of(scored, metric, reader)
        except CompressorError as error:
            remarks[row.label] = "not paired"
            notes.append(f"{row.label} on {task} is not ranked: {error.got}")
    if examples:
        common = Counter(examples.values()).most_common(1)[0][0]
        remarks |= {label: OTHER_EXAMPLES for label, found in examples.items() if found != common}
    ranked = {r.label: r for r in present if r.label in examples and r.label not in remarks and not r.is_teacher}
    higher = next((row.quality[task].higher_is_better for row in ranked.values()), True)

    def p_value(label: str, best: str) -> float:
        arms = [ranked[name].candidate.scored(task, metric) for name in (label, best)]
        difference, p = significance(arms[0], arms[1], metric, reader)
        return p if (difference < 0) == higher else 1.0  # on the seeds that both have, the best is not ahead

    marks: Mapping[str, Mark] = {}
    try:
        marks = by_tests({label: r.quality[task].score.value for label, r in ranked.items()}, p_value, higher=higher)
    except CompressorError as error:
        notes.append(f"the best on {task} is not marked: {error.got}")
    return [
        replace(
            row,
            quality={
                **row.quality,
                task: replace(row.quality[task], mark=marks.get(row.label), remark=remarks.get(row.label)),
            },
        )
        if task in row.quality
        else row
        for row in rows
    ]


def _judge_speed(rows: Sequence[Row], setting: Setting) -> list[Row]:
    key = setting.task, setting.label
    ratios = {r.label: v for r in rows if key in r.speed and not r.is_teacher and (v := r.speed[key].speed_up)}
    marks = by_intervals(ratios, noise=noise_in(rows, key))
    if max((v.value for v in ratios.values()), default=0.0) <= 1:
        marks = {}  # nobody wins a race by being slower than the teacher
    return [
        replace(row, speed={**row.speed, key: replace(row.speed[key], mark=marks[row.label])})
        if row.label in marks
        else row
        for row in rows
    ]


def _doubts(rows: Sequence[Row], setting: Setting) -> list[str]:
    """Say on which rows the machine's noise puts the speed in doubt."""
    key = setting.task, setting.label
    found = [(row.label, row.speed[key].unstable) for row in rows if not row.is_teacher and key in row.speed]
    return [f"timing of {label} on {setting.label}: {'; '.join(why)}" for label, why in found if why]


def _judge_counts(rows: Sequence[Row]) -> list[Row]:
    ranked = [row for row in rows if not row.is_teacher]
    parameters = by_counts({row.label: row.parameters for row in ranked})
    sizes = by_counts({row.label: row.size_bytes for row in ranked})
    return [
        row
        if row.is_teacher
        else replace(
            row,
            marks={
                name: marks[row.label]
                for name, marks in (("parameters", parameters), ("size_bytes", sizes))
                if row.label in marks
            },
        )
        for row in rows
    ]
