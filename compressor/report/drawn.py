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
    columns = _columns(header, rows, _NAME)
    width = max(WIDTH, console.width, _label(columns) + _beside(columns))
    return Console(file=console.file, width=width, no_color=True, highlight=False)


def drawn(console: Console, header: Sequence[str], rows: Sequence[Row], *, title: str = "") -> Table:
    """Return the table, ASCII where the console is no terminal.

    Labels in the first column are folded, and numbers only where the console is too narrow for anything else.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    plain = not console.is_terminal

    def text(lines: Sequence[str]) -> Text:
        return Text(cells.printable("\n".join(lines), ascii_only=plain))

    table = Table(title=text([title]) if title else None, box=box.ASCII if plain else box.ROUNDED, show_lines=True)
    for i, (name, width) in enumerate(zip(header, _widths(console.width, header, rows), strict=True)):
        table.add_column(text([name]), justify="right" if i else "left", overflow="fold", width=width)
    for row in rows:
        table.add_row(*(text(cell) for cell in row))
    return table


def say(console: Console, line: str) -> None:
    """Print a sentence, whatever markup it seems to hold."""
    console.print(cells.printable(line, ascii_only=not console.is_terminal), markup=False, highlight=False)


def _widths(room: int, header: Sequence[str], rows: Sequence[Row]) -> Sequence[int | None]:
    """Return the columns' widths: names are folded where there is no room, numbers only where nothing else helps."""
    for name in (room, _NAME):
        columns = _columns(header, rows, name)
        left = room - _beside(columns)
        if left >= _label(columns):
            return [min(columns[0], left), *columns[1:]]
    return [None] * len(header)


def _columns(header: Sequence[str], rows: Sequence[Row], name: int) -> list[int]:
    """Return the longest line in each column, where so many letters of its name must stand on one."""
    names = [min(name, max(map(len, text.split("\n")))) for text in header]
    body = [[len(line) for row in rows for line in row[i]] for i in range(len(header))]
    return [max([least, *lengths]) for least, lengths in zip(names, body, strict=True)]


def _label(columns: Sequence[int]) -> int:
    """Return the least width of the first column."""
    return min([*columns[:1], _NAME])


def _beside(columns: Sequence[int]) -> int:
    """Return what all columns but the first, and every line, take."""
    return sum(columns[1:]) + _LINES * len(columns) + 1


def as_text(show: Callable[[Console], None], width: int = WIDTH) -> str:
    """Return as plain ASCII what is shown on a console."""
    import io

    from rich.console import Console

    text = io.StringIO()
    show(Console(file=text, width=width))
    return text.getvalue()
