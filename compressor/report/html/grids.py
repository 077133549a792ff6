"""Small tables that open on a click: the sentence that leads one stands on the line that opens it."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.report.grid import Grid
from compressor.report.html.svg import breakable, clean
from compressor.report.verdict import typographic


def draw(grids: Sequence[Grid], *, opened: bool = False) -> str:
    """Return the tables; nothing for none.

    Args:
        grids: What is drawn; one without rows is its sentence alone.
        opened: Whether the first one stands open.
    """
    return "".join(_grid(grid, shown=opened and i == 0) for i, grid in enumerate(grids))


def _grid(grid: Grid, *, shown: bool) -> str:
    lead = f" <span>{clean(typographic(grid.lead))}</span>" if grid.lead else ""
    said = f"<b>{breakable(grid.title)}</b>{lead}"
    if not grid.rows:
        return f'<p class="grid-alone">{said}</p>'
    names = (*grid.header, "text") if grid.texts else grid.header
    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in names)
    words = [f'<td class="words">{clean(text)}</td>' for text in grid.texts] or [""] * len(grid.rows)
    rows = [[f"<td>{clean(typographic(cell))}</td>" for cell in row[1:]] for row in grid.rows]
    lines = "".join(
        f'<tr><th scope="row">{breakable(row[0])}</th>{"".join(others)}{text}</tr>'
        for row, others, text in zip(grid.rows, rows, words, strict=True)
    )
    return (
        f'<details class="grids"{" open" if shown else ""}><summary>{said}</summary>\n'
        f'<div class="box" tabindex="0" role="region" aria-label="{clean(grid.title)}"><table class="grid">'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div></details>"
    )
