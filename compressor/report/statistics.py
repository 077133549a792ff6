"""Sections of report.md on what the numbers are worth: tests and margins, agreement with the teacher, calibration."""

from __future__ import annotations

from compressor.compare.multiplicity import holm
from compressor.report import cells
from compressor.report.grid import Grid
from compressor.report.markup import section, table
from compressor.results import RunResult


def statistics(result: RunResult) -> list[str]:
    """Return the sections of one run; each is left out where there is nothing to say."""
    return [
        *section("Differences", _differences(result)),
        *section("Agreement with the teacher", _agreement(result)),
        *section("Calibration", _calibration(result)),
    ]


def _differences(result: RunResult) -> list[str]:
    """Return one row for each metric of each comparison; the rows are one family for Holm's correction."""
    compared = [c for c in result.comparisons if c.metric is not None and c.difference is not None]
    tested = [c.p_value for c in compared if c.p_value is not None]
    adjusted = iter(holm(tested))
    rows = []
    for found in compared:
        difference, interval, verdict = cells.difference(found)
        rows.append(
            [
                found.candidate,
                found.baseline,
                found.metric or "",
                difference,
                interval,
                f"{found.detectable_difference * 100:.1f}",
                cells.NOTHING if found.margin is None else f"{found.margin * 100:.1f}",
                verdict,
                cells.p_value(found.p_value),
                cells.NOTHING if found.p_value is None else cells.p_value(next(adjusted)),
                cells.yes_or_no(found.keeps_99),
                cells.yes_or_no(found.keeps_999),
            ]
        )
    header = ["model", "against", "metric", "difference", "95 % CI", "finds from", "margin", "verdict", "p"]
    header += [f"p (Holm, {len(tested)} tests)", "keeps 99 %", "keeps 99.9 %"]
    return table(header, rows) if rows else []


def _agreement(result: RunResult) -> list[str]:
    rows = [
        [
            candidate.name,
            split,
            cells.share(found.rate, found.ci95),
            f"{found.n:,}",
            f"{found.gained:,}",
            f"{found.lost:,}",
            f"{found.changed:,}",
        ]
        for candidate in cells.ordered(result)
        for split, found in candidate.agreement.items()
    ]
    header = ["model", "split", "same answer", "n", "wrong to right", "right to wrong", "wrong to another wrong"]
    return table(header, rows) if rows else []


def calibration(result: RunResult) -> Grid | None:
    """Return how far each classifier's probabilities can be believed; None where nothing was kept of that."""
    rows = []
    for candidate in cells.ordered(result):
        for split, found in candidate.calibration.items():
            low, high = found.negative_log_likelihood_ci95
            rows.append(
                (
                    candidate.name,
                    split,
                    cells.share(found.expected_calibration_error, found.expected_calibration_error_ci95),
                    f"{found.negative_log_likelihood:.3f} ({low:.3f}..{high:.3f})",
                    f"{found.n:,}",
                )
            )
    header = ("model", "split", "expected calibration error", "negative log-likelihood", "n")
    lead = "0 is best in both columns; 15 bins, and nats an example."
    return Grid(title="Calibration", lead=lead, header=header, rows=tuple(rows)) if rows else None


def _calibration(result: RunResult) -> list[str]:
    found = calibration(result)
    return [] if found is None else table(found.header, found.rows)
