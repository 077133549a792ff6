"""Many tests at once: p-values of a family, and which candidates the data cannot tell from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.compare.paired_tests import paired_p_value

if TYPE_CHECKING:
    from compressor.tasks.metrics import Metric

LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSet:
    """The candidates that are not separable from the best.

    Attributes:
        best: The one with the best value on these examples; the first of several.
        members: It and all that are not separable from it, in the order given.
        p_values: Adjusted p-value of each other candidate against the best.
        level: A candidate with an adjusted p-value up to this is left out.
    """

    best: str
    members: tuple[str, ...]
    p_values: Mapping[str, float]
    level: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Return step-down adjusted p-values, in the order given (Holm 1979, Scand. J. Statist. 6:65).

    Rejecting what is at most `level` makes one false rejection or more with at most that probability, whichever of the
    hypotheses are true and however the tests depend on each other.

    Raises:
        ValueError: A p-value is not within 0 to 1 (NaN included).
    """
    found = np.asarray(p_values, np.float64)
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"p-values {list(p_values)}, allowed: 0 to 1")
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]


def best_set(
    metric: Metric,
    predictions: Mapping[str, Sequence[Any]],
    references: Sequence[Any],
    label_names: tuple[str, ...],
    *,
    seed: int,
    level: float = LEVEL,
) -> BestSet:
    """Return the candidates that a paired test does not separate from the best one, Holm-adjusted over those tests.

    What it guarantees: had the best been named before these examples were seen, one or more of the candidates that are as
    good as it would be left out with at most probability `level`. It is picked on the same examples, so less holds. Of k
    candidates that are all equally good, the set leaves out one or more in 5 % (k = 2), 9 % (k = 5) and 14 % (k = 10) of
    test sets; a given one, and so the one that unlimited data would name the best, in less than 3 %, whatever the
    values of the others (simulated with normal scores, `level` 0.05). For a claim about a pair that was not fixed
    beforehand, adjust over all pairs. Membership is no proof of equality: a small test set keeps everyone.

    Args:
        metric: The metric.
        predictions: Each candidate's, by name, of the same examples.
        references: What they are compared with.
        label_names: The task's.
        seed: Seed of the permutation tests.
        level: Of the family.

    Raises:
        ValueError: There is no candidate.
    """
    if not predictions:
        raise ValueError("the best of no candidates")
    values = {name: metric(found, references, label_names) for name, found in predictions.items()}
    pick = max if metric.higher_is_better else min
    best = pick(values, key=lambda name: values[name])
    others = [name for name in predictions if name != best]
    raw = [
        paired_p_value(metric, predictions[name], predictions[best], references, label_names, seed=seed)
        for name in others
    ]
    adjusted = dict(zip(others, holm(raw), strict=True))
    return BestSet(
        best=best,
        members=tuple(name for name in predictions if name == best or adjusted[name] > level),
        p_values=adjusted,
        level=level,
    )
