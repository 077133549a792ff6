"""What the predictions in a run folder show: flips, slices, and who is as good as the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.compare.flips import Flip, find_flips, score_changes
from compressor.compare.multiplicity import best_set
from compressor.compare.predictions import PREDICTIONS, PredictionTable, Tables, prediction_file, read_tables
from compressor.compare.slices import Slice, parts, slice_metric
from compressor.compare.texts import read_texts
from compressor.errors import StoreError
from compressor.report import cells
from compressor.report.grid import Grid
from compressor.report.markup import inline, section, table
from compressor.results import RunResult
from compressor.tasks import task_type

if TYPE_CHECKING:
    from compressor.compare.bootstrap import Estimate
    from compressor.tasks.metrics import Metric

WORST = 50  # flips that are listed
_IN_MARKDOWN = 10
_TAGS = 4  # differing words of a sentence that are shown
_TOO_SMALL = "n too small"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Sentences on who is as good as the best, and tables of flips and slices, one a model and split or a split."""

    best: tuple[str, ...]
    flips: tuple[Grid, ...]
    slices: tuple[Grid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run's result with the predictions that stand in its folder."""

    result: RunResult
    tables: Mapping[str, Tables]
    metric: Metric  # the one that heads the table
    scores: bool  # the task predicts numbers

    @property
    def teacher(self) -> str:
        return self.result.teacher.name

    @property
    def others(self) -> list[str]:
        return [c.name for c in cells.ordered(self.result) if c.name != self.teacher]


def read_examples(result: RunResult, folder: Path) -> Examples | None:
    """Return what a run with candidates shows, from the Parquet files in its folder alone; None where it has none.

    Raises:
        StoreError: A file is missing or damaged, or the candidates' are of different examples.
    """
    if not result.candidates or not (folder / PREDICTIONS).is_dir():
        return None
    splits = list(dict.fromkeys(name.partition("@")[2] or "test" for name in cells.metric_names(result)))
    files = {c.name: {s: prediction_file(folder, c.name, s) for s in splits} for c in result.candidates}
    task, labels = task_type(result.task_type), result.label_names
    run = _Run(
        result=result,
        tables=read_tables(files),
        metric=task.metrics[0],
        scores=not labels and not task.self_supervised,
    )
    pairs = [(name, split) for split in splits for name in run.others] if labels or run.scores else []
    texts = {split: read_texts(folder, split) for split in splits} if pairs else {}
    return Examples(
        best=tuple(line for split in splits for line in _best(run, split)),
        flips=tuple(_flips(run, name, split, texts[split]) for name, split in pairs),
        slices=tuple(_slices(run, split) for split in splits),
    )


def examples(found: Examples | None) -> list[str]:
    """Return the sections of report.md."""
    if found is None:
        return section("Flips and slices", ["Not available: no predictions stand beside this report."])
    return [
        *section("Best", [f"- {inline(line)}" for line in found.best]),
        *section("Flips", [line for grid in found.flips for line in _drawn(grid)]),
        *section("Slices", [line for grid in found.slices for line in _drawn(grid)]),
    ]


def _drawn(grid: Grid) -> list[str]:
    lead = f": {inline(grid.lead)}" if grid.lead else ""
    cut = f" The first {_IN_MARKDOWN}:" if len(grid.rows) > _IN_MARKDOWN and lead else ""
    shown = grid.rows[:_IN_MARKDOWN] if lead else grid.rows
    return [f"**{inline(grid.title)}**{lead}{cut}", "", *([*table(grid.header, shown), ""] if shown else [])]


def _best(run: _Run, split: str) -> list[str]:
    """Name those that the data cannot tell from the best; with a single candidate the verdict has said it."""
    if len(run.others) < 2:
        return []
    predictions = {name: run.tables[name][split].predictions for name in (run.teacher, *run.others)}
    references = run.tables[run.teacher][split].references
    found = best_set(run.metric, predictions, references, run.result.label_names, seed=run.result.seed)
    ties = ", ".join(name for name in found.members if name != found.best) or "nobody"
    return [
        f"{run.metric.name} on {split}: {found.best} has the best value; not separable from it "
        f"(paired tests, Holm over {len(found.p_values)}, level {found.level}): {ties}."
    ]


def _flips(run: _Run, name: str, split: str, texts: Mapping[int, str]) -> Grid:
    ours, theirs, labels = run.tables[name][split], run.tables[run.teacher][split], run.result.label_names
    title, header = f"{name} on {split}", ["id", "label", run.teacher, name]
    if run.scores:
        changes = score_changes(ours, theirs)[:WORST]
        rows = [
            (str(c.id), f"{c.reference:.3f}", f"{c.baseline:.3f}", f"{c.candidate:.3f}", f"{c.change:+.3f}")
            for c in changes
        ]
        lead = "the largest changes of the score."
        return Grid(
            title=title,
            lead=lead,
            header=(*header, "change"),
            rows=tuple(rows),
            texts=_texts([c.id for c in changes], texts),
        )
    found = find_flips(ours, theirs, classes=len(labels))
    flipped, worst = found.flipped, found.worst(WORST)
    lead = (
        f"{round(flipped.value * flipped.n):,} of {flipped.n:,} answers differ from those of {run.teacher} "
        f"({cells.rate(flipped)}): {len(found.gained):,} gained, {len(found.lost):,} lost, {len(found.changed):,} otherwise "
        f"wrong{'; the worst first' if worst else ''}."
    )
    header.append("probability of the label")
    return Grid(
        title=title,
        lead=lead,
        header=tuple(header),
        rows=tuple(tuple(_flip_row(flip, labels)) for flip in worst),
        texts=_texts([flip.id for flip in worst], texts),
    )


def _texts(ids: Sequence[int], texts: Mapping[int, str]) -> tuple[str, ...]:
    if not texts:
        return ()
    if strange := [i for i in ids if i not in texts]:
        raise StoreError(f"the kept texts lack example {strange[0]}", allowed="texts of the predicted examples")
    return tuple(texts[i] for i in ids)


def _flip_row(flip: Flip, labels: tuple[str, ...]) -> list[str]:
    if isinstance(flip.reference, list):
        answers = zip(flip.baseline, flip.candidate, strict=True)
        places = [i for i, (theirs, ours) in enumerate(answers) if theirs != ours]
        tags = [_tags(answer, places, labels) for answer in (flip.reference, flip.baseline, flip.candidate)]
        return [str(flip.id), *tags, cells.NOTHING]
    chosen = [labels[flip.baseline], labels[flip.candidate]]
    of_label = cells.NOTHING
    if flip.probabilities is not None:
        theirs, ours = flip.probabilities
        chosen = [f"{chosen[0]} {theirs[flip.baseline]:.2f}", f"{chosen[1]} {ours[flip.candidate]:.2f}"]
        of_label = f"{theirs[flip.reference]:.2f} to {ours[flip.reference]:.2f}"
    return [str(flip.id), labels[flip.reference], *chosen, of_label]


def _tags(answer: Sequence[Any], places: Sequence[int], labels: tuple[str, ...]) -> str:
    """Show the tags of some words, counted from 1."""
    shown = ", ".join(f"{i + 1}:{labels[answer[i]]}" for i in places[:_TAGS])
    return f"{shown}, ..." if len(places) > _TAGS else shown


def _slices(run: _Run, split: str) -> Grid:
    theirs, labels = run.tables[run.teacher][split], run.result.label_names
    chosen = parts(theirs, labels)

    def sliced(table_of: PredictionTable) -> list[Slice]:
        return slice_metric(run.metric, table_of, theirs, labels, chosen, seed=run.result.seed)

    columns = [sliced(theirs), *(sliced(run.tables[name][split]) for name in run.others)]
    rows = []
    for teacher, *others in zip(*columns, strict=True):
        row = [teacher.name, f"{teacher.n:,}", _value(teacher.value)]
        for one in others:
            row += [_value(one.value), _difference(one.difference)]
        rows.append(tuple(row))
    header = ["examples", "n", run.teacher]
    for name in run.others:
        header += [name, f"{name} vs {run.teacher}"]
    return Grid(title=f"{run.metric.name} on {split}", header=tuple(header), rows=tuple(rows))


def _value(found: Estimate | None) -> str:
    return _TOO_SMALL if found is None else cells.interval(found.value, (found.ci95.low, found.ci95.high))


def _difference(found: Estimate | None) -> str:
    if found is None:
        return _TOO_SMALL
    return f"{found.value * 100:+.1f} ({found.ci95.low * 100:+.1f}..{found.ci95.high * 100:+.1f})"
