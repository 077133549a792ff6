"""The rows of the matrix of many runs: what the comparison knows of each candidate, and who leads."""

from __future__ import annotations

from compressor.compare.conditions import Setting
from compressor.compare.rows import QualityCell, SpeedCell
from compressor.compare.rows import Row as Candidate
from compressor.compare.table import Table
from compressor.compare.values import Value
from compressor.compare.verdicts import Word
from compressor.report import cells
from compressor.report.html.matrix import REFUSED
from compressor.report.html.run_rows import PLUS_MINUS, TIMES, duration, money, shortened, signed, tasks_row
from compressor.report.html.view import Cell, Row

_NOTHING = Cell(text=cells.NOTHING)


def matrix_rows(table: Table) -> tuple[Row, ...]:
    """Return the rows in the order of the page; one that nobody has a number for is left out."""
    several = len(table.metrics) > 1
    rows = []
    for task, metric in table.metrics.items():
        where = f"{task}: " if several else ""
        rows.append(_scores(table, task, f"{where}{metric}"))
        rows += [_speeds(table, s, f"{where}{s.label}") for s in table.settings if s.task == task]
    if several:
        kept = tuple(_NOTHING if r.macro_kept is None else _kept(r.macro_kept) for r in table.rows)
        rows.append(Row(label="kept", unit="of the teacher's, mean over tasks", cells=kept))
    rows.append(_counts(table, "size on disk", "MB", "size_bytes"))
    rows.append(_counts(table, "parameters", "millions", "parameters"))
    rows.append(Row(label="peak memory", unit="MB", cells=tuple(_memory(r.peak_memory_bytes) for r in table.rows)))
    rows.append(Row(label="time to make", cells=tuple(_seconds(r.training_seconds) for r in table.rows)))
    rows.append(Row(label="cost to make", unit="at each run's price", cells=tuple(_cost(r.cost) for r in table.rows)))
    rows.append(tasks_row([r.candidate.arms[0].result for r in table.rows]))
    seeds = [sorted({arm.seed for arm in r.candidate.arms}) for r in table.rows]
    if any(found != seeds[0] for found in seeds):
        said = tuple(Cell(text=", ".join(map(str, found))) for found in seeds)
        rows.append(Row(label="seeds", cells=said))
    chains = tuple(Cell(text=" > ".join(r.candidate.chain) or "as it is") for r in table.rows)
    rows.append(Row(label="chain", cells=chains, words=True))
    return tuple(row for row in rows if any(c.text != cells.NOTHING for c in row.cells))


def _kept(found: Value) -> Cell:
    ends = found.ci95
    against = "" if ends is None else f"({ends.low:.1%} to {ends.high:.1%})"
    return Cell(text=f"{found.value:.1%}", against=against, value=found.value)


def _scores(table: Table, task: str, label: str) -> Row:
    found = [row.quality.get(task) for row in table.rows]
    higher = all(cell is None or cell.higher_is_better for cell in found)
    unit = "of 100" if higher else "of 100, lower is better"
    return Row(label=label, unit=unit, cells=tuple(_quality(cell) for cell in found))


def _quality(cell: QualityCell | None) -> Cell:
    if cell is None:
        return _NOTHING
    said = []
    if cell.verdict == Word.inconclusive and cell.detectable is not None:
        said.append(f"finds {cell.detectable * 100:.1f} or more")
    said += [] if cell.kept is None else [f"keeps {cell.kept.value:.1%}"]
    said += [cell.remark] if cell.remark else []
    against = ""
    if cell.difference is not None:
        against = signed(cell.difference.value)
        if cell.difference.ci95 is not None:
            against += f" ({signed(cell.difference.ci95.low)} to {signed(cell.difference.ci95.high)})"
    half = cell.score.half
    return Cell(
        text=f"{cell.score.value * 100:.1f}",
        spread="" if half is None else f"{PLUS_MINUS}{half * 100:.1f}",
        against=against,
        verdict=cell.verdict or "",
        note="; ".join(said),
        mark=cell.mark,
        value=cell.score.value,
    )


def _speeds(table: Table, setting: Setting, label: str) -> Row:
    key = setting.task, setting.label
    cells_ = tuple(_speed(row, row.speed.get(key)) for row in table.rows)
    return Row(label=label, unit="times the teacher's speed", cells=cells_)


def _speed(row: Candidate, cell: SpeedCell | None) -> Cell:
    if cell is None:
        return _NOTHING
    if cell.p50_ms is None:
        reason = "; ".join(cell.refusals)
        return Cell(text=REFUSED, note=shortened(reason), title=reason)
    each = [value for _, value in cell.p50_ms.each]
    ms = f"{' to '.join(dict.fromkeys((f'{min(each):.2f}', f'{max(each):.2f}')))} ms"
    if cell.speed_up is None:
        return Cell(text=f"{TIMES}1", note=ms, value=1.0) if row.is_teacher else Cell(text=ms)
    ends = cell.speed_up.ci95
    return Cell(
        text=f"{TIMES}{cell.speed_up.value:.2f}",
        against="" if ends is None else f"({ends.low:.2f} to {ends.high:.2f})",
        verdict=cell.verdict or "",
        note=ms,
        title="; ".join(cell.unstable),
        mark=cell.mark,
        value=cell.speed_up.value,
    )


def _counts(table: Table, label: str, unit: str, name: str) -> Row:
    write = cells.megabytes if name == "size_bytes" else cells.millions
    found = [(row, getattr(row, name)) for row in table.rows]
    return Row(
        label=label,
        unit=unit,
        cells=tuple(
            Cell(text=write(round(value.value)), mark=row.marks.get(name), value=value.value) for row, value in found
        ),
    )


def _memory(found: Value | None) -> Cell:
    return _NOTHING if found is None else Cell(text=cells.megabytes(round(found.value)), value=found.value)


def _cost(found: Value | None) -> Cell:
    return _NOTHING if found is None else Cell(text=money(found.value), value=found.value)


def _seconds(found: Value | None) -> Cell:
    return _NOTHING if found is None else Cell(text=duration(found.value), value=found.value)
