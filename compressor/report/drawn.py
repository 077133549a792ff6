"""A header and rows of cells, drawn as a table on a terminal or as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from compressor.report import cells

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH: Final = 100  # columns of a file or a pipe, unless numbers need more
_NAME: Final = 12  # letters of a name, a row's or a column's, that stand on one line
_SHORT: Final = 4  # letters of a row's name where there is no other way
_LINES: Final = 3  # letters that a column's padding and line take

Row = Sequence[Sequence[str]]  # cells of some lines each


def fitting(console: Console | None, header: Sequence[str] = (), rows: Sequence[Row] = ()) -> Console:
    """Return the console, or where it is a file or a pipe one that is as wide as the numbers.

    A file has no edge, and a number that is broken over two lines is another number.
    """
    from rich.console import Console

    console = console or Console()
    if console.is_terminal:
        return console
    width = max(WIDTH, console.width)
    if header:
        label, *others = _needs(header, rows, _NAME, plain=True)
        width = max(width, min(label, _NAME) + _beside(others))
    return Console(file=console.file, width=width, no_color=True, highlight=False)


def drawn(console: Console, header: Sequence[str], rows: Sequence[Row], *, title: str = "") -> Table:
    """Return the table, ASCII where the console is no terminal.

    Where there is no room for everything names are folded, of rows and of columns. Where numbers have no room even then rich
    folds as it likes.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    plain = not console.is_terminal
    table = Table(
        title=Text(cells.printable(title, ascii_only=plain)) if title else None,
        box=box.ASCII if plain else box.ROUNDED,
        show_lines=True,
    )
    widths = _widths(console.width, header, rows, plain=plain)
    for i, (name, width) in enumerate(zip(header, widths, strict=True)):
        shown = Text(cells.printable(name, ascii_only=plain))
        table.add_column(shown, justify="right" if i else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cells.printable("\n".join(cell), ascii_only=plain)) for cell in row))
    return table


def say(console: Console, line: str) -> None:
    """Print a sentence, whatever markup it seems to hold."""
    console.print(cells.printable(line, ascii_only=not console.is_terminal), markup=False, highlight=False)


def as_text(show: Callable[[Console], None], width: int = WIDTH) -> str:
    """Return as plain ASCII what is shown on a console."""
    import io

    from rich.console import Console

    text = io.StringIO()
    show(Console(file=text, width=width))
    return text.getvalue()


def _widths(room: int, header: Sequence[str], rows: Sequence[Row], *, plain: bool) -> Sequence[int | None]:
    """Return the columns' widths in a room; None: as rich likes."""
    for name, least in ((room, _NAME), (_NAME, _NAME), (_NAME, _SHORT)):
        label, *others = _needs(header, rows, name, plain=plain)
        left = room - _beside(others)
        if left >= min(label, least):
            return [min(label, left), *others]
    return [None] * len(header)


def _needs(header: Sequence[str], rows: Sequence[Row], name: int, *, plain: bool) -> list[int]:
    """Return the longest line in each column, on a screen, where so much of its name must stand on one."""
    from rich.cells import cell_len

    def longest(text: str) -> int:
        return max(cell_len(line) for line in cells.printable(text, ascii_only=plain).split("\n"))

    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    return [
        max([min(name, longest(head)), *(longest("\n".join(cell)) for cell in column)])
        for head, column in zip(header, columns, strict=True)
    ]


def _beside(others: Sequence[int]) -> int:
    """Return what the columns after the first, and all lines, take."""
    return sum(others) + _LINES * (len(others) + 1) + 1
