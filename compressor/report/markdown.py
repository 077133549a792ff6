"""report.md: the table of a run, its verdicts, how it was measured, and on what."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from compressor.report import cells
from compressor.results import OK, RunResult

METHOD = """\
- Every model was saved, re-loaded in a fresh process, and measured from the files.
- Metrics: 95 % intervals over the examples (Wilson for accuracy, bootstrap for the others). Differences from the
  teacher are paired by example;
  *equivalent* means not worse by more than 1 % of the teacher's value, *inconclusive* that the data cannot tell.
- Latency: real texts of the test split at their own lengths, all models interleaved in one process per runtime, and
  the teacher loaded twice as a check. Speed-ups are paired by text, with blocks as the unit; *faster* and *slower*
  need the whole interval beyond 1 %, *equivalent* the 90 % interval within 2 %.
- Non-zero: parameters that are not 0. Deflated: the files of the weights through zlib at level 6, as a zip would hold them.
- Peak memory: what the model adds to a process that has loaded its runtime. MB are 10^6 bytes."""


def write_markdown(result: RunResult, path: Path, *, overrides: Sequence[str] = ()) -> None:
    """Write the report of one run; `overrides` are what was typed."""
    path.write_text(to_markdown(result, overrides=overrides), encoding="utf-8")


def to_markdown(result: RunResult, *, overrides: Sequence[str] = ()) -> str:
    """Return the report of one run."""
    lines = [f"# {inline(result.task)}, seed {result.seed}", ""]
    if result.status != OK:
        return "\n".join([*lines, f"Status: {inline(result.status)}", ""])
    lines += _results(result)
    verdicts = [f"- {inline(text)}" for _, text in cells.sentences(result)]
    notes = [f"- {inline(text)}" for text in (*cells.refusals(result), *cells.zeros(result), *result.notes)]
    lines += _section("Verdicts", verdicts) + _section("Notes", notes)
    lines += _section("How it was measured", [METHOD])
    lines += _section("Lineage", _lineage(result))
    command = shlex.join(["python", "-m", "compressor", *overrides]).replace("`", "'")
    lines += _section("How to run it again", ["```shell", command, "```"])
    environment = json.dumps(result.environment, indent=2, ensure_ascii=True).replace("```", "'''")
    lines += _section("Environment", ["```json", environment, "```"])
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table; pipes and line breaks in cells are made safe."""
    ruled = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(inline(cell) if row is not ruled[1] else cell for cell in row)} |" for row in ruled]


def _results(result: RunResult) -> list[str]:
    metrics, runtimes = cells.metric_names(result), cells.runtimes(result)
    header = ["model", "chain", "parameters M", "non-zero M", "size MB", "weights deflated MB", "peak memory MB"]
    for name in metrics:
        header += [name, f"{name} vs teacher"]
    for name in runtimes:
        header += [f"{name} p50 ms", f"{name} speed-up"]
    rows = []
    for candidate in cells.ordered(result):
        row = [
            candidate.name,
            cells.lineage(candidate),
            cells.parameters(candidate),
            cells.non_zeros(candidate),
            cells.megabytes(candidate.size_bytes),
            cells.megabytes(candidate.zipped_bytes),
            cells.megabytes(candidate.peak_memory_bytes),
        ]
        for name in metrics:
            gap = cells.difference(cells.of_metric(result, candidate, name))
            row += [cells.metric(candidate.metrics.get(name)), " ".join(gap)]
        for name in runtimes:
            timed = cells.latency(cells.latency_of(candidate, name))
            ratio = cells.speed_up(cells.of_runtime(result, candidate, name))
            row += [" ".join(timed), " ".join(ratio) or cells.NOTHING]
        rows.append(row)
    return table(header, rows)


def _lineage(result: RunResult) -> list[str]:
    return [
        f"- {inline(candidate.name)}: {inline(step.method)} ({inline(step.distribution)} {inline(step.version)}, "
        f"{step.seconds:.1f} s) `{json.dumps(step.config, default=str).replace('`', '')}`"
        for candidate in cells.ordered(result)
        for step in candidate.lineage
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *lines] if lines else []


def inline(text: str) -> str:
    """Make text safe inside a table cell or a line: no breaks, no markup of its own."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    for mark in ("\\", "|", "`", "<", "*"):
        clean = clean.replace(mark, "&lt;" if mark == "<" else f"\\{mark}")
    return clean
