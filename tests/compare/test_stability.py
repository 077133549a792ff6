"""A round that the machine disturbed is named by what it shows, and a quiet one is not."""

from __future__ import annotations

import numpy as np

from compressor.compare.stability import doubts, unknown
from compressor.compare.verdicts import LatencyVerdict, compare_latency


def samples(seed: int, speed: float = 1.0, drift: float = 0.0, blocks: int = 12, noise: float = 0.003) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.exp(np.linspace(-drift, drift, blocks))[:, None] * np.linspace(5e6, 2e7, 20)
    return (level * rng.lognormal(0, noise, (blocks, 20)) / speed).astype(np.int64)


def compared(ours: np.ndarray, theirs: np.ndarray) -> LatencyVerdict:
    return compare_latency(ours, theirs, names=("student", "teacher"), runtime="torch", seed=0)


def test_a_quiet_round_is_trusted() -> None:
    assert doubts(samples(0), samples(1), seed=0) == []
    assert unknown(compared(samples(2, 2.0), samples(0))) is None


def test_a_null_arm_that_strays_is_told() -> None:
    (told,) = doubts(samples(0), samples(1, 1.03), seed=0)
    assert "second load of the baseline came out x1.0" in told


def test_a_ratio_that_is_not_known_to_one_percent_is_told() -> None:
    told = unknown(compared(samples(2, 2.0, noise=0.3), samples(0)))
    assert told is not None and "the ratio of student is known to" in told


def test_drift_is_told_even_if_ratios_hold() -> None:
    (told,) = doubts(samples(0, drift=0.2), samples(1, drift=0.2), seed=0)
    assert "block medians wandered by 2" in told


def test_no_null_arm_is_no_complaint() -> None:
    assert doubts(samples(0), None, seed=0) == []
