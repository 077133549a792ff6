"""One grid with lines around it, shown on a terminal, as Markdown, as CSV, as JSON or on a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ConfigError
from compressor.report.drawn import as_text, drawn, fitting, say
from compressor.report.markup import inline
from compressor.report.markup import table as markdown_table

if TYPE_CHECKING:
    from rich.console import Console

    from compressor.report.html.view import Report

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of one


class Format(StrEnum):
    """How a view is written."""

    terminal = "terminal"
    markdown = "markdown"
    csv = "csv"
    json = "json"
    html = "html"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is shown.

    Attributes:
        title: Heading; empty for none.
        header: Names of the grid's columns; a line break stays one on the terminal.
        rows: Its cells, each of some lines.
        lines: Sentences after the grid.
        flat_header: Columns of the CSV file.
        flat_rows: Its rows, numbers as numbers and None for what is not known.
        values: Everything, as plain JSON values.
        page: Makes the page; None where there is none.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Sequence[str]]]
    lines: Sequence[str]
    flat_header: Sequence[str]
    flat_rows: Sequence[Sequence[Cell]]
    values: Mapping[str, Any]
    page: Callable[[], Report] | None = None


def render(view: View, form: Format) -> str:
    """Return a view as text; the terminal's is plain ASCII.

    Raises:
        ConfigError: A page is asked for, and this view has none.
    """
    if form is Format.terminal:
        return as_text(lambda console: show(view, console))
    if form is Format.html:
        return to_html(view)
    return {Format.markdown: to_markdown, Format.csv: to_csv, Format.json: to_json}[form](view)


def show(view: View, console: Console | None = None) -> None:
    """Print a view; lines are ASCII where the console is no terminal."""
    console = fitting(console, view.header, view.rows)
    if view.title:
        say(console, view.title)
    if view.rows:
        console.print(drawn(console, view.header, view.rows))
    for line in view.lines:
        say(console, line)


def to_markdown(view: View) -> str:
    """Return a heading, a table and a list; nothing in a cell is markup."""
    lines = [f"# {inline(view.title)}", ""] if view.title else []
    if view.rows:
        header = [name.replace("\n", ", ") for name in view.header]
        lines += [*markdown_table(header, [[" ".join(cell) for cell in row] for row in view.rows]), ""]
    return "\n".join([*lines, *(f"- {inline(line)}" for line in view.lines)]).rstrip("\n") + "\n"


def to_csv(view: View) -> str:
    """Return the flat rows; texts that a spreadsheet would run as a formula are led by an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_safe(name) for name in view.flat_header])
    writer.writerows([[_safe(cell) for cell in row] for row in view.flat_rows])
    return text.getvalue()


def to_json(view: View) -> str:
    """Return all values; a number that is not finite is an error of ours."""
    return json.dumps(view.values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_html(view: View) -> str:
    """Return the page.

    Raises:
        ConfigError: The view has none.
    """
    if view.page is None:
        raise ConfigError(
            "--format html: only the whole comparison is a page", hint="leave out --pareto, --diff, --pick"
        )
    from compressor.report.html import to_html

    return to_html(view.page())


def plain(value: object) -> Any:
    """Return a frozen value and all in it as plain JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, StrEnum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _safe(cell: Cell) -> Cell:
    if isinstance(cell, str):
        cell = "".join(c if c.isprintable() or c == "\n" else " " for c in cell)  # a pager would obey escapes
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
