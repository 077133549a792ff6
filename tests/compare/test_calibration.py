"""Calibration by hand, against a loop, and intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from compressor.compare.calibration import calibration


def logits_of(probabilities: list[float]) -> np.ndarray:
    """Return two-class logits whose class 1 has these probabilities."""
    p = np.asarray(probabilities)
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=1)


def test_by_hand() -> None:
    # Class 1 at 0.79, right and wrong; class 1 at 0.62, right; class 0 at 0.95, right: three bins of 1/15.
    found = calibration(logits_of([0.79, 0.79, 0.62, 0.05]), [1, 0, 1, 0], seed=0)
    expected = 2 / 4 * abs(0.5 - 0.79) + 1 / 4 * (1 - 0.62) + 1 / 4 * (1 - 0.95)
    assert found.expected_calibration_error.value == pytest.approx(expected, abs=1e-12)
    loss = -(math.log(0.79) + math.log(0.21) + math.log(0.62) + math.log(0.95)) / 4
    assert found.negative_log_likelihood.value == pytest.approx(loss, abs=1e-12)
    assert found.expected_calibration_error.n == found.negative_log_likelihood.n == 4


def test_gaps_within_a_bin_cancel_and_across_bins_do_not() -> None:
    together = calibration(logits_of([0.70, 0.70, 0.70, 0.70]), [1, 1, 0, 0], seed=0)
    assert together.expected_calibration_error.value == pytest.approx(0.2, abs=1e-12)
    apart = calibration(logits_of([0.70, 0.70, 0.55, 0.55]), [1, 1, 0, 0], seed=0)
    assert apart.expected_calibration_error.value == pytest.approx((0.3 + 0.55) / 2, abs=1e-12)


def looped(logits: np.ndarray, references: np.ndarray) -> tuple[float, float]:
    """Follow equation 3 bin by bin, example by example."""
    logs = log_softmax(logits, axis=1)
    error = 0.0
    for m in range(1, 16):
        members = [i for i in range(len(logits)) if (m - 1) / 15 < math.exp(logs[i].max()) <= m / 15]
        if members:
            right = sum(int(logits[i].argmax() == references[i]) for i in members) / len(members)
            confidence = sum(math.exp(logs[i].max()) for i in members) / len(members)
            error += len(members) / len(logits) * abs(right - confidence)
    return error, -sum(logs[i][references[i]] for i in range(len(logits))) / len(logits)


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_equal_to_a_loop(classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits, references = 2 * rng.normal(size=(400, classes)), rng.integers(0, classes, 400)
    found = calibration(logits, references, seed=0)
    error, loss = looped(logits, references)
    assert found.expected_calibration_error.value == pytest.approx(error, abs=1e-12)
    assert found.negative_log_likelihood.value == pytest.approx(loss, abs=1e-12)
    moved = calibration(logits + 1e3, references, seed=0)
    assert moved.negative_log_likelihood.value == pytest.approx(loss, abs=1e-9)


def test_certainty_is_perfect_when_right_and_finite_when_wrong() -> None:
    logits = np.array([[50.0, -50.0]] * 40)
    right, wrong = calibration(logits, [0] * 40, seed=0), calibration(logits, [1] * 40, seed=0)
    assert right.expected_calibration_error.value == pytest.approx(0, abs=1e-12)
    assert wrong.expected_calibration_error.value == pytest.approx(1, abs=1e-12)
    assert wrong.expected_calibration_error.ci95.high <= 1
    assert wrong.negative_log_likelihood.value == pytest.approx(100)


def test_one_class_has_nothing_to_be_unsure_of() -> None:
    found = calibration(np.zeros((30, 1)), [0] * 30, seed=0)
    assert found.expected_calibration_error.value == found.negative_log_likelihood.value == 0


def test_the_intervals_hold_the_values_and_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    logits, references = rng.normal(size=(100, 2)), rng.integers(0, 2, 100)
    first, again, other = (calibration(logits, references, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.negative_log_likelihood.ci95 != other.negative_log_likelihood.ci95
    for found in (first.expected_calibration_error, first.negative_log_likelihood):
        assert found.ci95.low <= found.value <= found.ci95.high
    spread = log_softmax(logits, axis=1)[np.arange(100), references].std() / 10
    assert first.negative_log_likelihood.standard_error == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    ("logits", "references", "why"),
    [
        ([[0.0, float("nan")]], [0], "not finite"),
        ([[0.0, float("inf")]], [0], "not finite"),
        ([[0.0, 1.0]], [2], "no classes"),
        ([[0.0, 1.0]], [-1], "no classes"),
        ([[0.0, 1.0]], [0.5], "no classes"),
        ([[0.0, 1.0]], [0, 1], "shape"),
        ([0.0, 1.0], [0, 1], "shape"),
        (np.zeros((0, 2)), [], "shape"),
    ],
)
def test_what_is_no_classification_is_refused(logits: object, references: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        calibration(np.asarray(logits, np.float64), references, seed=0)


@pytest.mark.parametrize(("sharper", "least"), [(1.0, 0.9), (1.5, 0.82)])
def test_coverage(sharper: float, least: float) -> None:
    """A model that states its logits `sharper` times too large, or is perfectly calibrated; the truth from a million texts."""
    rng, hits, losses, runs = np.random.default_rng(11), 0, 0, 40

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        z = rng.normal(0, 1.6, n)
        return z * sharper, 1 / (1 + np.exp(-z))

    stated, p = draw(1_000_000)
    confidence = 1 / (1 + np.exp(-abs(stated)))
    bins = np.searchsorted(np.arange(1, 15) / 15, confidence)
    truth = abs(np.bincount(bins, np.maximum(p, 1 - p) - confidence, 15)).sum() / len(p)
    loss = float(np.mean(np.log1p(np.exp(stated)) - p * stated))
    for seed in range(runs):
        stated, p = draw(300)
        references = (rng.random(300) < p).astype(int)
        found = calibration(np.stack([np.zeros(300), stated], axis=1), references, seed=seed)
        interval = found.expected_calibration_error.ci95
        hits += interval.low <= truth <= interval.high
        losses += found.negative_log_likelihood.ci95.low <= loss <= found.negative_log_likelihood.ci95.high
    assert hits / runs >= least
    assert losses / runs >= 0.82
