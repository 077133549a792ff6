"""What stands below the table over many runs: the meaning of its words, seeds, doubts and refusals."""

from __future__ import annotations

from compressor.compare.reseeding import SeedFlips
from compressor.compare.rows import Row
from compressor.compare.table import Table
from compressor.report import cells

LEGEND = (
    "best: told from every other candidate at the 5 % level (accuracy: paired tests, Holm; speed-up: intervals that do not "
    "meet; bytes and parameters: by more than 0.1 %); tied: not told from the best; better, worse, faster, slower: against the "
    "teacher of that row, not corrected for the number of rows; finds: the smallest difference in points that the data shows "
    "with 80 % power; milliseconds of different runs are not compared; cold: loading with warm files (from protocol 4 on "
    "without imports) and the first call"
)


def over_seeds(row: Row, table: Table) -> list[str]:
    """Say what a candidate keeps on average over its seeds, all of them shown."""
    lines = []
    for task, cell in row.quality.items():
        kept = cell.kept
        seeds = {seed for seed, _ in kept.each} if kept is not None else set()
        if kept is None or kept.ci95 is None or len(seeds) < 2:
            continue
        each = ", ".join(f"seed {seed} {value:.1%}" for seed, value in sorted(kept.each))
        where = f" on {task}" if len(table.metrics) > 1 else ""
        over = (
            f"over {len(seeds)} seeds" if kept.freedom is not None else "over the examples, wider than over the seeds,"
        )
        lines.append(
            f"{row.label} keeps {kept.value:.1%} of the teacher's {table.metrics[task]}{where} (95 % CI {over} "
            f"{kept.ci95.low:.1%} to {kept.ci95.high:.1%}; {each})"
        )
    return lines


def seed_lines(table: Table) -> list[str]:
    """Say how many answers another seed changes beside those that the compression changes; nothing without a second seed."""
    return [_seeds(found, table) for found in table.flips if found.between is not None]


def _seeds(found: SeedFlips, table: Table) -> str:
    assert found.between is not None
    where = f" on {found.task}" if len(table.metrics) > 1 else ""
    said = (
        f"{found.label}{where}: another seed of the same recipe changes {cells.rate(found.between)} of the answers "
        f"on {found.split} (n={found.between.n:,}, seeds {', '.join(map(str, found.seeds))})"
    )
    return said if found.against is None else f"{said}; {cells.rate(found.against)} differ from its teacher's"


def notes(table: Table) -> list[str]:
    """Return what a reader should know: doubts, refusals in the runtimes' own words, zeros that save nothing."""
    return list(dict.fromkeys([*table.notes, *(note for row in table.rows for note in _of_row(row))]))


def _of_row(row: Row) -> list[str]:
    refused = [f"{row.label} on {label}: {why}" for (_, label), cell in row.speed.items() for why in cell.refusals]
    zeros = [f"{row.label}: {line}" for line in (cells.zeros_of(arm.result) for arm in row.candidate.arms) if line]
    return refused + zeros[:1]
