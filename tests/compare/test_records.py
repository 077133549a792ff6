"""What is kept in `result.json` for each type of task, and what is left out where it means nothing."""

from __future__ import annotations

import numpy as np
import pytest
from prediction_tables import answers, classes

from compressor.compare.records import (
    accuracy_comparison,
    agreements,
    calibrations,
    latency_comparison,
    metric_values,
)
from compressor.compare.verdicts import compare_accuracy, compare_latency
from compressor.config import TaskConfig
from compressor.tasks import build_task
from compressor.tasks.base import Task
from compressor.tasks.metrics import Accuracy


def task_of(kind: str, *labels: str) -> Task:
    return build_task(TaskConfig(type=kind), labels)


def test_a_classifier_has_everything_on_every_split() -> None:
    task = task_of("classification", "bad", "good")
    ours = {"test": classes([1, 0, 1, 1], [1, 1, 0, 1]), "vader": classes([1] * 9, [1] * 9)}
    theirs = {"test": classes([1, 1, 1, 0], [1, 1, 0, 1]), "vader": classes([1] * 9, [1] * 9)}
    values = metric_values(ours, task, seed=0)
    assert list(values) == ["accuracy", "accuracy@vader"]
    assert values["accuracy"].value == 0.5 and values["accuracy"].n == 4
    assert values["accuracy@vader"].ci95[0] < 1 == values["accuracy@vader"].ci95[1]
    found = agreements(ours, theirs, task)
    assert (found["test"].rate, found["test"].gained, found["test"].lost, found["test"].changed) == (0.5, 1, 1, 0)
    assert found["test"].ci95[0] < 0.5 < found["test"].ci95[1]
    assert found["vader"].rate == 1.0
    calibrated = calibrations(ours, task, seed=0)
    assert list(calibrated) == ["test", "vader"]
    sure = 1 / (1 + np.exp(-2))  # what each answer of the table states
    assert calibrated["vader"].expected_calibration_error == pytest.approx(1 - sure)
    assert calibrated["test"].negative_log_likelihood == pytest.approx(-(np.log(sure) + np.log(1 - sure)) / 2)


def test_logits_that_were_not_kept_have_no_calibration() -> None:
    task = task_of("classification", "bad", "good", "other")
    table = {"test": classes([1, 0], [1, 0])}  # two logits, three classes
    assert calibrations(table, task, seed=0) == {}
    assert agreements(table, table, task)["test"].rate == 1.0


@pytest.mark.parametrize(
    ("kind", "labels", "table", "agree"),
    [
        ("regression", (), answers([0.5, 1.5, 2.5], [1.0, 2.0, 3.0]), False),
        ("masked_lm", (), answers([[1, 2], [0, 3]], [5, 6]), False),
        ("token_classification", ("O", "B-X"), answers([[0, 1], [1, 1]], [[0, 1], [0, 1]]), True),
    ],
)
def test_what_means_nothing_is_left_out(kind: str, labels: tuple[str, ...], table: object, agree: bool) -> None:
    task = task_of(kind, *labels)
    assert calibrations({"test": table}, task, seed=0) == {}
    assert list(agreements({"test": table}, {"test": table}, task)) == (["test"] if agree else [])
    assert list(metric_values({"test": table}, task, seed=0)) == [m.name for m in task.metrics]


def test_a_verdict_on_a_metric_is_kept_whole() -> None:
    references = np.zeros(500, int)
    ours = (np.arange(500) < 30).astype(int)
    verdict = compare_accuracy(
        Accuracy(), ours, references, references, ("a", "b"), names=("s", "t"), seed=0, metric_name="accuracy@x"
    )
    kept = accuracy_comparison(verdict)
    assert (kept.candidate, kept.baseline, kept.metric, kept.runtime) == ("s", "t", "accuracy@x", None)
    assert kept.p_value == verdict.p_value == pytest.approx(2 * 0.5**30)
    assert kept.margin == pytest.approx(0.01) and kept.difference == pytest.approx(-0.06)
    assert (kept.keeps_99, kept.keeps_999) == (False, False)
    assert kept.detectable_difference == verdict.detectable


def test_a_verdict_on_a_runtime_has_no_margin() -> None:
    slow = np.full((6, 5), 2_000_000)
    kept = latency_comparison(compare_latency(slow // 2, slow, names=("s", "t"), runtime="torch", seed=0))
    assert kept.ratio == pytest.approx(2) and kept.runtime == "torch" and kept.metric is None
    assert (kept.p_value, kept.margin, kept.keeps_99, kept.keeps_999) == (None, None, None, None)
