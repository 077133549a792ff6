"""The table of one run on the terminal: teacher first, every number with its interval, every gap with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressor.report import cells
from compressor.report.drawn import WIDTH, Row, as_text, drawn, fitting, say
from compressor.report.speed_tables import scenario
from compressor.results import OK, CandidateResult, RunResult

if TYPE_CHECKING:
    from rich.console import Console


def print_result(result: RunResult, console: Console | None = None) -> None:
    """Print a run's table, its verdicts and what could not be measured.

    Args:
        result: The run.
        console: Where to; standard output if not given. Lines are ASCII when it is no terminal.
    """
    if result.status != OK:
        say(fitting(console), f"{result.task}: {result.status}")
        return
    header, rows = _header(result), [_row(result, candidate) for candidate in cells.ordered(result)]
    console = fitting(console, header, rows)
    console.print(drawn(console, header, rows, title=f"{result.task}, seed {result.seed}"))
    for line in [
        *(sentence for _, sentence in cells.sentences(result)),
        *cells.agreements(result),
        *(f"note: {line}" for line in cells.notes(result)),
    ]:
        say(console, line)


def render(result: RunResult, width: int = WIDTH) -> str:
    """Return what `print_result` prints, as plain ASCII text."""
    return as_text(lambda console: print_result(result, console), width)


def _header(result: RunResult) -> Sequence[str]:
    header = ["model", "params M\nsize MB\npeak MB"]
    header += [f"{name}\nvs teacher" for name in cells.metric_names(result)]
    for name in cells.runtimes(result):
        from_text = "\nfrom text ms" if any(scenario(c, "end_to_end", name) for c in result.candidates) else ""
        header.append(f"{name}\np50 ms\nspeed-up{from_text}")
    return header


def _row(result: RunResult, candidate: CandidateResult) -> Row:
    teacher = candidate.name == result.teacher.name
    sizes = [candidate.size_bytes, candidate.peak_memory_bytes]
    row = [cells.label(candidate), [cells.parameters(candidate), *map(cells.megabytes, sizes)]]
    for name in cells.metric_names(result):
        gap = [] if teacher else cells.difference(cells.of_metric(result, candidate, name))
        row.append([cells.metric(candidate.metrics.get(name)), *gap])
    for name in cells.runtimes(result):
        ratio = cells.speed_up(cells.of_runtime(result, candidate, name))
        row.append(cells.latency(cells.latency_of(candidate, name)) + ratio + _from_text(candidate, name))
    return row


def _from_text(candidate: CandidateResult, runtime: str) -> list[str]:
    """Median and ratio of calls that begin with the text, where they were timed."""
    found = scenario(candidate, "end_to_end", runtime)
    if found is None or found.latency_ms_p50 is None:
        return []
    return [f"{found.latency_ms_p50:.2f}", *([] if found.ratio is None else [f"x{found.ratio:.2f}"])]
