from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score

from compressor.tasks.metrics import Accuracy, EntityF1, Pearson, Spearman

RNG = np.random.default_rng(0)


def test_accuracy_is_the_share_of_right_ones() -> None:
    assert Accuracy()([0, 1, 1, 0], [0, 1, 0, 0], ("a", "b")) == 0.75


def test_correlations_equal_scipy() -> None:
    x = RNG.normal(size=200)
    y = x + RNG.normal(size=200)
    assert Pearson()(x, y, ()) == pytest.approx(pearsonr(x, y).statistic, abs=1e-12)
    assert Spearman()(x, y, ()) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_a_constant_prediction_correlates_with_nothing() -> None:
    assert Pearson()([2.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], ()) == 0.0
    assert Spearman()([2.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], ()) == 0.0


def test_pearson_of_resampled_sums_equals_recomputing_it() -> None:
    x, y = RNG.normal(size=100), RNG.normal(size=100)
    rows = Pearson().rows(x, y, ())
    picked = RNG.integers(0, 100, size=100)
    again = pearsonr(x[picked], y[picked]).statistic
    assert Pearson().of_rows(rows[picked]) == pytest.approx(again, abs=1e-9)


def test_entity_f1_equals_seqeval() -> None:
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    true = [[int(t) for t in RNG.integers(0, 5, size=12)] for _ in range(50)]
    guess = [[t if RNG.random() < 0.7 else int(RNG.integers(0, 5)) for t in row] for row in true]
    expected = f1_score([[names[t] for t in r] for r in true], [[names[t] for t in r] for r in guess])
    assert EntityF1()(guess, true, names) == pytest.approx(expected, abs=1e-12)
    assert EntityF1()(true, true, names) == 1.0
