"""The table of one run on the terminal: teacher first, every number with its interval, every gap with a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.report import cells
from compressor.report.speed_tables import scenario
from compressor.results import OK, CandidateResult, RunResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100  # columns that three runtimes fit into


def print_result(result: RunResult, console: Console | None = None) -> None:
    """Print a run's table, its verdicts and what could not be measured.

    Args:
        result: The run.
        console: Where to; standard output if not given. Lines are ASCII when it is no terminal.
    """
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=max(WIDTH, console.width), no_color=True, highlight=False)
    ascii_only = not console.is_terminal
    if result.status != OK:
        lines = [f"{result.task}: {result.status}"]
    else:
        console.print(_table(result, ascii_only=ascii_only))
        lines = [sentence for _, sentence in cells.sentences(result)]
        lines += cells.agreements(result)
        lines += [f"note: {line}" for line in cells.notes(result)]
    for line in lines:
        console.print(cells.printable(line, ascii_only=ascii_only), markup=False, highlight=False)


def render(result: RunResult, width: int = WIDTH) -> str:
    """Return what `print_result` prints, as plain ASCII text."""
    import io

    from rich.console import Console

    text = io.StringIO()
    print_result(result, Console(file=text, width=width))
    return text.getvalue()


def _table(result: RunResult, *, ascii_only: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    metrics, runtimes = cells.metric_names(result), cells.runtimes(result)
    table = Table(
        title=Text(cells.printable(f"{result.task}, seed {result.seed}", ascii_only=ascii_only)),
        box=box.ASCII if ascii_only else box.ROUNDED,
        show_lines=True,
        padding=(0, 1),
    )
    table.add_column("model", overflow="fold")
    table.add_column("params M\nsize MB\npeak MB", justify="right")
    for name in metrics:
        table.add_column(f"{name}\nvs teacher", justify="right", overflow="fold")
    for name in runtimes:
        from_text = "\nfrom text ms" if any(scenario(c, "end_to_end", name) for c in result.candidates) else ""
        table.add_column(f"{name}\np50 ms\nspeed-up{from_text}", justify="right", overflow="fold")
    for candidate in cells.ordered(result):
        teacher = candidate.name == result.teacher.name
        memory = [cells.megabytes(candidate.peak_memory_bytes)]
        row = [
            cells.label(candidate),
            [cells.parameters(candidate), cells.megabytes(candidate.size_bytes), *memory],
        ]
        for name in metrics:
            gap = [] if teacher else cells.difference(cells.of_metric(result, candidate, name))
            row.append([cells.metric(candidate.metrics.get(name)), *gap])
        for name in runtimes:
            ratio = cells.speed_up(cells.of_runtime(result, candidate, name))
            row.append(cells.latency(cells.latency_of(candidate, name)) + ratio + _from_text(candidate, name))
        table.add_row(*(Text(cells.printable("\n".join(cell), ascii_only=ascii_only)) for cell in row))
    return table


def _from_text(candidate: CandidateResult, runtime: str) -> list[str]:
    """Median and ratio of calls that begin with the text, where they were timed."""
    found = scenario(candidate, "end_to_end", runtime)
    if found is None or found.latency_ms_p50 is None:
        return []
    return [f"{found.latency_ms_p50:.2f}", *([] if found.ratio is None else [f"x{found.ratio:.2f}"])]
