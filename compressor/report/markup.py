"""The pieces of Markdown that reports are put together from; whatever stands in them is made safe."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report.grid import Grid


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table; pipes and line breaks in cells are made safe."""
    ruled = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(inline(cell) if row is not ruled[1] else cell for cell in row)} |" for row in ruled]


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return the lines under a heading; nothing where there are none."""
    whole = list(lines)
    while whole and not whole[-1]:
        whole.pop()
    return ["", f"## {title}", "", *whole] if whole else []


def grid_section(grid: Grid) -> list[str]:
    """Return a table under its title, with the sentence before and those after it."""
    lead = [inline(grid.lead), ""] if grid.lead else []
    rows = [*table(grid.header, grid.rows), ""] if grid.rows else []
    return section(inline(grid.title), [*lead, *rows, *(f"- {inline(note)}" for note in grid.notes)])


def inline(text: str) -> str:
    """Make text safe inside a table cell or a line: no breaks, no markup of its own."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    for mark in ("\\", "|", "`", "<", "*", "[", "]"):
        clean = clean.replace(mark, "&lt;" if mark == "<" else f"\\{mark}")
    return clean
