"""Metrics as sums over examples, so that one formula gives the value and its bootstrap.

A metric maps each example to a row of statistics [N, K] and a sum of rows [..., K] to the value; only rank
correlation is no function of sums and recomputes from the rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


class Metric(ABC):
    """A named quantity with a direction."""

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    additive: ClassVar[bool] = True  # False: `of_rows` needs the rows themselves

    @abstractmethod
    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        """Return the statistics of each example, [N, K]."""

    @abstractmethod
    def of_sums(self, sums: Rows) -> Rows:
        """Return the value of each summed row, [...] from [..., K]."""

    def of_rows(self, rows: Rows) -> float:
        """Return the value over all rows."""
        return float(self.of_sums(rows.sum(axis=0)))

    def rescaled(self, predictions: Sequence[Any]) -> Sequence[Any]:
        """Return predictions of the same value on a scale that two models share, so that they may be swapped."""
        return predictions

    def __call__(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> float:
        return self.of_rows(self.rows(predictions, references, label_names))


class Accuracy(Metric):
    """Share of examples whose class is right."""

    name = "accuracy"

    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        right = np.asarray(predictions) == np.asarray(references)
        return np.stack([right.astype(np.float64), np.ones(len(right))], axis=1)

    def of_sums(self, sums: Rows) -> Rows:
        return np.asarray(sums[..., 0] / sums[..., 1])


class MaskedAccuracy(Metric):
    """Share of hidden tokens that were found; a prediction is [found, hidden] of one text."""

    name = "masked_accuracy"

    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        return np.asarray(predictions, np.float64).reshape(-1, 2)

    def of_sums(self, sums: Rows) -> Rows:
        found, hidden = np.moveaxis(sums, -1, 0)
        return np.asarray(np.divide(found, hidden, out=np.zeros_like(found), where=hidden > 0))


class Pearson(Metric):
    """Pearson correlation of predicted and true scores; 0 where either is constant."""

    name = "pearson"

    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        x, y = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
        x, y = x - x.mean(), y - y.mean()  # a shift leaves the value as it is and keeps the sums exact
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def of_sums(self, sums: Rows) -> Rows:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread = np.sqrt(np.clip(n * xx - x * x, 0, None) * np.clip(n * yy - y * y, 0, None))
        return np.asarray(np.divide(n * xy - x * y, spread, out=np.zeros_like(spread), where=spread > 0))

    def rescaled(self, predictions: Sequence[Any]) -> Sequence[Any]:
        x = np.asarray(predictions, np.float64)
        x = x - x.mean()
        return list(x / (x.std() or 1.0))


class Spearman(Metric):
    """Rank correlation (scipy, average ranks for ties); 0 where either side is constant."""

    name = "spearman"
    additive = False

    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        return np.stack([np.asarray(predictions, np.float64), np.asarray(references, np.float64)], axis=1)

    def of_sums(self, sums: Rows) -> Rows:
        raise TypeError("rank correlation is no function of sums")

    def of_rows(self, rows: Rows) -> float:
        from scipy.stats import spearmanr

        if np.ptp(rows[:, 0]) == 0 or np.ptp(rows[:, 1]) == 0:
            return 0.0
        return float(spearmanr(rows[:, 0], rows[:, 1]).statistic)

    def rescaled(self, predictions: Sequence[Any]) -> Sequence[Any]:
        from scipy.stats import rankdata

        return list(rankdata(predictions))


class EntityF1(Metric):
    """Micro F1 over exact entity spans, seqeval's definition (Ramshaw & Marcus 1995 chunks, BIO tags)."""

    name = "seqeval_f1"

    def rows(self, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...]) -> Rows:
        from seqeval.metrics.sequence_labeling import get_entities

        def spans(tags: Sequence[int]) -> set[tuple[str, int, int]]:
            return set(get_entities([label_names[t] for t in tags]))

        counts = []
        for predicted, true in zip(predictions, references, strict=True):
            found, wanted = spans(predicted), spans(true)
            counts.append((len(found & wanted), len(found), len(wanted)))
        return np.asarray(counts, np.float64).reshape(-1, 3)

    def of_sums(self, sums: Rows) -> Rows:
        both, found, wanted = np.moveaxis(sums, -1, 0)
        return np.asarray(np.divide(2 * both, found + wanted, out=np.zeros_like(both), where=(found + wanted) > 0))
