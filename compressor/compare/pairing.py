"""Two candidates on the same examples: predictions joined by example id, and the paired test of their difference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressor.compare.bootstrap import paired_difference
from compressor.compare.candidates import Arm
from compressor.compare.paired_tests import paired_p_value
from compressor.compare.predictions import prediction_file
from compressor.compare.statistics import (
    Interval,
    detectable_difference,
    mcnemar_p_value,
    mean_interval,
    zero_event_bound,
)
from compressor.errors import Incompatible, StoreError
from compressor.tasks import TASK_TYPES
from compressor.tasks.metrics import Accuracy, Metric

_POWER = 2.8  # standard errors that a two-sided 5 % test finds with 80 % power
_SEED = 0  # of the bootstrap: the same question has the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What one run predicted on one split, in the order of the example ids.

    Predictions and labels are Arrow columns of JSON texts, which take a tenth of the memory of lists. `examples` is equal for
    equal ids with equal labels.
    """

    ids: NDArray[np.int64]
    predictions: Any
    labels: Any
    right: NDArray[np.bool_]
    examples: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """First candidate minus second, on the same examples.

    Attributes:
        metric: Name of the metric, `metric@split` off the test split.
        difference: In the metric's own unit; with several shared seeds the mean over them.
        ci95: Over the examples, or over the seeds where that is wider.
        p_value: Of no difference. One seed: exact McNemar for accuracy, the paired permutation test for other metrics; several
            shared seeds: the larger of the test over examples and the t-test over seeds, so that a claim holds for both.
        detectable: The smallest difference that this test finds with 80 % power.
        n: Examples.
        seeds: Seeds that both have, or (first's, second's) where they share none.
        only_first: Examples that only the first gets right (first shared seed); None where being right has no meaning.
        only_second: The same for the second.
        flips: Examples on which the predictions differ.
        test: The test in words.
    """

    metric: str
    difference: float
    ci95: Interval
    p_value: float
    detectable: float
    n: int
    seeds: tuple[int, ...]
    only_first: int | None
    only_second: int | None
    flips: int
    test: str


class PredictionReader:
    """Reads prediction files once, and only when somebody asks."""

    def __init__(self) -> None:
        self._read: dict[Path, Predictions] = {}

    def of(self, arm: Arm, metric: str) -> Predictions:
        """Return the predictions behind a metric.

        Raises:
            StoreError: The file is missing or cannot be read.
        """
        split = metric.partition("@")[2] or "test"
        path = prediction_file(arm.run.folder, arm.result.name, split)
        if path not in self._read:
            self._read[path] = _read(path)
        return self._read[path]


def examples_of(arms: Sequence[Arm], metric: str, reader: PredictionReader) -> str:
    """Return what stands for the examples that all runs of a candidate were scored on.

    Raises:
        Incompatible: They were scored on different ones.
        StoreError: Predictions are missing.
    """
    found = {reader.of(arm, metric).examples for arm in arms}
    if len(found) > 1:
        raise Incompatible("its runs were scored on different examples")
    return found.pop()


def significance(
    first: Sequence[Arm], second: Sequence[Arm], metric: str, reader: PredictionReader
) -> tuple[float, float]:
    """Return difference and p-value of `paired` without the rest, which takes a hundred times longer.

    Raises:
        Incompatible: The examples or their labels are not the same.
        StoreError: Predictions are missing.
    """
    pairs = _pairs(first, second)
    if metric.partition("@")[0] == Accuracy.name and len(pairs) == 1:
        ours, theirs = _same_examples(pairs[0], metric, reader)
        gained, lost = int((ours.right & ~theirs.right).sum()), int((theirs.right & ~ours.right).sum())
        return (gained - lost) / len(ours.ids), mcnemar_p_value(gained, lost)
    found = paired(first, second, metric, reader)
    return found.difference, found.p_value


def paired(first: Sequence[Arm], second: Sequence[Arm], metric: str, reader: PredictionReader) -> PairedDifference:
    """Compare two candidates on one task.

    Args:
        first: Runs of the first on that task.
        second: Runs of the second.
        metric: Name of the metric.
        reader: Where predictions come from.

    Raises:
        Incompatible: The examples or their labels are not the same, or the metric cannot be computed from the folders.
        StoreError: Predictions are missing.
    """
    pairs = _pairs(first, second)
    joined = [_same_examples(pair, metric, reader) for pair in pairs]
    ours, theirs = joined[0]
    n = len(ours.ids)
    gained, lost = int((ours.right & ~theirs.right).sum()), int((theirs.right & ~ours.right).sum())
    accuracy = metric.partition("@")[0] == Accuracy.name
    differences = [a.result.metrics[metric].value - b.result.metrics[metric].value for a, b in pairs]
    difference = float(np.mean(differences))
    if accuracy and len(pairs) > 1:
        each = np.mean([a.right.astype(float) - b.right for a, b in joined], axis=0)
        # Where no example tells the two apart, n examples without an event still allow for this much.
        error = float(each.std(ddof=1)) / n**0.5 if each.any() and n > 1 else zero_event_bound(n) / 1.96
        found = Interval(difference - 1.96 * error, difference + 1.96 * error)
        p, detectable = _normal_p(difference, error), _POWER * error
    else:
        kind = Accuracy() if accuracy else _metric(metric.partition("@")[0], pairs[0][0])
        names = pairs[0][0].run.result.label_names
        values = [
            [json.loads(p) for p in side.to_pylist()] for side in (ours.predictions, theirs.predictions, ours.labels)
        ]
        estimate = paired_difference(kind, values[0], values[1], values[2], names, seed=_SEED)
        found, error = estimate.ci95, estimate.standard_error
        p = paired_p_value(kind, values[0], values[1], values[2], names, seed=_SEED)
        detectable = detectable_difference(n, (gained + lost) / n) if accuracy else _POWER * error
        if len(pairs) > 1:
            found = Interval(difference - 1.96 * error, difference + 1.96 * error)
    test = "exact McNemar" if accuracy else "paired permutation"
    if len(pairs) > 1:
        over = mean_interval(differences)
        found = max(found, over, key=lambda i: i.high - i.low)
        p, test = max(p, _student_p(differences)), "t over examples and t over seeds, the larger p"
    return PairedDifference(
        metric=metric,
        difference=difference,
        ci95=found,
        p_value=p,
        detectable=detectable,
        n=n,
        seeds=tuple(dict.fromkeys(arm.seed for pair in pairs for arm in pair)),
        only_first=gained if accuracy else None,
        only_second=lost if accuracy else None,
        flips=_different(ours, theirs),
        test=test,
    )


def count_flips(first: Arm, second: Arm, metric: str, reader: PredictionReader) -> tuple[int, int]:
    """Return how many predictions of two runs differ on the metric's split, and of how many examples.

    Raises:
        Incompatible: The examples or their labels are not the same.
        StoreError: Predictions are missing.
    """
    ours, theirs = _same_examples((first, second), metric, reader)
    return _different(ours, theirs), len(ours.ids)


def _different(ours: Predictions, theirs: Predictions) -> int:
    import pyarrow.compute as pc

    return int(pc.not_equal(ours.predictions, theirs.predictions).to_numpy().sum())


def _pairs(first: Sequence[Arm], second: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Return the runs of each shared seed side by side; without one, the first run of each."""
    ours, theirs = ({arm.seed: arm for arm in reversed(arms)} for arms in (first, second))
    shared = sorted(set(ours) & set(theirs))
    return [(ours[seed], theirs[seed]) for seed in shared] or [(first[0], second[0])]


def _same_examples(pair: tuple[Arm, Arm], metric: str, reader: PredictionReader) -> tuple[Predictions, Predictions]:
    ours, theirs = (reader.of(arm, metric) for arm in pair)
    if ours.examples != theirs.examples:
        raise Incompatible(
            f"{pair[0].run.name} and {pair[1].run.name} were scored on other examples: ids or labels of the split behind "
            f"'{metric}' differ",
            allowed="runs of one test set",
        )
    return ours, theirs


def _read(path: Path) -> Predictions:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        table = pq.ParquetFile(path).read(columns=["id", "prediction", "label"], use_threads=False)
        ids = table["id"].to_numpy()
        if not (np.diff(ids) > 0).all():
            table = table.sort_by("id")
            ids = table["id"].to_numpy()
        predictions, labels = table["prediction"], table["label"]
        for column in (predictions, labels):
            for text in pc.unique(column).to_pylist():
                json.loads(text)
        right = pc.equal(predictions, labels).to_numpy().astype(bool)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not len(ids) or (np.diff(ids) == 0).any():
        raise StoreError(f"{path} holds no examples, or one id twice")
    digest = hashlib.sha256(np.ascontiguousarray(ids, np.int64).tobytes())
    digest.update("\n".join(map(str, labels.to_pylist())).encode())
    return Predictions(ids=ids, predictions=predictions, labels=labels, right=right, examples=digest.hexdigest())


def _metric(name: str, arm: Arm) -> Metric:
    """Return a metric of the run's own task type."""
    kind = TASK_TYPES.get(arm.run.result.task_type)
    known = {} if kind is None else {metric.name: metric for metric in kind.metrics}
    if name not in known:
        raise Incompatible(
            f"the metric '{name}' cannot be compared example by example",
            allowed=", ".join(sorted(known)) or "metrics of a known task type",
        )
    return known[name]


def _normal_p(difference: float, error: float) -> float:
    from scipy.stats import norm

    if error <= 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error))


def _student_p(differences: Sequence[float]) -> float:
    from scipy.stats import t

    k, spread = len(differences), float(np.std(differences, ddof=1))
    mean = float(np.mean(differences))
    if spread == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / (spread / k**0.5), k - 1))
