"""The rows of the matrix of one run: what was measured of each model, beside the teacher, and who leads."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.compare.ranking import by_counts, by_records
from compressor.compare.rows import making_seconds
from compressor.compare.values import exact
from compressor.compare.verdicts import NOISE, noise_of
from compressor.report import cells
from compressor.report.html.view import Cell, Row
from compressor.results import CandidateResult, RunResult

MINUS, TIMES, PLUS_MINUS = "\u2212", "\u00d7", "\u00b1"


def matrix_rows(result: RunResult, ordered: Sequence[CandidateResult], price: float | None) -> tuple[Row, ...]:
    """Return the rows in the order of the page; one that nobody has a number for is left out.

    Args:
        result: The run.
        ordered: Its models in the order of the columns.
        price: Of an hour of the machine; None leaves the cost out.
    """
    teacher = result.teacher
    rows = [_scores(result, ordered, name) for name in cells.metric_names(result)]
    rows += [_speeds(result, ordered, name) for name in cells.runtimes(result)]
    sizes = {c.name: float(f"{c.size_bytes:.3g}") for c in ordered}
    lead = by_counts({name: exact(size) for name, size in sizes.items()})
    rows.append(
        Row(
            label="size on disk",
            unit="MB, share of the teacher's",
            cells=tuple(
                Cell(
                    text=cells.megabytes(c.size_bytes),
                    against="" if c is teacher else f"{c.size_bytes / max(1, teacher.size_bytes):.0%}",
                    note="" if c.zipped_bytes is None else f"{cells.megabytes(c.zipped_bytes)} zipped",
                    mark=lead.get(c.name),
                    value=sizes[c.name],
                )
                for c in ordered
            ),
        )
    )
    counts = {c.name: float(cells.parameters(c)) for c in ordered}  # what reads alike is alike
    lead = by_counts({name: exact(count) for name, count in counts.items()})
    rows.append(
        Row(
            label="parameters",
            unit="millions",
            cells=tuple(
                Cell(
                    text=cells.parameters(c),
                    note=f"{cells.non_zeros(c)} not zero"
                    if cells.non_zeros(c) not in ("-", cells.parameters(c))
                    else "",
                    mark=lead.get(c.name),
                    value=counts[c.name],
                )
                for c in ordered
            ),
        )
    )
    rows.append(Row(label="peak memory", unit="MB", cells=tuple(_memory(c) for c in ordered)))
    made = {c.name: making_seconds(c.lineage) for c in ordered}
    if any(seconds is not None for seconds in made.values()):
        rows.append(Row(label="time to make", cells=tuple(_made(made[c.name]) for c in ordered)))
    if price is not None:
        costs = tuple(_cost(made[c.name], price) for c in ordered)
        rows.append(Row(label="cost to make", unit=f"at {price:g} an hour", cells=costs))
    rows.append(tasks_row(ordered))
    chains = tuple(Cell(text=cells.lineage(c)) for c in ordered)
    return (
        *(row for row in rows if any(c.text != cells.NOTHING for c in row.cells)),
        Row(label="chain", cells=chains, words=True),
    )


def _scores(result: RunResult, ordered: Sequence[CandidateResult], name: str) -> Row:
    values = {c.name: c.metrics[name].value for c in ordered if name in c.metrics}
    higher = next(c.metrics[name].higher_is_better for c in ordered if name in c.metrics)
    compared = [c for c in result.comparisons if c.metric == name]
    lead = by_records(values, compared, result.teacher.name, higher=higher)

    def cell(candidate: CandidateResult) -> Cell:
        found = candidate.metrics.get(name)
        if found is None:
            return Cell(text=cells.NOTHING)
        gap = cells.of_metric(result, candidate, name)
        half = max(found.value - found.ci95[0], found.ci95[1] - found.value)
        against = verdict = note = ""
        if gap is not None and gap.difference is not None:
            low, high = (signed(x) for x in gap.ci95)
            against, verdict = f"{signed(gap.difference)} ({low} to {high})", gap.verdict
            note = f"finds {gap.detectable_difference * 100:.1f} or more"
        return Cell(
            text=f"{found.value * 100:.1f}",
            spread=f"{PLUS_MINUS}{half * 100:.1f}",
            against=against,
            verdict=verdict,
            note=note,
            title=gap.sentence if gap is not None else "",
            mark=lead.get(candidate.name),
            value=found.value,
        )

    unit = "of 100" if higher else "of 100, lower is better"
    return Row(label=name, unit=unit, cells=tuple(cell(c) for c in ordered))


def _speeds(result: RunResult, ordered: Sequence[CandidateResult], runtime: str) -> Row:
    timed = {c.name: cells.latency_of(c, runtime) for c in ordered}
    values = {n: t.latency_ms_p50 for n, t in timed.items() if t is not None and t.latency_ms_p50 is not None}
    compared = [c for c in result.comparisons if c.runtime == runtime]
    noise = max((noise_of(c.null_ratio) for c in compared if c.baseline == result.teacher.name), default=NOISE)
    lead = by_records(values, compared, result.teacher.name, higher=False, noise=noise)

    def cell(candidate: CandidateResult) -> Cell:
        found = timed[candidate.name]
        if found is None:
            return Cell(text=cells.NOTHING)
        if found.latency_ms_p50 is None:
            reason = found.refusal or ""
            return Cell(text="refused", note=shortened(reason), title=reason)
        half = None
        if found.ci95 is not None:
            half = max(found.latency_ms_p50 - found.ci95[0], found.ci95[1] - found.latency_ms_p50)
        ratio = cells.of_runtime(result, candidate, runtime)
        against = verdict = ""
        if ratio is not None and ratio.ratio is not None:
            low, high = ratio.ci95
            against, verdict = f"{TIMES}{ratio.ratio:.2f} ({low:.2f} to {high:.2f})", ratio.verdict
        return Cell(
            text=f"{found.latency_ms_p50:.2f}",
            spread="" if half is None else f"{PLUS_MINUS}{half:.2f}",
            against=against,
            verdict=verdict,
            title=ratio.sentence if ratio is not None else "",
            mark=lead.get(candidate.name),
            value=found.latency_ms_p50,
        )

    return Row(label=runtime, unit="p50 ms", cells=tuple(cell(c) for c in ordered))


def _memory(candidate: CandidateResult) -> Cell:
    used = candidate.peak_memory_bytes
    return Cell(text=cells.megabytes(used), value=None if used is None else float(used))


def _made(seconds: float | None) -> Cell:
    return Cell(text=cells.NOTHING) if seconds is None else Cell(text=duration(seconds), value=seconds)


def _cost(seconds: float | None, price: float) -> Cell:
    if seconds is None:
        return Cell(text=cells.NOTHING)
    cost = seconds * price / 3600
    return Cell(text=money(cost), value=cost)


def money(cost: float) -> str:
    """Return an amount in whatever currency the price had."""
    return f"{cost:.2f}" if cost >= 1 else f"{cost:.2g}"


def tasks_row(candidates: Sequence[CandidateResult]) -> Row:
    """Return the types of tasks that each model's methods take; a dash where the run did not record them."""
    return Row(label="supported tasks", cells=tuple(_tasks(c.supported_tasks) for c in candidates), words=True)


def _tasks(names: tuple[str, ...] | None) -> Cell:
    return Cell(text=cells.NOTHING if names is None else ", ".join(n.replace("_", " ") for n in names) or "none")


def shortened(reason: str) -> str:
    """Return a refusal that fits into a cell."""
    return reason if len(reason) <= 90 else reason[:87] + "..."


def signed(share: float) -> str:
    """Return a difference of shares as signed points, with a minus of print."""
    return f"{share * 100:+.1f}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """Return `11.8 s`, `4 min 12 s` or `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
