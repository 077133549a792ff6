"""The comparison matrix: models are columns while they are few, rows of a table that scrolls when they are many."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.compare.ranking import Mark
from compressor.report.html.svg import breakable, clean
from compressor.report.html.view import Cell, Model, Report, Row

REFUSED = "refused"
FEW = 6  # models up to which they stand side by side
KINDS = {
    "better": "good", "faster": "good", "worse": "bad", "slower": "bad", "equivalent": "same", "inconclusive": "open",
}  # fmt: skip
SIGNS = {"good": "\u25b2", "bad": "\u25bc", "same": "\u2248", "open": "?"}
MARKS = {Mark.best: ("\u25cf", "best"), Mark.tied: ("\u25cb", "not to be told from the best")}


def draw(report: Report) -> str:
    """Return the matrix and what its signs mean."""
    if not report.rows:
        return ""
    few = len(report.models) <= FEW
    body = _side_by_side(report.models, report.rows) if few else _one_below_the_other(report.models, report.rows)
    return f"{body}{_key(report)}"


def _side_by_side(models: Sequence[Model], rows: Sequence[Row]) -> str:
    head = "".join(f'<th scope="col" data-n="{m.number}">{_model(m)}</th>' for m in models)
    lines = []
    for row in rows:
        found = "".join(_cell(c, m.name, m.number, row.words) for c, m in zip(row.cells, models, strict=True))
        lines.append(f'<tr><th scope="row">{_quantity(row)}</th>{found}</tr>')
    return (
        f'<table class="matrix few of-{len(models)}"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _one_below_the_other(models: Sequence[Model], rows: Sequence[Row]) -> str:
    head = "".join(f'<th scope="col"{" class=words" if row.words else ""}>{_quantity(row)}</th>' for row in rows)
    lines = []
    for i, model in enumerate(models):
        found = "".join(_cell(row.cells[i], row.label, model.number, row.words) for row in rows)
        lines.append(
            f'<tr data-n="{model.number}"><th scope="row"><span class="number">{model.number}</span>'
            f"<span>{_model(model)}</span></th>{found}</tr>"
        )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="comparison of all models">'
        f'<table class="matrix many"><thead><tr><th scope="col">model</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _model(model: Model) -> str:
    role = f' <span class="role">{clean(model.role)}</span>' if model.role else ""
    return f'<span class="model">{breakable(model.name)}</span>{role}'


def _quantity(row: Row) -> str:
    unit = f' <span class="unit">{clean(row.unit)}</span>' if row.unit else ""
    return f"<span>{breakable(row.label)}</span>{unit}"


def _cell(cell: Cell, label: str, number: int, words: bool) -> str:
    kind = "cell words" if words else "cell"
    parts = []
    if cell.mark is not None:
        sign, meaning = MARKS[cell.mark]
        parts.append(f'<span class="mark" title="{meaning}">{sign}</span>')
        kind += f" {cell.mark.value}"
    spread = f' <span class="spread">{clean(cell.spread)}</span>' if cell.spread else ""
    parts.append(f'<span class="figure">{breakable(cell.text)}{spread}</span>')
    if cell.against:
        parts.append(f'<span class="against">{clean(cell.against)}</span>')
    if cell.verdict:
        parts.append(verdict(cell.verdict))
    if cell.note:
        reason = " reason" if cell.text == REFUSED else ""
        parts.append(f'<span class="note{reason}">{clean(cell.note)}</span>')
    title = f' title="{clean(cell.title)}"' if cell.title else ""
    value = f' data-value="{cell.value:.10g}"' if cell.value is not None else ""
    return f'<td class="{kind}" data-label="{clean(label)}" data-n="{number}"{value}{title}><div>{"".join(parts)}</div></td>'


def verdict(word: str) -> str:
    """Return a verdict with a sign, so that colour says nothing alone."""
    kind = KINDS.get(word, "open")
    return f'<span class="verdict {kind}"><span aria-hidden="true">{SIGNS[kind]}</span> {clean(word)}</span>'


def _key(report: Report) -> str:
    """Explain the signs that are there."""
    rows = report.rows
    found = {cell.mark for row in rows for cell in row.cells} - {None}
    said = [
        f'<span class="mark">{MARKS[mark][0]}</span> {MARKS[mark][1]}'
        for mark in (Mark.best, Mark.tied)
        if mark in found
    ]
    said += [report.marks] if report.marks else []
    said.append("\u00b1 half of a 95 % interval; brackets: 95 % interval against the teacher")
    if any(cell.note.startswith("finds") for row in rows for cell in row.cells):
        said.append("<em>finds</em>: the difference that this test set shows in four of five cases")
    if not found:
        said.append("no figure has a winner")
    listed = " \u00b7 ".join(said)
    return f'<p class="key">{listed}.</p>'
