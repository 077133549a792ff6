"""What a Markdown report must keep to."""

from __future__ import annotations

from itertools import groupby


def assert_tables_are_whole(text: str) -> None:
    """Every row of a table has as many cells as its header."""
    tables = [list(rows) for is_table, rows in groupby(text.splitlines(), lambda x: x.startswith("|")) if is_table]
    assert tables
    for rows in tables:
        assert len(rows) > 2
        assert len({row.count("|") - row.count("\\|") for row in rows}) == 1, rows[0]
