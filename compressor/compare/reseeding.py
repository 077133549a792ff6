"""How many answers another seed of the same recipe changes: the noise floor of the flips against a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from compressor.compare.candidates import Arm, Candidate
from compressor.compare.flips import Rate
from compressor.compare.pairing import PredictionReader, count_flips
from compressor.compare.predictions import PREDICTIONS
from compressor.errors import CompressorError


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedFlips:
    """One candidate on one split.

    Attributes:
        label: The candidate's.
        task: The task.
        split: The split that the answers are of.
        against: Share of its answers that differ from its teacher's, the mean over its seeds; None for a teacher, or where
            the runs did not record it.
        between: Share of the answers that differ between two of its seeds, the mean over `seeds` in turn; None with one seed.
        seeds: Those with predictions.
    """

    label: str
    task: str
    split: str
    against: Rate | None
    between: Rate | None
    seeds: tuple[int, ...]


def seed_flips(
    candidates: Sequence[Candidate], metrics: Mapping[str, str], reader: PredictionReader
) -> tuple[SeedFlips, ...]:
    """Return the flips of every candidate of a task in which some have a second seed; nothing for the other tasks.

    Scores differ in the last digit whatever is done, so tasks without labels are left out. So is a candidate whose seeds were
    scored on different examples, or whose predictions cannot be read: the ranking names it.

    Args:
        candidates: All of the comparison.
        metrics: The metric of each task, which names the split.
        reader: Where predictions come from.
    """
    found: list[SeedFlips] = []
    for task, metric in metrics.items():
        rows = [row for c in candidates if (row := _row(c, task, metric, reader)) is not None]
        found += rows if any(row.between is not None for row in rows) else []
    return tuple(found)


def _row(candidate: Candidate, task: str, metric: str, reader: PredictionReader) -> SeedFlips | None:
    split = metric.partition("@")[2] or "test"
    arms = [arm for arm in candidate.scored(task, metric) if arm.run.result.label_names]
    by_seed: dict[int, Arm] = {}
    for arm in arms:
        if (arm.run.folder / PREDICTIONS).is_dir():
            by_seed.setdefault(arm.seed, arm)
    try:
        between = _mean([count_flips(a, b, metric, reader) for a, b in pairwise(by_seed.values())])
    except CompressorError:
        return None
    recorded = [found for arm in arms if (found := arm.result.agreement.get(split)) is not None]
    against = _mean([(a.gained + a.lost + a.changed, a.n) for a in recorded])
    if between is None and against is None:
        return None
    return SeedFlips(
        label=candidate.label, task=task, split=split, against=against, between=between, seeds=tuple(by_seed)
    )


def _mean(counts: Sequence[tuple[int, int]]) -> Rate | None:
    """Return the mean of some counts of flips, with the interval that one of them has: they share their examples."""
    if not counts or len({n for _, n in counts}) > 1:
        return None
    return Rate.of(round(sum(count for count, _ in counts) / len(counts)), counts[0][1])
