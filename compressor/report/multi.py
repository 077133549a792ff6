"""One table over many runs: each cell of a sweep beside its own teacher, failed and skipped ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressor.report import cells
from compressor.report.markdown import table as markdown_table
from compressor.report.terminal import WIDTH
from compressor.results import OK, RunResult

if TYPE_CHECKING:
    from rich.console import Console


def print_results(results: Mapping[str, RunResult], console: Console | None = None) -> None:
    """Print one row a run.

    Args:
        results: Runs by the label of their cell, e.g. its overrides.
        console: Where to; standard output if not given.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    plain = not console.is_terminal
    if plain:
        console = Console(file=console.file, width=max(WIDTH, console.width), no_color=True, highlight=False)
    header, rows = _rows(results, separator="\n")
    table = Table(box=box.ASCII if plain else box.ROUNDED, show_lines=True)
    for i, name in enumerate(header):
        side = i in (0, len(header) - 1)
        # Verdicts stay whole; labels and reasons are folded.
        table.add_column(
            name, justify="left" if side else "right", overflow="fold", min_width=6 if side else 0, no_wrap=not side
        )
    for row in rows:
        table.add_row(*(Text(cells.printable(cell, ascii_only=plain)) for cell in row))
    console.print(table)
    counts = [r.status.partition("(")[0] for r in results.values()]
    words = [f"{counts.count(word)} {word}" for word in dict.fromkeys(counts)]
    console.print(f"{len(results)} runs: {', '.join(words)}", markup=False, highlight=False)


def results_to_markdown(results: Mapping[str, RunResult]) -> str:
    """Return the same as a Markdown table."""
    header, rows = _rows(results, separator=" ")
    return "\n".join(markdown_table([name.replace("\n", " ") for name in header], rows)) + "\n"


def _rows(results: Mapping[str, RunResult], separator: str) -> tuple[list[str], list[list[str]]]:
    finished = [r for r in results.values() if r.status == OK and r.candidates]
    runtimes = list(dict.fromkeys(name for r in finished for name in cells.runtimes(r)))
    metric = next(iter(cells.metric_names(finished[0])), "metric") if finished else "metric"
    header = [
        "cell",
        "params M",
        "size MB",
        "metric",
        "vs its teacher",
        *(f"{n}\nspeed-up" for n in runtimes),
        "status",
    ]
    header[3] = metric
    rows = []
    for label, result in results.items():
        if result not in finished:
            rows.append([label, *[cells.NOTHING] * (len(header) - 2), result.status])
            continue
        shown = [c for c in cells.ordered(result) if c.role == "result"] or [result.teacher]
        for candidate in shown:
            name = next(iter(cells.metric_names(result)), metric)
            value = cells.metric(candidate.metrics.get(name)) + (f" {name}" if name != metric else "")
            gap = separator.join(cells.difference(cells.of_metric(result, candidate, name)))
            speeds = [_speed(result, candidate.name, runtime, separator) for runtime in runtimes]
            size = cells.megabytes(candidate.size_bytes)
            rows.append([label, cells.parameters(candidate), size, value, gap, *speeds, result.status])
    return header, rows


def _speed(result: RunResult, name: str, runtime: str, separator: str) -> str:
    candidate = next(c for c in result.candidates if c.name == name)
    found = cells.speed_up(cells.of_runtime(result, candidate, runtime))
    timed = cells.latency_of(candidate, runtime)
    if timed is not None and timed.refusal:
        return "refused"
    return separator.join(found) or cells.NOTHING
