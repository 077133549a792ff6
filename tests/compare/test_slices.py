"""Slices: who is in which, their numbers, and none where there are too few."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from prediction_tables import answers, classes
from scipy.stats import binomtest

from compressor.compare.slices import SMALLEST, parts, slice_metric
from compressor.errors import StoreError
from compressor.tasks.metrics import Accuracy, Pearson

LABELS = ("bad", "good")


def test_classes_and_quarters_of_the_lengths() -> None:
    table = classes([0] * 8, [0, 1, 1, 1, 0, 0, 0, 0], tokens=[1, 2, 3, 4, 5, 6, 7, 8])
    found = {part.name: part.places.tolist() for part in parts(table, LABELS)}
    assert found == {
        "bad": [0, 4, 5, 6, 7],
        "good": [1, 2, 3],
        "1 to 2 tokens": [0, 1],
        "3 to 4 tokens": [2, 3],
        "5 to 6 tokens": [4, 5],
        "7 to 8 tokens": [6, 7],
    }


def test_every_text_stands_in_one_length_bucket() -> None:
    rng = np.random.default_rng(0)
    table = classes([0] * 500, [0] * 500, tokens=rng.integers(3, 40, 500))
    buckets = [p for p in parts(table, ()) if "token" in p.name]
    assert sorted(np.concatenate([b.places for b in buckets]).tolist()) == list(range(500))
    assert len(buckets) == 4
    assert all(80 < len(b.places) < 170 for b in buckets)


def test_equal_lengths_are_one_bucket_and_a_class_without_examples_is_empty() -> None:
    table = classes([0] * 40, [0] * 40, tokens=[7] * 40)
    assert [(p.name, len(p.places)) for p in parts(table, LABELS)] == [("bad", 40), ("good", 0), ("7 tokens", 40)]


def test_scores_and_tags_have_no_classes() -> None:
    for table in (answers([0.5, 1.0], [0.5, 1.0]), answers([[0], [1]], [[0], [1]])):
        assert all("token" in p.name for p in parts(table, LABELS))


def test_numbers_of_a_slice() -> None:
    n = 100
    references = [0] * 60 + [1] * 40
    theirs = classes(references, references)
    ours = classes([1] * 6 + [0] * 54 + [1] * 40, references)
    bad, good, *_ = slice_metric(Accuracy(), ours, theirs, LABELS, parts(theirs, LABELS), seed=0)
    assert (bad.name, bad.n, good.n) == ("bad", 60, 40)
    assert bad.value is not None and bad.difference is not None
    assert bad.value.value == pytest.approx(0.9)
    wilson = binomtest(54, 60).proportion_ci(confidence_level=0.95, method="wilson")
    assert (bad.value.ci95.low, bad.value.ci95.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert bad.difference.value == pytest.approx(-0.1)
    assert bad.difference.standard_error == pytest.approx((0.1 * 0.9 / 60) ** 0.5, rel=0.05)
    assert good.value is not None and good.value.value == 1.0
    whole = slice_metric(Accuracy(), ours, theirs, LABELS, parts(theirs, LABELS), seed=0)[-1]
    assert whole.n == n


@pytest.mark.parametrize(("n", "told"), [(SMALLEST - 1, False), (SMALLEST, True)])
def test_too_few_examples_have_no_number(n: int, told: bool) -> None:
    table = classes([0] * n + [1] * 100, [0] * n + [1] * 100)
    found = slice_metric(Accuracy(), table, table, LABELS, parts(table, LABELS), seed=0)[0]
    assert found.n == n
    assert (found.value is not None) == (found.difference is not None) == told


def test_scores_are_sliced_by_length() -> None:
    rng = np.random.default_rng(1)
    references = rng.normal(size=200)
    ours, theirs = (answers([float(x) for x in references + s * rng.normal(size=200)], references) for s in (1.0, 0.3))
    found = slice_metric(Pearson(), ours, theirs, (), parts(theirs, ()), seed=0)
    assert len(found) == 4
    for one in found:
        assert one.n == 50
        assert one.difference is not None and one.difference.ci95.high < 0


def test_other_examples_are_refused() -> None:
    table = classes([0] * 40, [0] * 40)
    with pytest.raises(StoreError, match="different examples"):
        slice_metric(Accuracy(), replace(table, ids=tuple(range(1, 41))), table, LABELS, [], seed=0)
