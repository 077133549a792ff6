"""A metric on parts of a split: each class, and texts of like length. A part too small to say anything says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.compare.bootstrap import Estimate, metric_estimate, paired_difference
from compressor.compare.predictions import PredictionTable, require_same_examples

if TYPE_CHECKING:
    from compressor.tasks.metrics import Metric

SMALLEST = 30  # examples below which a slice has no numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some examples of a split, by their places in it."""

    name: str
    places: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A metric on a part: its value, and the paired difference from the baseline; both None where n is too small."""

    name: str
    n: int
    value: Estimate | None
    difference: Estimate | None


def parts(table: PredictionTable, label_names: tuple[str, ...]) -> list[Part]:
    """Return a part for each reference class (where an example has one), and one for each quarter of the token lengths.

    The lengths are this table's, so that all models are sliced alike when it is the teacher's; quarters that equal lengths
    run together are one part.
    """
    found = []
    if label_names and all(isinstance(right, int) for right in table.references):
        references = np.asarray(table.references)
        found = [Part(name=name, places=np.flatnonzero(references == c)) for c, name in enumerate(label_names)]
    lengths = np.asarray(table.tokens)
    edges = np.unique(np.floor(np.quantile(lengths, [0.25, 0.5, 0.75])))
    buckets = np.searchsorted(edges, lengths, side="left")
    for bucket in np.unique(buckets):
        places = np.flatnonzero(buckets == bucket)
        low, high = lengths[places].min(), lengths[places].max()
        found.append(Part(name=f"{low} to {high} tokens" if low < high else f"{low} tokens", places=places))
    return found


def slice_metric(
    metric: Metric,
    candidate: PredictionTable,
    baseline: PredictionTable,
    label_names: tuple[str, ...],
    chosen: Sequence[Part],
    *,
    seed: int,
) -> list[Slice]:
    """Return the metric on each part, with Wilson (accuracy) or bootstrap intervals.

    Accuracy on a reference class is that class's recall.

    Raises:
        StoreError: The tables are of different examples.
    """
    require_same_examples(candidate, baseline)
    found = []
    for part in chosen:
        n = len(part.places)
        if n < SMALLEST:
            found.append(Slice(name=part.name, n=n, value=None, difference=None))
            continue
        ours, theirs, references = (
            [column[i] for i in part.places]
            for column in (candidate.predictions, baseline.predictions, candidate.references)
        )
        found.append(
            Slice(
                name=part.name,
                n=n,
                value=metric_estimate(metric, ours, references, label_names, seed=seed),
                difference=paired_difference(metric, ours, theirs, references, label_names, seed=seed),
            )
        )
    return found
