"""Bootstrap intervals, seeded and with a generator of their own.

A metric that is a function of sums needs no resampled rows: how often each *distinct* row is drawn is multinomial, so
10,000 resamples of an accuracy are one draw of a few counts each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.compare.statistics import Interval, mean_interval, wilson_interval, zero_event_bound

if TYPE_CHECKING:
    from compressor.tasks.metrics import Metric, Rows

RESAMPLES = 10_000
_RANK_RESAMPLES = 2_000  # each recomputes the ranks
_FEWEST_PAIRED = 6  # loads
_CHUNK_CELLS = 4_000_000  # bounds the memory of one draw

Calls = NDArray[np.int64]  # nanoseconds of one model, as `speed_up` takes them
Loads = tuple[Calls, ...]  # of a model that was there several times at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval and standard error, in the metric's own unit."""

    value: float
    ci95: Interval
    standard_error: float
    n: int

    @classmethod
    def of_draws(cls, value: float, draws: NDArray[np.float64], n: int) -> Estimate:
        """Build it from the values of resamples: the percentile interval and their standard deviation."""
        low, high = np.quantile(draws, [0.025, 0.975])
        return cls(value=value, ci95=Interval(float(low), float(high)), standard_error=float(draws.std(ddof=1)), n=n)


def metric_estimate(
    metric: Metric, predictions: Sequence[Any], references: Sequence[Any], label_names: tuple[str, ...], *, seed: int
) -> Estimate:
    """Return a metric's value over the examples.

    The interval is Wilson's for accuracy, else the percentile bootstrap's (Efron & Tibshirani 1993, An Introduction to the
    Bootstrap, ch. 13); it always holds the value.
    """
    rows = metric.rows(predictions, references, label_names)
    draws = _resampled(metric, [rows], seed)[0]
    found = Estimate.of_draws(metric.of_rows(rows), draws, len(rows))
    interval = found.ci95
    if metric.name == "accuracy":
        interval = wilson_interval(round(found.value * found.n), found.n)
    return replace(found, ci95=Interval(min(interval.low, found.value), max(interval.high, found.value)))


def paired_difference(
    metric: Metric,
    candidate: Sequence[Any],
    baseline: Sequence[Any],
    references: Sequence[Any],
    label_names: tuple[str, ...],
    *,
    seed: int,
) -> Estimate:
    """Return candidate minus baseline on the same examples, resampled together.

    Where no example tells the two apart, the bootstrap would claim certainty; the interval is then what n examples
    without a single event allow.
    """
    ours = metric.rows(candidate, references, label_names)
    theirs = metric.rows(baseline, references, label_names)
    difference = metric.of_rows(ours) - metric.of_rows(theirs)
    if np.array_equal(ours, theirs):
        bound = zero_event_bound(len(ours))
        return Estimate(value=0.0, ci95=Interval(-bound, bound), standard_error=bound / 1.96, n=len(ours))
    first, second = _resampled(metric, [ours, theirs], seed)
    return Estimate.of_draws(difference, first - second, len(ours))


def _resampled(metric: Metric, tables: Sequence[Rows], seed: int) -> list[NDArray[np.float64]]:
    """Return the metric of each table under common resamples of the examples."""
    rng = np.random.default_rng(seed)
    n = len(tables[0])
    if not metric.additive:
        draws = np.empty((len(tables), _RANK_RESAMPLES))
        for i in range(_RANK_RESAMPLES):
            chosen = rng.integers(0, n, n)
            draws[:, i] = [metric.of_rows(table[chosen]) for table in tables]
        return list(draws)
    joined, counts = np.unique(np.concatenate(tables, axis=1), axis=0, return_counts=True)
    width = tables[0].shape[1]
    step = max(1, _CHUNK_CELLS // len(joined))
    parts: list[list[NDArray[np.float64]]] = [[] for _ in tables]
    for start in range(0, RESAMPLES, step):
        drawn = rng.multinomial(n, counts / n, size=min(step, RESAMPLES - start)).astype(np.float64)
        sums = drawn @ joined
        for t, part in enumerate(parts):
            part.append(np.asarray(metric.of_sums(sums[:, t * width : (t + 1) * width])))
    return [np.concatenate(part) for part in parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """How many times faster a candidate is than its baseline; above 1 is faster."""

    ratio: float
    ci95: Interval
    ci90: Interval
    units: int  # what the interval is over: rounds if there are several, else loads of the models or pairs of them, else blocks

    @property
    def detectable_ratio(self) -> float:
        """The smallest speed-up that samples this noisy find with 80 % power, as a ratio above 1."""
        half = (math.log(self.ci95.high) - math.log(self.ci95.low)) / 2
        return math.exp(half * 2.8 / 1.96)


def both_loads(baseline_ns: Calls, null_ns: Calls | None) -> Loads:
    """Return what a candidate's calls are compared with: both loads of the baseline, where there is a null arm.

    The mean ratio to two varies less than the ratio to one, and the difference of the two, which is the instrument's check upon
    itself, then says nothing of the error in it: sum and difference of two loads that vary alike are not correlated.
    """
    return (baseline_ns,) if null_ns is None else (baseline_ns, null_ns)


def speed_up(candidate_ns: Calls | Loads, baseline_ns: Calls | Loads, *, seed: int) -> SpeedUp:
    """Compare interleaved samples, [blocks, texts], [loads, blocks, texts] or [rounds, loads, blocks, texts] each.

    The ratio is exp(mean over blocks of the centre over texts of log(baseline / candidate)): calls are paired by text, and the
    centre is Hodges and Lehmann's (`centre`). A model that was there twice is compared by the mean of these logs over both; a
    mean of its calls would have twice as many spikes as another model's. The unit of the interval is the highest level that
    was repeated (Kalibera & Jones 2013): rounds, which are processes of their own, else loads of the models in one process,
    else blocks. An even number of loads, from six on, is taken in pairs: the second of two turns the order of the first round,
    so that what the order did goes away. Several rounds or loads give Student's interval of their mean logs; a bootstrap over
    them and then their blocks counts the noise of blocks twice and covered 98 to 100 % in simulation, one over five whole ones
    covered 93 %. The blocks of a single load are resampled, and the percentile interval is expanded for their small number
    (Hesterberg 2015, arXiv:1411.5279, section 4.2: alpha'/2 = Phi(-sqrt(n / (n - 1)) t)).

    Raises:
        ValueError: The shapes differ, or there are fewer than two blocks in all.
    """
    ours, theirs = (ns if isinstance(ns, tuple) else (ns,) for ns in (candidate_ns, baseline_ns))
    shapes = {ns.shape for ns in (*ours, *theirs)}
    shape = ours[0].shape
    if len(shapes) > 1 or len(shape) not in (2, 3, 4) or math.prod(shape[:-1]) < 2:
        raise ValueError(f"samples of shapes {', '.join(map(str, shapes))}")
    blocks = _units(np.mean([centre(np.log(slow / fast)) for fast in ours for slow in theirs], axis=0))
    if blocks.ndim > 1:
        logs = blocks.reshape(len(blocks), -1).mean(axis=1)
        ci95, ci90 = (mean_interval(list(logs), confidence) for confidence in (0.95, 0.90))
        ends = [Interval(math.exp(i.low), math.exp(i.high)) for i in (ci95, ci90)]
    else:
        logs = blocks
        rng = np.random.default_rng(seed)
        means = logs[rng.integers(0, len(logs), (RESAMPLES, len(logs)))].mean(axis=1)
        ends = [_expanded(means, len(logs), confidence) for confidence in (0.95, 0.90)]
    return SpeedUp(ratio=math.exp(logs.mean()), ci95=ends[0], ci90=ends[1], units=len(logs))


def median_interval(values: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % interval of the median of calls, shaped as `speed_up` takes them; None where nothing was repeated.

    Calls of one load are no independent samples of what a model takes: where it lies in memory shows in all of them. So the
    units are those of `speed_up`, and the interval is Student's of the logarithms of their medians. It says how far the run
    would come out elsewhere on the machine as it was, and nothing about the machine of another day.
    """
    rows = values.reshape(-1, values.shape[-1])
    units = _units(np.arange(len(rows)).reshape(values.shape[:-1]))
    if len(units) < 2:
        return None
    found = mean_interval([math.log(np.median(rows[unit])) for unit in units])
    middle = float(np.median(values))
    return Interval(min(math.exp(found.low), middle), max(math.exp(found.high), middle))


def _units(blocks: NDArray[Any]) -> NDArray[Any]:
    """Return what stands for each block by the highest level that was repeated, [units, ...]; [blocks] where none was."""
    while blocks.ndim > 1 and len(blocks) == 1:
        blocks = blocks[0]
    if blocks.ndim == 2 and len(blocks) >= _FEWEST_PAIRED and len(blocks) % 2 == 0:
        blocks = blocks.reshape(len(blocks) // 2, -1)
    return blocks


def centre(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median over all pairs of the mean of two values, each also with itself, along the last axis.

    Hodges & Lehmann 1963, Estimates of location based on rank tests. Nearly a third of the values may be spikes, and on values
    of a normal distribution its variance is 1.05 times the mean's, a median's 1.57 times.
    """
    one, other = np.triu_indices(values.shape[-1])
    rows = values.reshape(-1, values.shape[-1])
    step = max(1, _CHUNK_CELLS // len(one))
    parts = [np.median((r[:, one] + r[:, other]) / 2, axis=-1) for r in np.split(rows, range(step, len(rows), step))]
    return np.concatenate(parts).reshape(values.shape[:-1])


def _expanded(means: NDArray[np.float64], units: int, confidence: float) -> Interval:
    from scipy.stats import norm, t

    quantile = t.ppf(0.5 + confidence / 2, units - 1) * math.sqrt(units / (units - 1))
    tail = float(norm.cdf(-quantile))
    low, high = np.exp(np.quantile(means, [tail, 1 - tail]))
    return Interval(float(low), float(high))
