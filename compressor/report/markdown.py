"""report.md: the table of a run, its verdicts, how it was measured, and on what."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from compressor import commit
from compressor.report import cells
from compressor.report.examples import Examples, examples, read_examples
from compressor.report.markup import grid_section, inline, section, table
from compressor.report.speed import attributions, speed_sections
from compressor.report.speed_tables import speed_grids
from compressor.report.statistics import statistics
from compressor.report.work import work_grids
from compressor.results import OK, RunResult

METHOD = """\
- Every model was saved, re-loaded in a fresh process, and measured from the files.
- Metrics: 95 % intervals over the examples (Wilson for accuracy, bootstrap for the others). Differences are paired by
  example; *equivalent* means that the whole interval lies above a loss of the margin (`bench.margin`, a share of the
  teacher's value), *inconclusive* that the data cannot tell. *Finds from*: the smallest difference, in points, that this
  many examples find with 80 % power. *Keeps 99 %*: the whole interval lies above 99 % of the other model's value.
- p: exact McNemar for accuracy, a paired permutation test for the others, two-sided. Holm: adjusted for all rows of the
  table. The intervals are not adjusted, those of slices neither: of twenty, one misses the truth.
- Expected calibration error: 15 equal bins, weighted by the share of the examples; the negative log-likelihood is in nats.
- Flips: ordered by how much probability the wrong answer has over the label's. Ids count the examples of the split.
- Latency: real texts of the test split at their own lengths; all models on all runtimes are interleaved call by call,
  in one process a runtime of which only the one that is asked computes, and the teacher is loaded twice in each: the
  two against each other are the check, and a ratio to it is the geometric mean of those to both (p50 and percentiles
  are those of the first); one to a baseline is to its own calls. Where a model lies in memory changes its speed by a
  percent or two, so all are loaded anew `bench.loads` times, each second time in the opposite order, and called in turn
  before calls are timed. Speed-ups are paired by text, and a block's is the Hodges-Lehmann centre of its texts'; the
  unit of their intervals, and of those of a median call, is the load (from six loads on, if even, two of them), with
  several rounds of fresh processes the round, and the block where there is one load. *Faster* and *slower* need the
  whole interval beyond 1 %, *equivalent* the 90 % interval within 2 %. A round in which the check strays or the machine
  is short of processors is run again (`bench.repeats`); where every attempt at a single round is disturbed all of them
  count, else the last one, with a note. A ratio that is not known to 1 % has a note too. p90, p95 and p99 are bounds
  that hold with 99 % confidence if calls are independent, which those of one load are not quite. Where the check strays
  by more than 1 %, a difference must lie beyond that, and nothing is *equivalent*. The interval of a single round is
  that of its processes; `bench=standard` adds what changes between processes.
- From raw text: the same experiment on the same texts, and each call begins with tokenising and padding. Throughput: test
  texts drawn alike, sorted by length, in batches; a sample is a pass over all of them, and the ratio is of whole passes. By
  batch size and length: tokens of the same texts laid end to end, without padding; six calls a shape, three loads. Each in
  processes of its own, after the single calls and under their protocol, with every prediction checked.
- Energy: the processor packages' counters over the throughput's calls, less what they take at rest; only where they can be
  read, calls are long enough, and nothing else computes. On a graphics card its own counter, over half a minute in which one
  model runs the same batches by itself.
- Non-zero: parameters that are not 0. Deflated: the files of the weights through zlib at level 6, as a zip would hold them.
- Peak memory: what the model adds to a process that has loaded its runtime. MB are 10^6 bytes."""


def write_markdown(
    result: RunResult, path: Path, *, overrides: Sequence[str] = (), found: Examples | None = None
) -> None:
    """Write the report of one run into its folder; `overrides` are what was typed.

    Raises:
        StoreError: The predictions that stand in the folder are damaged or incomplete, or the disk is full.
    """
    commit.write_text(path, to_markdown(result, overrides=overrides, folder=path.parent, found=found))


def to_markdown(
    result: RunResult, *, overrides: Sequence[str] = (), folder: Path | None = None, found: Examples | None = None
) -> str:
    """Return the report of one run; flips and slices need its folder, and are read there unless `found` holds them."""
    lines = [f"# {inline(result.task)}, seed {result.seed}", ""]
    if result.status != OK:
        return "\n".join([*lines, f"Status: {inline(result.status)}", ""])
    lines += _results(result)
    verdicts = [f"- {inline(text)}" for _, text in cells.sentences(result)]
    notes = [f"- {inline(text)}" for text in cells.notes(result)]
    lines += section("Verdicts", verdicts) + section("Notes", notes)
    lines += statistics(result)
    lines += [line for grid in (*speed_grids(result), *work_grids(result)) for line in grid_section(grid)]
    if folder is not None:
        lines += speed_sections(attributions(result, folder), result.teacher.name)
        lines += examples(found or read_examples(result, folder))
    lines += section("How it was measured", [METHOD])
    lines += section("Lineage", _lineage(result))
    command = shlex.join(["python", "-m", "compressor", *overrides]).replace("`", "'")
    lines += section("How to run it again", ["```shell", command, "```"])
    environment = json.dumps(result.environment, indent=2, ensure_ascii=True).replace("```", "'''")
    lines += section("Environment", ["```json", environment, "```"])
    return "\n".join(lines)


def _results(result: RunResult) -> list[str]:
    metrics, runtimes = cells.metric_names(result), cells.runtimes(result)
    header = ["model", "chain", "parameters M", "non-zero M", "size MB", "weights deflated MB", "peak memory MB"]
    for name in metrics:
        header += [name, f"{name} vs teacher"]
    for name in runtimes:
        header += [f"{name} p50 ms", f"{name} percentiles ms", f"{name} speed-up"]
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
            found = cells.of_metric(result, candidate, name)
            gap = ", ".join([" ".join(cells.difference(found)), *cells.detectable(found)])
            row += [cells.metric(candidate.metrics.get(name)), gap]
        for name in runtimes:
            entry = cells.latency_of(candidate, name)
            ratio = cells.speed_up(cells.of_runtime(result, candidate, name))
            row += [" ".join(cells.latency(entry)), cells.percentiles(entry), " ".join(ratio) or cells.NOTHING]
        rows.append(row)
    return table(header, rows)


def _lineage(result: RunResult) -> list[str]:
    return [
        f"- {inline(candidate.name)}: {inline(step.method)} ({inline(step.distribution)} {inline(step.version)}, "
        f"{step.seconds:.1f} s) `{json.dumps(step.config, default=str).replace('`', '')}`"
        for candidate in cells.ordered(result)
        for step in candidate.lineage
    ]
