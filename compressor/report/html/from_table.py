"""The page of many runs: a comparison as a `Report`, with the marks, fronts and remarks that its other formats show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compressor.compare.choice import Want, pick
from compressor.compare.front import SIZE, Front, Place, pareto
from compressor.compare.front import Point as Placed
from compressor.compare.rows import Row as Candidate
from compressor.compare.runs import Run
from compressor.compare.table import Table
from compressor.report import cells
from compressor.report.answers import sentence
from compressor.report.comparison_data import reason
from compressor.report.grid import Grid
from compressor.report.html.run_rows import TIMES, signed
from compressor.report.html.table_rows import matrix_rows
from compressor.report.html.view import Model, Point, Report, Tradeoff
from compressor.report.remarks import LEGEND, notes, over_seeds, seed_lines
from compressor.report.verdict import typographic

POINTS = 1.0  # that a model may lose where the page names the smallest and the fastest
# What no two runs share.
_OF_ONE_RUN = (
    "load_average", "cpu_pressure", "before_measuring", "rounds", "workload", "affinity", "scenario_rounds",
    "throughput_texts",
)  # fmt: skip
METHOD = f"""\
- A row is one chain with one set of options; runs that differ in the seed alone are one row. A model's own folder says how each
  number was measured.
- Differences are against the teacher of the same run, paired by example, with 95 % intervals; the best are told apart on equal
  examples only, and only where the predictions stand beside the results.
- Speed-ups are over the teacher that was interleaved in the same run, and are compared within one column: one machine,
  protocol, software, number of threads, batch size and teacher. Milliseconds are shown, and compared with nothing.
- {LEGEND[0].upper()}{LEGEND[1:]}.
- Seconds and peak memory are not ranked: nothing is known about their error, and machines differ."""


def from_table(table: Table, *, command: str = "") -> Report:
    """Return what the page of a comparison shows.

    Args:
        table: The comparison.
        command: How it was made.
    """
    planes = sorted(pareto(table), key=lambda front: front.against == SIZE)  # bytes last, as on the page of a run
    models = {row.label: _model(i + 1, row) for i, row in enumerate(table.rows)}
    runs = list({a.run.folder: a.run for row in table.rows for a in row.candidate.arms}.values())
    labels = list(models)
    sentences = [*(said for row in table.rows for said in over_seeds(row, table)), *seed_lines(table)]
    return Report(
        title=f"{len(runs)} run{'s' * (len(runs) != 1)} compared on {_and(table.metrics)}",
        verdict=tuple(typographic(said, labels) for said in _verdict(table)),
        facts=_facts(table, runs),
        models=tuple(models.values()),
        rows=matrix_rows(table),
        marks="the teacher is not ranked",
        tradeoffs=tuple(plane for front in planes if (plane := _plane(front, table, models)) is not None),
        flips=_flips(table),
        sentences=tuple(typographic(said, labels) for said in sentences),
        notes=tuple(notes(table)),
        rejected=tuple(f"{r.name}: {reason(r)}" for r in table.rejected),
        conditions=_conditions(table),
        method=METHOD,
        command=command,
        environment=_environments(runs),
    )


def _model(number: int, row: Candidate) -> Model:
    return Model(number=number, name=row.label, role="baseline" if row.candidate.role == "baseline" else "")


def _verdict(table: Table) -> list[str]:
    """Say which are the smallest, the fastest and the most accurate, as far as that is known."""
    said: list[str] = []
    for task in table.metrics:
        asked: list[tuple[Want, str | None]] = [(Want.smallest, None)]
        asked += [(Want.fastest, s.label) for s in table.settings if s.task == task]
        where = f"{task}: " if len(table.metrics) > 1 else ""
        for want, runtime in asked:
            answer = pick(table, want, within=POINTS, runtime=runtime, task=task)
            if answer.chosen is not None or answer.closest is not None:
                said.append(where + sentence(answer, alone=True))
    count = len([row for row in table.rows if not row.is_teacher])
    return said or [f"{count} model{'s' * (count != 1)} beside {'its' if count == 1 else 'their'} teacher."]


def _facts(table: Table, runs: Sequence[Run]) -> tuple[str, ...]:
    count = len(runs) + len(table.rejected)
    facts = [f"{count} folder{'s' * (count != 1)}, {len(runs)} compared"]
    for task, metric in table.metrics.items():
        n = {arm.result.metrics[metric].n for row in table.rows for arm in row.candidate.scored(task, metric)}
        facts.append(f"{metric} on {task}, n = {' or '.join(f'{one:,}' for one in sorted(n))}")
    machines = list(dict.fromkeys(s.conditions.machine.words() for s in table.settings))
    seeds = sorted({run.result.seed for run in runs})
    facts.append(machines[0] if len(machines) == 1 else f"{len(machines)} machines")
    return (*facts, f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}")


def _conditions(table: Table) -> tuple[str, ...]:
    """Return a line for each set of conditions, with the letter that columns bear where there are several."""
    columns: dict[str, list[str]] = {}
    for setting in table.settings:
        columns.setdefault(setting.conditions.words(), []).append(setting.label)
    return tuple(f"{_and(dict.fromkeys(labels))}: {words}" for words, labels in columns.items())


def _plane(front: Front, table: Table, models: Mapping[str, Model]) -> Tradeoff | None:
    rows = {row.label: row for row in table.rows}
    if len(front.points) < 2 or not rows[front.points[0].label].quality[front.task].higher_is_better:
        return None
    bytes_ = front.against == SIZE
    where = f"{front.task}, " if len(table.metrics) > 1 else ""
    said = ["Bars: 95 % intervals of the difference from the teacher (paired by example)"]
    said[0] += "; bytes are counted." if bytes_ else " and of the speed-up."
    said.append("Line: the front of the point estimates.")
    if perhaps := sum(p.place is Place.perhaps for p in front.points):
        said.append(f"Of the open circles {perhaps} may belong to it within the noise of this data.")
    for why in dict.fromkeys(why for _, why in front.left_out):
        said.append(f"Left out, {why}: {', '.join(label for label, other in front.left_out if other == why)}.")
    return Tradeoff(
        key=where + ("bytes" if bytes_ else front.against),
        x_label="size on disk, MB" if bytes_ else f"speed-up over the teacher on {front.against}",
        y_label=f"{front.metric} on {front.task}, of 100",
        y_most=100.0,
        points=tuple(_point(p, rows[p.label], front, models[p.label]) for p in front.points),
        x_higher_is_better=not bytes_,
        caption=" ".join(said),
    )


def _point(placed: Placed, row: Candidate, front: Front, model: Model) -> Point:
    """Place a model; the interval of its difference is put around its teacher's value."""
    gap = row.quality[front.task].difference
    scale = 1e-6 if front.against == SIZE else 1.0
    other = placed.other
    counted = front.against == SIZE or row.is_teacher or other.ci95 is None
    value = placed.quality.value * 100
    y_ci95 = None
    if gap is not None and gap.ci95 is not None:
        base = placed.quality.value - gap.value
        y_ci95 = (base + gap.ci95.low) * 100, (base + gap.ci95.high) * 100
    words = [f"{model.name}: {front.metric} {value:.1f}"]
    words.append(f"{other.value / 1e6:.1f} MB" if front.against == SIZE else f"{TIMES}{other.value:.2f}")
    words += [] if gap is None else [f"{signed(gap.value)} points"]
    by = f" by {', '.join(placed.by[:3])}" + (f" and {len(placed.by) - 3} more" if len(placed.by) > 3 else "")
    words.append("on the front" if placed.place is Place.front else f"{placed.place}{by}")
    return Point(
        model=model,
        x=other.value * scale,
        y=value,
        x_ci95=None if counted or other.ci95 is None else (other.ci95.low * scale, other.ci95.high * scale),
        y_ci95=y_ci95,
        reference=row.is_teacher,
        title="; ".join(words),
    )


def _flips(table: Table) -> tuple[Grid, ...]:
    """Return the flips against the teacher beside those between seeds; nothing without a second seed."""
    grids = []
    for task, split in dict.fromkeys((f.task, f.split) for f in table.flips):
        found = [f for f in table.flips if (f.task, f.split) == (task, split)]
        rows = tuple(
            (
                f.label,
                cells.NOTHING if f.against is None else cells.rate(f.against),
                cells.NOTHING if f.between is None else cells.rate(f.between),
                ", ".join(map(str, f.seeds)),
            )
            for f in found
        )
        header = ("model", "differ from the teacher's", "differ between seeds", "seeds")
        lead = "Answers that another seed of the same recipe changes, beside those that differ from the teacher's."
        grids.append(Grid(title=f"{task}, {split}", lead=lead, header=header, rows=rows))
    return tuple(grids)


def _environments(runs: Sequence[Run]) -> dict[str, Any]:
    """Return each environment once, under the runs that were measured in it."""
    groups: dict[str, tuple[list[str], Mapping[str, Any]]] = {}
    for run in runs:
        shared = {key: value for key, value in run.result.environment.items() if key not in _OF_ONE_RUN}
        groups.setdefault(json.dumps(shared, sort_keys=True, default=str), ([], shared))[0].append(run.name)
    return {", ".join(names): shared for names, shared in groups.values() if shared}


def _and(words: Sequence[str] | Mapping[str, Any]) -> str:
    listed = list(words)
    return "".join(listed) if len(listed) < 2 else f"{', '.join(listed[:-1])} and {listed[-1]}"
