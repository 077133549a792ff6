"""Flips on hand-made tables: counted, told apart, the worst first."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prediction_tables import answers, classes
from scipy.stats import binomtest

from compressor.compare.flips import Kind, find_flips, score_changes
from compressor.errors import StoreError


def sure(p: float) -> tuple[float, float]:
    """Return logits whose class 1 has probability p."""
    return 0.0, math.log(p / (1 - p))


def test_each_flip_is_told_what_became_of_it_and_the_worst_comes_first() -> None:
    references = [1, 1, 1, 0, 0, 1]
    theirs = classes([1, 1, 0, 0, 1, 1], references, logits=[sure(p) for p in (0.8, 0.7, 0.1, 0.3, 0.8, 0.6)])
    ours = classes([0, 0, 1, 1, 0, 1], references, logits=[sure(p) for p in (0.4, 0.2, 0.9, 0.95, 0.45, 0.7)])
    found = find_flips(ours, theirs, classes=2)
    # Lost: margins 1 - 2 * 0.4, 1 - 2 * 0.2 and 2 * 0.95 - 1; gained: the teacher's own margins.
    assert [(f.id, f.kind) for f in found.lost] == [(3, Kind.lost), (1, Kind.lost), (0, Kind.lost)]
    assert [f.severity for f in found.lost] == pytest.approx([0.9, 0.6, 0.2])
    assert [(f.id, f.severity) for f in found.gained] == [(2, pytest.approx(0.8)), (4, pytest.approx(0.6))]
    assert found.changed == ()
    assert found.worst(2) == found.lost[:2]
    assert found.worst(10) == found.lost, "what was gained is no harm"
    first = found.lost[0]
    assert (first.reference, first.baseline, first.candidate) == (0, 0, 1)
    assert first.probabilities is not None
    assert first.probabilities[0] == pytest.approx((0.7, 0.3))
    assert first.probabilities[1] == pytest.approx((0.05, 0.95))
    assert found.agreement.value == pytest.approx(1 / 6)
    assert found.flipped.value == pytest.approx(5 / 6)
    expected = binomtest(1, 6).proportion_ci(confidence_level=0.95, method="wilson")
    assert (found.agreement.ci95.low, found.agreement.ci95.high) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


def test_a_wrong_answer_that_becomes_another_wrong_one_is_changed() -> None:
    three = {"logits": ((5.0, 0.0, 0.0), (0.0, 0.0, 5.0))}
    ours, theirs = replace(classes([0, 2], [1, 2]), **three), replace(classes([2, 2], [1, 2]), **three)
    found = find_flips(ours, theirs, classes=3)
    assert [f.kind for f in found.changed] == [Kind.changed]
    assert (found.lost, found.gained) == ((), ())
    assert found.worst(5) == found.changed


def test_no_flips_and_nothing_but_flips() -> None:
    table = classes([0, 1] * 20, [0] * 40)
    none = find_flips(table, table, classes=2)
    assert none.agreement.value == 1.0 and none.agreement.ci95.low < 1 and none.worst(10) == ()
    all_other = find_flips(classes([1, 0] * 20, [0] * 40), table, classes=2)
    assert all_other.agreement.value == 0.0 and all_other.agreement.ci95.high > 0
    assert (len(all_other.lost), len(all_other.gained)) == (20, 20)


def test_without_logits_flips_are_counted_and_ordered_by_id() -> None:
    bare = {"logits": ((),) * 3}
    ours, theirs = replace(classes([0, 0, 0], [1, 1, 0]), **bare), replace(classes([1, 1, 0], [1, 1, 0]), **bare)
    found = find_flips(ours, theirs, classes=2)
    assert [(f.id, f.severity, f.probabilities) for f in found.lost] == [(0, None, None), (1, None, None)]


def test_a_sentence_is_right_if_all_its_tags_are() -> None:
    references = [[0, 1, 2], [0, 0], [1, 1], [0, 1]]
    theirs = answers([[0, 1, 2], [0, 0], [1, 0], [1, 1]], references)
    ours = answers([[0, 0, 0], [0, 1], [1, 1], [0, 0]], references)
    found = find_flips(ours, theirs, classes=3)
    assert [(f.id, f.severity) for f in found.lost] == [(0, 2.0), (1, 1.0)]
    assert [f.id for f in found.gained] == [2]
    assert [(f.id, f.severity) for f in found.changed] == [(3, 2.0)]
    assert found.agreement.value == 0.0


def test_scores_are_ordered_by_how_far_they_moved() -> None:
    theirs, ours = answers([1.0, 2.0, 3.0], [1.0, 2.5, 3.0]), answers([1.5, 0.0, 3.0], [1.0, 2.5, 3.0])
    found = score_changes(ours, theirs)
    assert [(c.id, c.change) for c in found] == [(1, -2.0), (0, 0.5), (2, 0.0)]
    with pytest.raises(ValueError, match="flips of scores"):
        find_flips(ours, theirs, classes=2)


def test_other_examples_are_refused() -> None:
    table = classes([0, 1], [0, 1])
    other = replace(table, ids=(5, 6))
    with pytest.raises(StoreError, match="different examples"):
        find_flips(other, table, classes=2)
    with pytest.raises(StoreError, match="different examples"):
        score_changes(answers([1.0], [1.0]), answers([1.0], [2.0]))
