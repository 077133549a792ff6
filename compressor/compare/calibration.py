"""Whether a classifier's probabilities can be believed: expected calibration error and negative log-likelihood.

Shapes: N examples, C classes, M bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    5.2), cut at 0 and 1 and widened to hold the value itself.

    Args:
        logits_NC: Logits.
        references: The right class of each example.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Shapes do not match, a logit is not finite, or a reference is no class.
    """
    gaps_NM, losses_N = _contributions(logits_NC, references)
    n = len(losses_N)
    value = float(np.abs(gaps_NM.mean(axis=0)).sum())
    joined = np.column_stack([gaps_NM, losses_N])
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_CELLS // n)
    sizes = [min(step, _RESAMPLES - start) for start in range(0, _RESAMPLES, step)]
    share = np.full(n, 1 / n)
    means = np.concatenate([rng.multinomial(n, share, size=size).astype(np.float64) @ joined / n for size in sizes])
    errors, losses = np.abs(means[:, :-1]).sum(axis=1), means[:, -1]
    low, high = np.quantile(errors, [0.025, 0.975])
    basic = Interval(float(np.clip(2 * value - high, 0, value)), float(np.clip(2 * value - low, value, 1)))
    loss = float(losses_N.mean())
    low, high = np.quantile(losses, [0.025, 0.975])
    return Calibration(
        expected_calibration_error=Estimate(value=value, ci95=basic, standard_error=float(errors.std(ddof=1)), n=n),
        negative_log_likelihood=Estimate(
            value=loss, ci95=Interval(float(low), float(high)), standard_error=float(losses.std(ddof=1)), n=n
        ),
    )


def _contributions(
    logits_NC: NDArray[np.float64], references: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [N, M] right minus confidence in the bin that an example falls into, and [N] losses."""
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
    confidence_N = np.exp(log_probabilities_NC.max(axis=1))
    bins_N = np.searchsorted(np.arange(1, BINS) / BINS, confidence_N, side="left")
    gaps_NM = np.zeros((n, BINS))
    gaps_NM[np.arange(n), bins_N] = (logits_NC.argmax(axis=1) == right_N) - confidence_N
    return gaps_NM, -log_probabilities_NC[np.arange(n), right_N]
