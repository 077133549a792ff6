"""One table over many runs: each cell of a sweep beside its own teacher, failed and skipped ones included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressor.compare.statistics import mean_interval
from compressor.report import cells
from compressor.report.markup import inline
from compressor.report.markup import table as markdown_table
from compressor.report.terminal import WIDTH
from compressor.results import OK, CandidateResult, RunResult

if TYPE_CHECKING:
    from rich.console import Console


def print_results(results: Mapping[str, RunResult], console: Console | None = None) -> None:
    """Print one row a run, then why some have no numbers.

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
        label = i == 0  # labels are folded, verdicts stay whole
        table.add_column(name, justify="left" if label else "right", overflow="fold", no_wrap=not label)
    for row in rows:
        short = [*row[:-1], row[-1].partition("(")[0]]
        table.add_row(*(Text(cells.printable(cell, ascii_only=plain)) for cell in short))
    console.print(table)
    counts = [r.status.partition("(")[0] for r in results.values()]
    words = [f"{counts.count(word)} {word}" for word in dict.fromkeys(counts)]
    lines = [f"{len(results)} runs: {', '.join(words)}" if words else "0 runs"]
    lines += [f"{label}: {r.status}" for label, r in results.items() if r.status != OK]
    lines += [f"note: {line}" for line in _notes(results)]
    for line in lines:
        console.print(cells.printable(line, ascii_only=plain), markup=False, highlight=False)


def results_to_markdown(results: Mapping[str, RunResult]) -> str:
    """Return the same as a Markdown table, with the whole status in its last column."""
    header, rows = _rows(results, separator=" ")
    lines = markdown_table([name.replace("\n", ", ") for name in header], rows)
    notes = _notes(results)
    return "\n".join([*lines, "", *(f"- {inline(note)}" for note in notes)] if notes else lines) + "\n"


def _notes(results: Mapping[str, RunResult]) -> list[str]:
    """Say what cells that differ in their seed alone keep on average, and what many zeros did."""
    zeros = [f"{label}: {line}" for label, result in results.items() for line in cells.zeros(result)]
    return [*_over_seeds(results), *zeros]


def _over_seeds(results: Mapping[str, RunResult]) -> list[str]:
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for label, result in results.items():
        chosen = [c for c in result.candidates if c.role == "result"] if result.status == OK else []
        names = cells.metric_names(result)
        for candidate in chosen:
            theirs = result.teacher.metrics[names[0]].value
            words = label.partition(": ")[2] or label
            group = " ".join(w for w in words.split() if not w.startswith("seed=")) or candidate.name
            if theirs:
                groups.setdefault((group, names[0]), {})[result.seed] = candidate.metrics[names[0]].value / theirs
    lines = []
    for (group, metric), kept in groups.items():
        if len(kept) < 2:
            continue
        interval = mean_interval(list(kept.values()))
        mean = sum(kept.values()) / len(kept)
        each = ", ".join(f"seed {seed} {value:.1%}" for seed, value in sorted(kept.items()))
        lines.append(
            f"{group} keeps {mean:.1%} of the teacher's {metric} (95 % CI over {len(kept)} seeds {interval.low:.1%} to "
            f"{interval.high:.1%}; {each})"
        )
    return lines


def _rows(results: Mapping[str, RunResult], separator: str) -> tuple[list[str], list[list[str]]]:
    finished = [r for r in results.values() if r.status == OK and r.candidates]
    runtimes = list(dict.fromkeys(name for r in finished for name in cells.runtimes(r)))
    metric = next(iter(cells.metric_names(finished[0])), "metric") if finished else "metric"
    speeds = [f"{name}\nspeed-up" for name in runtimes]
    header = ["cell", "params M\nsize MB", f"{metric}\nvs teacher", "kept", *speeds, "status"]
    rows = []
    for label, result in results.items():
        if result.status != OK or not result.candidates:
            rows.append([label, *[cells.NOTHING] * (len(header) - 2), result.status])
            continue
        for candidate in [c for c in cells.ordered(result) if c.role == "result"] or [result.teacher]:
            row = _row(result, candidate, metric, runtimes, separator)
            rows.append([label, *row, result.status])
    return header, rows


def _row(result: RunResult, candidate: CandidateResult, metric: str, runtimes: list[str], separator: str) -> list[str]:
    name = next(iter(cells.metric_names(result)), metric)
    quality = [cells.metric(candidate.metrics.get(name)) + (f" {name}" if name != metric else "")]
    if candidate is not result.teacher:
        quality += cells.difference(cells.of_metric(result, candidate, name))
    size = [cells.parameters(candidate), cells.megabytes(candidate.size_bytes)]
    speeds = [_speed(result, candidate, runtime) for runtime in runtimes]
    kept = [cells.kept(result, candidate, name)]
    return [separator.join(cell) for cell in (size, quality, kept, *speeds)]


def _speed(result: RunResult, candidate: CandidateResult, runtime: str) -> list[str]:
    timed = cells.latency_of(candidate, runtime)
    if timed is not None and timed.refusal:
        return ["refused"]
    return cells.speed_up(cells.of_runtime(result, candidate, runtime)) or [cells.NOTHING]
