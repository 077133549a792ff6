"""The table over many runs: one row a candidate, and a row for every run that failed or was skipped."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.compare.conditions import Setting
from compressor.compare.ranking import Mark
from compressor.compare.rows import QualityCell, Row, SpeedCell
from compressor.compare.runs import Rejected
from compressor.compare.table import Table
from compressor.compare.values import Value
from compressor.compare.verdicts import Word
from compressor.report import cells
from compressor.report.comparison_data import flat, reason, values
from compressor.report.html.from_table import from_table
from compressor.report.remarks import LEGEND, notes, over_seeds, seed_lines
from compressor.report.views import View


def comparison(table: Table, *, command: str = "") -> View:
    """Return the view of a comparison; `command` is what made it, for the page."""
    columns = _columns(table)
    header = ["candidate", "params M\nsize MB\npeak MB\ntrain s", *(name for name, _ in columns)]
    if len(table.metrics) > 1:
        header.append("kept\nover tasks")
    rows = [_row(row, table, columns) for row in table.rows]
    same = _typed_everywhere(table)
    for r in table.rejected:
        if r.why.is_an_end:
            rows.append([[_typed(r, same), r.why.value], *([cells.NOTHING] for _ in header[1:])])
    flat_header, flat_rows = flat(table)
    return View(
        title="",
        header=header,
        rows=rows,
        lines=_lines(table),
        flat_header=flat_header,
        flat_rows=flat_rows,
        values=values(table),
        page=lambda: from_table(table, command=command),
    )


def _typed_everywhere(table: Table) -> set[str]:
    every = [set(arm.run.overrides) for row in table.rows for arm in row.candidate.arms]
    every += [set(r.overrides) for r in table.rejected if r.overrides]
    return set.intersection(*every) if len(every) > 1 else set()


def _typed(rejected: Rejected, same: set[str]) -> str:
    """Return the folder's name and what was typed for it alone, an experiment by its name."""
    words = [o.removeprefix("experiment=") for o in rejected.overrides if o not in same]
    return f"{rejected.name}: {' '.join(words)}" if words and rejected.name not in rejected.overrides else rejected.name


def _columns(table: Table) -> list[tuple[str, list[tuple[str, Setting | None]]]]:
    """Return the columns after the sizes as (header, cells to put together): (task, None) is the metric's."""
    columns: list[tuple[str, list[tuple[str, Setting | None]]]] = []
    for task, metric in table.metrics.items():
        timed: list[tuple[str, Setting | None]] = [(task, s) for s in table.settings if s.task == task]
        columns.append((f"{_of(task, table)}{metric}\nvs teacher", [(task, None)]))
        if len(table.metrics) > 1:
            columns += [(f"{task}\nspeed-up", timed)] if timed else []
        else:
            columns += [(f"{s.label}\np50 ms\nspeed-up", [(task, s)]) for _, s in timed if s is not None]
    return columns


def _of(task: str, table: Table) -> str:
    return f"{task}\n" if len(table.metrics) > 1 else ""


def _row(
    row: Row, table: Table, columns: Sequence[tuple[str, Sequence[tuple[str, Setting | None]]]]
) -> list[list[str]]:
    shown = [_label(row), _sizes(row)]
    for _, parts in columns:
        lines: list[str] = []
        for task, setting in parts:
            if setting is None:
                lines += quality_lines(row.quality.get(task))
            elif len(table.metrics) > 1:
                lines.append(" ".join([setting.label, *_brief(row.speed.get((task, setting.label)))]))
            else:
                lines += speed_lines(row.speed.get((task, setting.label)))
        shown.append(lines)
    if len(table.metrics) > 1:
        shown.append(_kept(row.macro_kept))
    return shown


def _kept(found: Value | None) -> list[str]:
    if found is None:
        return [cells.NOTHING]
    ends = found.ci95
    return [f"{found.value:.1%}", *([f"({ends.low:.1%}..{ends.high:.1%})"] if ends else [])]


def _label(row: Row) -> list[str]:
    seeds = sorted({arm.seed for arm in row.candidate.arms})
    lines = [row.label]
    if row.candidate.role == "baseline":
        lines.append("(baseline)")
    return [*lines, f"seeds {', '.join(map(str, seeds))}"] if len(seeds) > 1 else lines


def _sizes(row: Row) -> list[str]:
    found = row.peak_memory_bytes
    return [
        cells.millions(round(row.parameters.value)) + _mark(row.marks.get("parameters")),
        cells.megabytes(round(row.size_bytes.value)) + _mark(row.marks.get("size_bytes")),
        cells.megabytes(None if found is None else round(found.value)),
        cells.NOTHING if row.training_seconds is None else f"{row.training_seconds.value:.0f} s",
    ]


def quality_lines(cell: QualityCell | None) -> list[str]:
    """Return value, difference from the teacher, verdict, share kept, and the mark or the reason for none."""
    if cell is None:
        return [cells.NOTHING]
    lines = [_points(cell.score)]
    if cell.difference is not None:
        lines.append(f"{cell.difference.value * 100:+.1f}")
        if cell.difference.ci95 is not None:
            lines.append(f"({cell.difference.ci95.low * 100:+.1f}..{cell.difference.ci95.high * 100:+.1f})")
        lines += [cell.verdict] if cell.verdict else []
        if cell.verdict == Word.inconclusive and cell.detectable is not None:
            lines.append(f"finds {cell.detectable * 100:.1f}")
    if cell.kept is not None:
        lines.append(f"kept {cell.kept.value:.1%}")
    return lines + [word for word in (cell.mark and cell.mark.value, cell.remark) if word]


def speed_lines(cell: SpeedCell | None) -> list[str]:
    """Return milliseconds, speed-up, interval, verdict and mark, or `refused`."""
    if cell is None:
        return [cells.NOTHING]
    if cell.p50_ms is None:
        return ["refused"]
    ms = [value for _, value in cell.p50_ms.each]
    ends = dict.fromkeys((f"{min(ms):.2f}", f"{max(ms):.2f}"))
    lines = [f"{'..'.join(ends)} ms"]
    if cell.speed_up is not None:
        lines.append(f"x{cell.speed_up.value:.2f}")
        if cell.speed_up.ci95 is not None:
            lines.append(f"({cell.speed_up.ci95.low:.2f}..{cell.speed_up.ci95.high:.2f})")
        lines += [cell.verdict] if cell.verdict else []
    if cell.load_seconds is not None and cell.first_call_seconds is not None:
        lines.append(f"cold {cell.load_seconds + cell.first_call_seconds:.2f} s")
    return lines + ([cell.mark.value] if cell.mark else [])


def _brief(cell: SpeedCell | None) -> list[str]:
    lines = speed_lines(cell)
    return [line for line in lines if not line.endswith((" ms", " s")) and not line.startswith("(")] or [cells.NOTHING]


def _points(value: Value) -> str:
    half = "" if value.half is None else f" +-{value.half * 100:.1f}"
    return f"{value.value * 100:.1f}{half}"


def _mark(mark: Mark | None) -> str:
    return f" {mark.value}" if mark else ""


def _lines(table: Table) -> list[str]:
    """Return what stands below the table."""
    runs = {arm.run.folder for row in table.rows for arm in row.candidate.arms}
    counts = [f"{len(runs)} ok"]
    whys = [r.why for r in table.rejected]
    counts += [f"{whys.count(why)} {why.value}" for why in dict.fromkeys(whys)]
    total = len(runs) + len(whys)
    lines = [f"{total} folder{'s' * (total != 1)}: {', '.join(counts)}"]
    lines += [f"{r.name}: {reason(r)}" for r in table.rejected]
    conditions = {f"@{s.label.partition('@')[2]}": s.conditions for s in table.settings if "@" in s.label}
    lines += [f"{letter}: {found.words()}" for letter, found in conditions.items()]
    lines += [line for row in table.rows for line in over_seeds(row, table)]
    lines += seed_lines(table)
    lines += [LEGEND] if len(table.rows) > 2 else []
    return lines + [f"note: {note}" for note in notes(table)]
