"""From what was judged to what `result.json` keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressor.compare.bootstrap import Estimate, metric_estimate
from compressor.compare.calibration import calibration
from compressor.compare.flips import find_flips
from compressor.compare.predictions import Tables
from compressor.compare.verdicts import AccuracyVerdict, LatencyVerdict
from compressor.results import Agreement, Calibration, Comparison, MetricValue

if TYPE_CHECKING:
    from compressor.tasks.base import Task
    from compressor.tasks.metrics import Metric


def metric_name(metric: Metric, split: str) -> str:
    """Return `accuracy` for the test split and `accuracy@vader` for another."""
    return metric.name if split == "test" else f"{metric.name}@{split}"


def metric_values(tables: Tables, task: Task, *, seed: int) -> dict[str, MetricValue]:
    """Return every metric on every split with its 95 % interval."""
    found = {}
    for split, table in tables.items():
        for metric in task.metrics:
            one = metric_estimate(metric, table.predictions, table.references, task.label_names, seed=seed)
            found[metric_name(metric, split)] = MetricValue(
                value=one.value, ci95=_pair(one), n=one.n, higher_is_better=metric.higher_is_better
            )
    return found


def calibrations(tables: Tables, task: Task, *, seed: int) -> dict[str, Calibration]:
    """Return a classifier's calibration on every split; nothing for scores, tags and logits that were not kept."""
    found = {}
    for split, table in tables.items():
        logits = table.class_logits(len(task.label_names)) if task.label_names and not task.token_level else None
        if logits is not None:
            both = calibration(logits, table.references, seed=seed)
            error, loss = both.expected_calibration_error, both.negative_log_likelihood
            found[split] = Calibration(
                expected_calibration_error=error.value,
                expected_calibration_error_ci95=_pair(error),
                negative_log_likelihood=loss.value,
                negative_log_likelihood_ci95=_pair(loss),
                n=error.n,
            )
    return found


def agreements(candidate: Tables, baseline: Tables, task: Task) -> dict[str, Agreement]:
    """Return how often a candidate answers as the baseline does; nothing for scores, which agree to no last digit.

    Raises:
        StoreError: The tables are of different examples.
    """
    found = {}
    for split, table in candidate.items() if task.label_names else ():
        flips = find_flips(table, baseline[split], classes=len(task.label_names))
        interval = flips.agreement.ci95
        found[split] = Agreement(
            rate=flips.agreement.value,
            ci95=(interval.low, interval.high),
            n=flips.agreement.n,
            gained=len(flips.gained),
            lost=len(flips.lost),
            changed=len(flips.changed),
        )
    return found


def accuracy_comparison(found: AccuracyVerdict) -> Comparison:
    """Return a verdict on a metric as it is kept."""
    return Comparison(
        candidate=found.candidate,
        baseline=found.baseline,
        verdict=found.word.value,
        sentence=found.sentence(),
        ci95=(found.ci95.low, found.ci95.high),
        detectable_difference=found.detectable,
        metric=found.metric,
        difference=found.difference,
        p_value=found.p_value,
        margin=found.margin,
        keeps_99=found.keeps_99,
        keeps_999=found.keeps_999,
    )


def latency_comparison(found: LatencyVerdict) -> Comparison:
    """Return a verdict on a runtime as it is kept."""
    return Comparison(
        candidate=found.candidate,
        baseline=found.baseline,
        verdict=found.word.value,
        sentence=found.sentence(),
        ci95=(found.speed_up.ci95.low, found.speed_up.ci95.high),
        detectable_difference=found.speed_up.detectable_ratio - 1,
        runtime=found.runtime,
        ratio=found.speed_up.ratio,
        null_ratio=found.null_ratio,
    )


def _pair(found: Estimate) -> tuple[float, float]:
    return found.ci95.low, found.ci95.high
