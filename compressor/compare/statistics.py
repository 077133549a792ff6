"""Closed-form statistics of one or two models. Every rate is a share of 1, every interval two-sided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, ends included."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return the score interval of a rate (Wilson 1927, JASA 22:209).

    Raises:
        ValueError: `successes` is no count out of n >= 1.
    """
    from scipy.stats import norm

    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}")
    z = float(norm.ppf(0.5 + confidence / 2))
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return Student's interval of the mean of at least two values, which are taken to be normal (Student 1908).

    Raises:
        ValueError: There are fewer than two.
    """
    from scipy.stats import t

    if len(values) < 2:
        raise ValueError(f"an interval of {len(values)} values")
    half = float(t.ppf(0.5 + confidence / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of equal error rates (McNemar 1947; binomial form).

    Args:
        only_first: Examples that only the first model gets right.
        only_second: Examples that only the second gets right.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    return 1.0 if discordant == 0 else float(binomtest(only_first, discordant, 0.5).pvalue)


def percentile_needs(level: float, confidence: float = 0.99) -> int:
    """Return the fewest samples from which `percentile_bound` gives a value: 11, 64, 130, 662 for p50, p90, p95, p99."""
    from scipy.stats import binom

    n = 1
    while binom.cdf(1, n, 1 - level) > 1 - confidence:
        n += 1
    return n


def percentile_bound(values: NDArray[np.float64], level: float, confidence: float = 0.99) -> float | None:
    """Return a value that the percentile does not exceed, with this one-sided confidence; None where n is too small.

    With t values above it out of n, P(Binomial(n, 1 - level) <= t) <= 1 - confidence: the largest such t, at least 1, decides
    which order statistic is printed (MLPerf LoadGen's early stopping at tolerance 0). It assumes independent calls.
    """
    from scipy.stats import binom

    n = len(values)
    above = int(binom.ppf(1 - confidence, n, 1 - level))
    while above >= 1 and binom.cdf(above, n, 1 - level) > 1 - confidence:
        above -= 1
    return float(np.sort(values)[n - above - 1]) if above >= 1 else None


def zero_event_bound(n: int, confidence: float = 0.95) -> float:
    """Return the largest rate that still gives no event in n trials (Clopper & Pearson 1934, two-sided)."""
    return 1.0 - float(((1 - confidence) / 2) ** (1 / n))


def detectable_difference(n: int, disagreement: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest accuracy gap that exact McNemar finds on n examples with this power.

    Args:
        n: Examples.
        disagreement: Share of examples on which the two models differ in being right. Where no gap within it can be
            found, it is raised until the gap, then all of it, can.
        power: Probability of finding the gap.
        alpha: Level of the test, two-sided.
    """
    if not 0 <= disagreement <= 1 or n < 1:
        raise ValueError(f"disagreement={disagreement}, n={n}")
    if _mcnemar_power(n, disagreement, 1.0, alpha) >= power:
        low, high = 0.5, 1.0
        while high - low > 1e-5:
            middle = (low + high) / 2
            low, high = (low, middle) if _mcnemar_power(n, disagreement, middle, alpha) >= power else (middle, high)
        return disagreement * (2 * high - 1)
    if _mcnemar_power(n, 1.0, 1.0, alpha) < power:
        return 1.0
    low, high = disagreement, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if _mcnemar_power(n, middle, 1.0, alpha) >= power else (middle, high)
    return high


def _mcnemar_power(n: int, disagreement: float, share: float, alpha: float) -> float:
    """Return the power when `share` of the disagreements favour one model."""
    from scipy.stats import binom

    spread = 6 * math.sqrt(n * disagreement * (1 - disagreement)) + 1
    low, high = max(0, int(n * disagreement - spread)), min(n, int(n * disagreement + spread) + 1)
    discordant = np.arange(low, high + 1)
    weight = binom.pmf(discordant, n, disagreement)
    critical = binom.ppf(alpha / 2, discordant, 0.5)  # rejected: fewer successes than the quantile...
    critical = np.where(binom.cdf(critical, discordant, 0.5) <= alpha / 2, critical, critical - 1)  # ...or as many
    rejected = binom.cdf(critical, discordant, 1 - share) + binom.cdf(critical, discordant, share)
    return float((weight * np.where(critical < 0, 0.0, rejected)).sum())
