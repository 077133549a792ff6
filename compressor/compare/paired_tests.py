"""P-values of two models on the same examples: is their difference more than chance would give them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.compare.statistics import mcnemar_p_value

if TYPE_CHECKING:
    from compressor.tasks.metrics import Metric, Rows

SWAPS = 10_000
RANK_SWAPS = 2_000  # each recomputes the ranks
_CHUNK_CELLS = 4_000_000  # bounds the memory of one draw
_TIE = 1e-12  # differences this close are equal; sums in another order round differently


def paired_p_value(
    metric: Metric,
    candidate: Sequence[Any],
    baseline: Sequence[Any],
    references: Sequence[Any],
    label_names: tuple[str, ...],
    *,
    seed: int,
) -> float:
    """Return the two-sided p-value of a difference: exact McNemar for accuracy, permutation for every other metric."""
    if metric.name == "accuracy":
        gained, lost = discordant(candidate, baseline, references)
        return mcnemar_p_value(gained, lost)
    return permutation_p_value(metric, candidate, baseline, references, label_names, seed=seed)


def discordant(candidate: Sequence[Any], baseline: Sequence[Any], references: Sequence[Any]) -> tuple[int, int]:
    """Return how many examples only the candidate, and how many only the baseline gets right."""
    ours, theirs = (np.asarray(p) == np.asarray(references) for p in (candidate, baseline))
    return int((ours & ~theirs).sum()), int((theirs & ~ours).sum())


def permutation_p_value(
    metric: Metric,
    candidate: Sequence[Any],
    baseline: Sequence[Any],
    references: Sequence[Any],
    label_names: tuple[str, ...],
    *,
    seed: int,
) -> float:
    """Return the two-sided p-value of the paired permutation test (Noreen 1989, approximate randomization).

    The hypothesis is that the two models' answers to an example could be swapped; the p-value is the share of swaps that
    give a difference at least as large as the one seen. All of them are tried where they are few (then it is exact),
    else they are drawn, and the one seen counts among them: (1 + hits) / (1 + draws), which is never 0 (Phipson & Smyth
    2010, arXiv:1603.05766, section 3). A correlation is blind to the scale of the predictions, so they are swapped as
    standard scores or ranks (`Metric.rescaled`); there the level holds for many examples only, since the scale is estimated.

    Args:
        metric: The metric.
        candidate: The candidate's predictions.
        baseline: The baseline's, of the same examples.
        references: What they are compared with.
        label_names: The task's.
        seed: Seed of the drawn swaps.

    Raises:
        ValueError: A statistic is not finite.
    """
    ours = metric.rows(metric.rescaled(candidate), references, label_names)
    theirs = metric.rows(metric.rescaled(baseline), references, label_names)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError(f"statistics of {metric.name} that are not finite")
    differing = np.flatnonzero((ours != theirs).any(axis=1))
    if len(differing) == 0:
        return 1.0
    seen = abs(metric.of_rows(ours) - metric.of_rows(theirs)) - _TIE
    rng = np.random.default_rng(seed)
    draws = SWAPS if metric.additive else RANK_SWAPS
    exact = len(differing) <= math.log2(draws)
    if metric.additive:
        differences = _by_sums(metric, ours, theirs, None if exact else rng)
    else:
        differences = _by_rows(metric, ours, theirs, differing, None if exact else rng)
    hits = int((abs(differences) >= seen).sum())
    return hits / len(differences) if exact else (1 + hits) / (1 + len(differences))


def _by_sums(metric: Metric, ours: Rows, theirs: Rows, rng: np.random.Generator | None) -> NDArray[np.float64]:
    """Return the difference under each swap; examples with the same pair of rows are swapped by their number alone."""
    moves, counts = np.unique(theirs - ours, axis=0, return_counts=True)
    moves, counts = moves[(moves != 0).any(axis=1)], counts[(moves != 0).any(axis=1)]
    if rng is None:
        single = np.repeat(moves, counts, axis=0)
        chunks: list[NDArray[np.int64]] = [_every_choice(len(single))]
        moves = single
    else:
        step = max(1, _CHUNK_CELLS // len(moves))
        sizes = [min(step, SWAPS - start) for start in range(0, SWAPS, step)]
        chunks = [rng.binomial(counts, 0.5, size=(size, len(counts))) for size in sizes]
    parts = []
    for chosen in chunks:
        moved = chosen.astype(np.float64) @ moves
        parts.append(metric.of_sums(ours.sum(axis=0) + moved) - metric.of_sums(theirs.sum(axis=0) - moved))
    return np.concatenate(parts)


def _by_rows(
    metric: Metric, ours: Rows, theirs: Rows, differing: NDArray[np.intp], rng: np.random.Generator | None
) -> NDArray[np.float64]:
    places = len(differing)
    choices = _every_choice(places) if rng is None else (rng.integers(0, 2, places) for _ in range(RANK_SWAPS))
    differences = []
    for chosen in choices:
        swapped = differing[chosen.astype(bool)]
        first, second = ours.copy(), theirs.copy()
        first[swapped], second[swapped] = theirs[swapped], ours[swapped]
        differences.append(metric.of_rows(first) - metric.of_rows(second))
    return np.asarray(differences)


def _every_choice(places: int) -> NDArray[np.int64]:
    """Return all [2 ** places, places] rows of zeros and ones."""
    return (np.arange(2**places)[:, None] >> np.arange(places)) & 1
