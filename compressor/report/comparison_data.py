"""The comparison for machines: every number by its name, as JSON values and as flat rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.compare.ranking import Mark
from compressor.compare.rows import QualityCell, Row, SpeedCell
from compressor.compare.runs import Rejected, escaped
from compressor.compare.table import Table
from compressor.compare.values import Value
from compressor.report.views import Cell, plain


def values(table: Table) -> dict[str, Any]:
    """Return a comparison as plain JSON values; what is not known is null."""
    return {
        "candidates": [row_values(row) for row in table.rows],
        "metrics": dict(table.metrics),
        "settings": plain(table.settings),
        "flips": plain(table.flips),
        "rejected": plain(table.rejected),
        "notes": list(table.notes),
    }


def row_values(row: Row) -> dict[str, Any]:
    """Return one candidate as plain JSON values."""
    candidate = row.candidate
    return {
        "label": row.label,
        "role": candidate.role,
        "chain": list(candidate.chain),
        "options": plain(candidate.options),
        "supported_tasks": plain(candidate.arms[0].result.supported_tasks),
        "runs": [
            {"folder": escaped(str(a.run.folder)), "task": a.run.result.task, "seed": a.seed, "name": a.result.name}
            for a in candidate.arms
        ],
        "parameters": plain(row.parameters),
        "size_bytes": plain(row.size_bytes),
        "peak_memory_bytes": plain(row.peak_memory_bytes),
        "training_seconds": plain(row.training_seconds),
        "cost": plain(row.cost),
        "macro_kept": plain(row.macro_kept),
        "marks": plain(row.marks),
        "quality": plain(row.quality),
        "speed": [{"task": task, "setting": label, **plain(cell)} for (task, label), cell in row.speed.items()],
    }


def flat(table: Table) -> tuple[list[str], list[list[Cell]]]:
    """Return header and rows of the CSV file: one row a candidate, a folder not compared, a column that bears a letter."""
    header = ["candidate", "role", "chain", "seeds", "runs", "parameters", "parameters mark", "size_bytes", "size_bytes mark",
              "peak_memory_bytes", "training_seconds", "cost", "macro_kept",
              "macro_kept low", "macro_kept high"]  # fmt: skip
    for task, metric in table.metrics.items():
        names = ("", " low", " high", " kept", " difference", " difference low", " difference high", " verdict",
                 " detectable", " mark", " remark")  # fmt: skip
        header += [f"{task} {metric}{name}" for name in names]
    for s in table.settings:
        columns = (" p50_ms", " speed_up", " low", " high", " verdict", " mark", " null_ratio", " doubts", " load_seconds",
                   " first_call_seconds", " refusal")  # fmt: skip
        header += [f"{s.task} {s.label}{name}" for name in columns]
    header += ["status"]
    rows: list[list[Cell]] = []
    for row in table.rows:
        arms, marks = row.candidate.arms, row.marks
        line: list[Cell] = [
            row.label,
            row.candidate.role,
            "+".join(row.candidate.chain),
            " ".join(str(seed) for seed in sorted({arm.seed for arm in arms})),
            len({arm.run.folder for arm in arms}),
            row.parameters.value,
            _word(marks, "parameters"),
            row.size_bytes.value,
            _word(marks, "size_bytes"),
            _number(row.peak_memory_bytes),
            _number(row.training_seconds),
            _number(row.cost),
            *_three(row.macro_kept),
        ]
        for task in table.metrics:
            line += _flat_quality(row.quality.get(task))
        for s in table.settings:
            line += _flat_speed(row.speed.get((s.task, s.label)))
        rows.append([*line, "ok"])
    blank = [None] * (len(header) - 2)
    rows += [[r.name, *blank, reason(r)] for r in table.rejected]
    rows += [[s.label, *blank, f"column: {s.conditions.words()}"] for s in table.settings if "@" in s.label]
    return header, rows


def _flat_quality(cell: QualityCell | None) -> list[Cell]:
    if cell is None:
        return [None] * 11
    return [
        *_three(cell.score),
        _number(cell.kept),
        *_three(cell.difference),
        cell.verdict,
        cell.detectable,
        cell.mark and cell.mark.value,
        cell.remark,
    ]


def _flat_speed(cell: SpeedCell | None) -> list[Cell]:
    if cell is None:
        return [None] * 11
    refusal = "; ".join(cell.refusals) or None
    return [
        _number(cell.p50_ms),
        *_three(cell.speed_up),
        cell.verdict,
        cell.mark and cell.mark.value,
        cell.null_ratio,
        "; ".join(cell.unstable) or None,
        cell.load_seconds,
        cell.first_call_seconds,
        refusal,
    ]


def _three(value: Value | None) -> list[Cell]:
    if value is None:
        return [None, None, None]
    ends = (None, None) if value.ci95 is None else (value.ci95.low, value.ci95.high)
    return [value.value, *ends]


def _number(value: Value | None) -> float | None:
    return None if value is None else value.value


def _word(marks: Mapping[str, Mark], name: str) -> str | None:
    return marks[name].value if name in marks else None


def reason(rejected: Rejected) -> str:
    """Say in one phrase why a folder is not compared."""
    whole = rejected.reason.startswith(rejected.why.value)
    return rejected.reason if whole else f"{rejected.why.value} ({rejected.reason})"
