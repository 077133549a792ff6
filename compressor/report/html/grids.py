"""Small tables that open on a click: the sentence that leads one stands on the line that opens it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from compressor.report.grid import Grid
from compressor.report.html.svg import breakable, clean
from compressor.report.verdict import typographic

_WORDS: Final = re.compile(r'<tr class="words">.*?</tr>', re.DOTALL)


def draw(grids: Sequence[Grid], *, opened: bool = False) -> str:
    """Return the tables; nothing for none.

    Args:
        grids: What is drawn; one without rows is its sentence alone.
        opened: Whether the first one stands open.
    """
    return "".join(_grid(grid, shown=opened and i == 0) for i, grid in enumerate(grids))


def without_texts(page: str) -> str:
    """Return a page without the users' own words that `draw` put under its rows."""
    return _WORDS.sub("", page)


def _grid(grid: Grid, *, shown: bool) -> str:
    lead = f" <span>{clean(typographic(grid.lead))}</span>" if grid.lead else ""
    said = f"<b>{breakable(grid.title)}</b>{lead}"
    notes = f"<ul>{''.join(f'<li>{clean(note)}</li>' for note in grid.notes)}</ul>" if grid.notes else ""
    if not grid.rows:
        return f'<p class="grid-alone">{said}</p>{notes}'
    head = "".join(f'<th scope="col">{breakable(name)}</th>' for name in grid.header)
    lines = [
        f'<tr><th scope="row">{breakable(first)}</th>{"".join(f"<td>{clean(typographic(cell))}</td>" for cell in others)}</tr>'
        for first, *others in grid.rows
    ]
    if grid.texts:
        columns = len(grid.header)
        words = (f'<tr class="words"><td colspan="{columns}"><p>{clean(text)}</p></td></tr>' for text in grid.texts)
        lines = [line for pair in zip(lines, words, strict=True) for line in pair]
    body = "".join(lines)
    return (
        f'<details class="grids"{" open" if shown else ""}><summary>{said}</summary>\n'
        f'<div class="box" tabindex="0" role="region" aria-label="{clean(grid.title)}"><table class="grid">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{notes}</details>"
    )
