"""A small table with the sentence that leads it: what report.md and the pages both draw."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Texts are plain; whoever draws them makes them safe.

    Attributes:
        title: What it is about; unique among its neighbours.
        lead: A sentence or two to read before, or instead of, the rows.
        header: Names of the columns.
        rows: Cells, each row as long as the header; none where the sentence says it all.
        notes: Sentences to read after the rows.
        texts: The user's own words that each row is about, for views that have the room; none where they are not known.
    """

    title: str
    lead: str = ""
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
