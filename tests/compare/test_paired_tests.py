"""Permutation p-values against the enumeration of all swaps with other people's metrics, and their false positives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm, pearsonr, rankdata, spearmanr
from seqeval.metrics import f1_score

from compressor.compare.bootstrap import paired_difference
from compressor.compare.paired_tests import SWAPS, discordant, paired_p_value, permutation_p_value
from compressor.tasks.metrics import Accuracy, EntityF1, MaskedAccuracy, Metric, Pearson, Spearman

LABELS = ("no", "yes")
TAGS = ("O", "B-X", "I-X")


class Confusion(Metric):
    """Counts of the four outcomes; a third party's metric."""

    def rows(self, predictions, references, label_names):
        p, r = np.asarray(predictions), np.asarray(references)
        return np.stack([(p == a) & (r == b) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))], axis=1).astype(float)


class F1(Confusion):
    name = "f1"

    def of_sums(self, sums):
        tp, fp, fn, _ = np.moveaxis(sums, -1, 0)
        return np.divide(2 * tp, 2 * tp + fp + fn, out=np.zeros_like(tp), where=2 * tp + fp + fn > 0)


class Matthews(Confusion):
    name = "matthews"

    def of_sums(self, sums):
        tp, fp, fn, tn = np.moveaxis(sums, -1, 0)
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return np.divide(tp * tn - fp * fn, spread, out=np.zeros_like(tp), where=spread > 0)


def plain_f1(predictions: Sequence[int], references: Sequence[int]) -> float:
    both = sum(p and r for p, r in zip(predictions, references, strict=True))
    return 2 * both / (sum(predictions) + sum(references)) if sum(predictions) + sum(references) else 0.0


def plain_matthews(predictions: Sequence[int], references: Sequence[int]) -> float:
    if len(set(predictions)) < 2 or len(set(references)) < 2:
        return 0.0
    return float(np.corrcoef(predictions, references)[0, 1])  # Matthews' coefficient is Pearson's of two classes


def enumerated(value: Callable[[Any, Any], float], ours: list[Any], theirs: list[Any], references: Any) -> float:
    """Swap every subset of the examples, also those that are equal."""
    seen = abs(value(ours, references) - value(theirs, references))
    hits = total = 0
    for swaps in itertools.product((False, True), repeat=len(ours)):
        first = [b if s else a for s, a, b in zip(swaps, ours, theirs, strict=True)]
        second = [a if s else b for s, a, b in zip(swaps, ours, theirs, strict=True)]
        hits += abs(value(first, references) - value(second, references)) >= seen - 1e-10
        total += 1
    return hits / total


@pytest.mark.parametrize(("metric", "plain"), [(F1(), plain_f1), (Matthews(), plain_matthews)])
def test_few_differences_are_enumerated_for_classes(metric: Metric, plain: Callable[[Any, Any], float]) -> None:
    rng = np.random.default_rng(3)
    for seed in range(4):
        references = [int(x) for x in rng.integers(0, 2, 9)]
        ours, theirs = ([int(x) for x in rng.integers(0, 2, 9)] for _ in range(2))
        found = permutation_p_value(metric, ours, theirs, references, LABELS, seed=seed)
        assert found == pytest.approx(enumerated(plain, ours, theirs, references), abs=1e-9)


@pytest.mark.parametrize(
    ("metric", "rescale", "plain"),
    [
        (Pearson(), lambda x: (x - x.mean()) / x.std(), lambda x, y: pearsonr(x, y).statistic),
        (Spearman(), rankdata, lambda x, y: spearmanr(x, y).statistic),
    ],
)
def test_few_differences_are_enumerated_for_scores(metric: Metric, rescale: Any, plain: Any) -> None:
    rng = np.random.default_rng(4)
    references = rng.normal(size=8)
    ours, theirs = references + 0.4 * rng.normal(size=8), 3 * references + 4 * rng.normal(size=8) + 7
    expected = enumerated(plain, list(rescale(ours)), list(rescale(theirs)), references)
    found = permutation_p_value(metric, ours, theirs, references, (), seed=0)
    assert 0.001 < found < 1
    assert found == pytest.approx(expected, abs=1e-9)


def test_few_differences_are_enumerated_for_entities() -> None:
    rng = np.random.default_rng(5)
    sentences = [[int(t) for t in rng.integers(0, 3, 5)] for _ in range(8)]
    ours, theirs = ([[int(t) if rng.random() < q else 0 for t in s] for s in sentences] for q in (0.9, 0.5))

    def plain(predictions: Any, references: Any) -> float:
        words = [[[TAGS[t] for t in s] for s in side] for side in (references, predictions)]
        return float(f1_score(*words, zero_division=0))

    found = permutation_p_value(EntityF1(), ours, theirs, sentences, TAGS, seed=0)
    assert found == pytest.approx(enumerated(plain, ours, theirs, sentences), abs=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (2, 8), (4, 4), (3, 10), (9, 30), (60, 95)])
def test_for_accuracy_it_is_mcnemar(gained: int, lost: int) -> None:
    """Swaps of discordant pairs are coin flips, so both ask the same question; drawn swaps come near."""
    n = 400
    references, ours, theirs = np.ones(n, int), np.ones(n, int), np.ones(n, int)
    ours[:lost], theirs[lost : lost + gained] = 0, 0
    assert discordant(ours, theirs, references) == (gained, lost)
    exact = binomtest(gained, gained + lost, 0.5).pvalue
    assert paired_p_value(Accuracy(), ours, theirs, references, LABELS, seed=0) == pytest.approx(exact, abs=1e-9)
    found = permutation_p_value(Accuracy(), ours, theirs, references, LABELS, seed=0)
    error = 0.0 if 2 ** (gained + lost) <= SWAPS else 4 * (exact * (1 - exact) / SWAPS) ** 0.5 + 1 / SWAPS
    assert found == pytest.approx(exact, abs=error + 1e-9)


def test_other_metrics_do_not_take_mcnemars_road() -> None:
    ours, theirs = [[3, 4], [4, 4]], [[1, 4], [4, 4]]
    assert paired_p_value(MaskedAccuracy(), ours, theirs, [0, 0], (), seed=0) == 1.0  # either way the gap is as large


def test_correlations_do_not_care_for_the_scale_of_the_predictions() -> None:
    rng = np.random.default_rng(6)
    references = rng.normal(size=60)
    ours, theirs = references + rng.normal(size=60), references + 1.4 * rng.normal(size=60)
    for metric in (Pearson(), Spearman()):
        plain = permutation_p_value(metric, ours, theirs, references, (), seed=0)
        moved = permutation_p_value(metric, 0.1 * ours - 5, theirs, references, (), seed=0)
        assert plain == pytest.approx(moved, abs=1e-9)
        assert 0.001 < plain < 1


def test_a_clear_difference_is_found_and_never_gets_a_zero() -> None:
    rng = np.random.default_rng(7)
    references = rng.normal(size=300)
    found = permutation_p_value(Pearson(), references, rng.normal(size=300), references, (), seed=0)
    assert found == 1 / (1 + SWAPS)


def test_equal_answers_have_no_difference() -> None:
    assert permutation_p_value(F1(), [0, 1, 1], [0, 1, 1], [1, 1, 0], LABELS, seed=0) == 1.0


def test_same_seed_same_value() -> None:
    rng = np.random.default_rng(8)
    references, ours, theirs = rng.integers(0, 2, (3, 200))
    first, second, other = (
        permutation_p_value(F1(), ours, theirs, references, LABELS, seed=seed) for seed in (1, 1, 2)
    )
    assert first == second != other


@pytest.mark.parametrize("metric", [Pearson(), MaskedAccuracy()])
def test_what_is_not_finite_is_refused(metric: Metric) -> None:
    bad = [[float("nan"), 1.0]] * 4 if isinstance(metric, MaskedAccuracy) else [float("nan"), 1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="not finite"):
        permutation_p_value(metric, bad, bad[::-1], [0.0, 1.0, 2.0, 3.0], (), seed=0)


def test_false_positives_of_a_rare_class() -> None:
    """Two models as good as each other on F1: at level 0.05 about one in twenty is called different."""
    rng, runs, hits = np.random.default_rng(9), 400, 0
    for seed in range(runs):
        references = (rng.random(300) < 0.15).astype(int)
        ours, theirs = (np.where(rng.random(300) < 0.1, 1 - references, references) for _ in range(2))
        hits += permutation_p_value(F1(), ours, theirs, references, LABELS, seed=seed) <= 0.05
    assert 0.02 <= hits / runs <= 0.085  # three standard errors


def test_false_positives_of_correlations_on_other_scales() -> None:
    rng, runs, hits = np.random.default_rng(10), 150, 0
    for seed in range(runs):
        references = rng.normal(size=40)
        ours, theirs = (references + 0.7 * rng.normal(size=40) for _ in range(2))
        hits += permutation_p_value(Pearson(), 0.3 * ours + 2, theirs, references, (), seed=seed) <= 0.05
    assert hits / runs <= 0.105  # three standard errors above 0.05


def test_thousands_of_differing_examples_are_no_problem() -> None:
    rng = np.random.default_rng(12)
    references = rng.normal(size=3000)
    ours, theirs = references + rng.normal(size=3000), references + 1.02 * rng.normal(size=3000)
    # The bootstrap's standard error and the normal distribution give about the same p-value.
    found = permutation_p_value(Pearson(), ours, theirs, references, (), seed=0)
    difference = Pearson()(ours, references, ()) - Pearson()(theirs, references, ())
    boot = paired_difference(Pearson(), ours, theirs, references, (), seed=0)
    assert found == pytest.approx(2 * norm.sf(abs(difference) / boot.standard_error), abs=0.03)
