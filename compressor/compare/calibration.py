"""Whether a classifier's probabilities can be believed: expected calibration error and negative log-likelihood.

Shapes: N examples, C classes, M bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from compressor.compare.bootstrap import Estimate
from compressor.compare.statistics import Interval

BINS = 15
_RESAMPLES = 2_000
_CHUNK_CELLS = 4_000_000  # bounds the memory of one draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Calibration of one model on one split; 0 is perfect for both, and the log-likelihood is in nats an example."""

    expected_calibration_error: Estimate
    negative_log_likelihood: Estimate


def calibration(logits_NC: NDArray[np.float64], references: Sequence[int], *, seed: int) -> Calibration:
    """Return both quantities with their 95 % bootstrap intervals.

    The expected calibration error is Guo et al. 2017 (arXiv:1706.04599), equation 3: the gap between accuracy and mean
    confidence of each of 15 equal bins ((m - 1)/M, m/M], weighted by the share of the examples in it. Chance alone makes it
    positive, and a resample adds as much again, so the percentile interval would lie too high. Its interval is the basic
    bootstrap's, which takes that bias off once (Davison & Hinkley 1997, Bootstrap Methods and their Application, section
    5.2), and begins at 0 where a perfectly calibrated model would show as much: answers that are right with the probability
    that the model states exceed the value in more than 2.5 % of draws (Broecker & Smith 2007, Weather and Forecasting 22:651,
    consistency resampling). In simulations of 300 examples it covers in 90 to 97 %.

    Args:
        logits_NC: Logits.
        references: The right class of each example.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Shapes do not match, a logit is not finite, or a reference is no class.
    """
    right_N, confidence_N, losses_N = _outcomes(logits_NC, references)
    n = len(losses_N)
    bins_NM = np.zeros((n, BINS))
    bins_NM[np.arange(n), np.searchsorted(np.arange(1, BINS) / BINS, confidence_N, side="left")] = 1.0
    gaps_N = right_N - confidence_N
    value = float(np.abs(gaps_N @ bins_NM).sum() / n)
    joined = np.column_stack([gaps_N[:, None] * bins_NM, losses_N])
    rng = np.random.default_rng(seed)
    drawn, perfect = [], []
    step = max(1, _CHUNK_CELLS // n)
    for start in range(0, _RESAMPLES, step):
        size = min(step, _RESAMPLES - start)
        drawn.append(rng.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64) @ joined / n)
        perfect.append(np.abs(((rng.random((size, n)) < confidence_N) - confidence_N) @ bins_NM).sum(axis=1) / n)
    means = np.concatenate(drawn)
    errors, losses = np.abs(means[:, :-1]).sum(axis=1), means[:, -1]
    error = Estimate.of_draws(value, errors, n)
    low, high = 2 * value - error.ci95.high, 2 * value - error.ci95.low
    if np.mean(np.concatenate(perfect) >= value) > 0.025:
        low = 0.0
    return Calibration(
        expected_calibration_error=replace(error, ci95=Interval(min(value, max(0.0, low)), max(value, min(1.0, high)))),
        negative_log_likelihood=Estimate.of_draws(float(losses_N.mean()), losses, n),
    )


def _outcomes(
    logits_NC: NDArray[np.float64], references: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Return [N] whether the likeliest class is right, [N] its probability, and [N] minus the log of the right one's."""
    right_N = np.asarray(references)
    n, classes = logits_NC.shape if logits_NC.ndim == 2 else (0, 0)
    if n < 1 or right_N.shape != (n,):
        raise ValueError(f"logits of shape {logits_NC.shape} and {right_N.shape} references")
    if not np.isfinite(logits_NC).all():
        raise ValueError("logits that are not finite")
    if right_N.dtype.kind not in "iu" or right_N.min() < 0 or right_N.max() >= classes:
        raise ValueError(f"references that are no classes, allowed: 0 to {classes - 1}")
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    log_probabilities_NC = shifted_NC - np.log(np.exp(shifted_NC).sum(axis=1, keepdims=True))
    chosen_N, losses_N = logits_NC.argmax(axis=1), -log_probabilities_NC[np.arange(n), right_N]
    return chosen_N == right_N, np.exp(log_probabilities_NC.max(axis=1)), losses_N
