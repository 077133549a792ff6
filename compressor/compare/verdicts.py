"""Verdicts in plain words. Significance alone is none: an interval must also clear a threshold, or lie within one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from compressor.compare.bootstrap import Calls, Loads, SpeedUp, paired_difference, speed_up
from compressor.compare.paired_tests import discordant, paired_p_value
from compressor.compare.statistics import Interval, detectable_difference

if TYPE_CHECKING:
    from compressor.tasks.metrics import Metric

MARGIN = 0.01  # of the baseline's value: what may be lost and still count as equivalent
NOISE = 0.01  # a latency ratio closer to 1 is never called a difference
SAME = 0.02  # a ratio whose 90 % interval lies this close to 1 is called equivalent
_POWER = 1.96 + 0.84  # standard errors that a two-sided 5 % test finds with 80 % power


class Word(StrEnum):
    """The verdicts."""

    better = "better"
    worse = "worse"
    faster = "faster"
    slower = "slower"
    equivalent = "equivalent"
    inconclusive = "inconclusive"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyVerdict:
    """A candidate's metric against its baseline's, on the same examples.

    `difference` is candidate minus baseline in the metric's own unit. `detectable` is the smallest difference that
    this many examples find with 80 % power. `p_value` is exact McNemar's for accuracy, a permutation test's for the others.
    `keeps_99` and `keeps_999` say whether the whole interval lies above 99 % and 99.9 % of the baseline's value: MLPerf's
    accuracy gates (rows bert-99 and bert-99.9 of its inference rules), held against the interval rather than the value.
    """

    candidate: str
    baseline: str
    metric: str
    word: Word
    difference: float
    ci95: Interval
    margin: float
    detectable: float
    n: int
    p_value: float
    keeps_99: bool
    keeps_999: bool

    def sentence(self) -> str:
        """Say it in one sentence."""
        low, high = points(self.ci95.low), points(self.ci95.high)
        found = f"{points(self.difference)} points of {self.metric} (95 % CI {low} to {high}, n={self.n:,})"
        return {
            Word.better: f"{self.candidate} is better than {self.baseline}: {found}.",
            Word.worse: f"{self.candidate} is worse than {self.baseline}: {found}.",
            Word.equivalent: (
                f"{self.candidate} keeps {self.baseline}'s {self.metric} within "
                f"{self.margin * 100:.1f} points: {found}."
            ),
        }.get(
            self.word,
            f"Whether {self.candidate} keeps {self.baseline}'s {self.metric} is not known: {found}; "
            f"this test finds differences from {self.detectable * 100:.1f} points.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyVerdict:
    """A candidate's speed against its baseline's on one runtime; `null_ratio` is the instrument's own error.

    That is how many times faster the model that was loaded twice, which need not be the baseline, was in its second load.
    """

    candidate: str
    baseline: str
    runtime: str
    word: Word
    speed_up: SpeedUp
    null_ratio: float | None

    @property
    def unstable(self) -> bool:
        """Whether the null arm strayed beyond the noise threshold."""
        return self.null_ratio is not None and abs(self.null_ratio - 1) > NOISE

    def sentence(self) -> str:
        """Say it in one sentence."""
        ci = self.speed_up.ci95
        found = f"x{self.speed_up.ratio:.2f} (95 % CI {ci.low:.2f} to {ci.high:.2f})"
        doubt = ""
        if self.unstable:
            doubt = f" The machine was noisy: two loads of one model, which are equally fast, came out x{self.null_ratio:.3f}."
        return {
            Word.faster: f"{self.candidate} is faster than {self.baseline} on {self.runtime}: {found}.",
            Word.slower: f"{self.candidate} is slower than {self.baseline} on {self.runtime}: {found}.",
            Word.equivalent: f"{self.candidate} is as fast as {self.baseline} on {self.runtime}: {found}.",
        }.get(
            self.word,
            f"Whether {self.candidate} is faster than {self.baseline} on {self.runtime} is not known: {found}.",
        ) + doubt


def compare_accuracy(
    metric: Metric,
    candidate: Sequence[Any],
    baseline: Sequence[Any],
    references: Sequence[Any],
    label_names: tuple[str, ...],
    *,
    names: tuple[str, str],
    seed: int,
    margin: float = MARGIN,
    metric_name: str | None = None,
) -> AccuracyVerdict:
    """Judge predictions against a baseline's on the same examples.

    `better` when the whole interval is above 0; `equivalent` (not inferior) when it is above minus the margin; `worse`
    when it is below 0; otherwise `inconclusive`. For metrics where lower is better the sides are swapped.

    Args:
        metric: The metric.
        candidate: The candidate's predictions.
        baseline: The baseline's, of the same examples.
        references: What they are compared with.
        label_names: The task's.
        names: How sentences call candidate and baseline.
        seed: Seed of the bootstrap.
        margin: Tolerated loss, as a share of the baseline's value.
        metric_name: How sentences call the metric, where it was taken on another split than test.
    """
    found = paired_difference(metric, candidate, baseline, references, label_names, seed=seed)
    whole = abs(metric(baseline, references, label_names))
    allowed = margin * whole
    better = found.ci95 if metric.higher_is_better else Interval(-found.ci95.high, -found.ci95.low)
    detectable = _POWER * found.standard_error
    if metric.name == "accuracy":
        detectable = detectable_difference(found.n, sum(discordant(candidate, baseline, references)) / found.n)
    return AccuracyVerdict(
        candidate=names[0],
        baseline=names[1],
        metric=metric_name or metric.name,
        word=accuracy_word(better, allowed),
        difference=found.value,
        ci95=found.ci95,
        margin=allowed,
        detectable=detectable,
        n=found.n,
        p_value=paired_p_value(metric, candidate, baseline, references, label_names, seed=seed),
        keeps_99=better.low >= -0.01 * whole,
        keeps_999=better.low >= -0.001 * whole,
    )


def compare_latency(
    candidate_ns: Calls,
    baseline_ns: Calls | Loads,
    *,
    null: Loads | None = None,
    names: tuple[str, str],
    runtime: str,
    seed: int,
) -> LatencyVerdict:
    """Judge interleaved samples as `speed_up` takes them.

    `faster` or `slower` when the 95 % interval lies wholly beyond the noise threshold, `equivalent` when the 90 % one
    lies wholly within 2 % of 1. The threshold is `noise_of` the null arm; where that is above 1 %, nothing is equivalent.

    Args:
        candidate_ns: The candidate's calls.
        baseline_ns: The baseline's, of all its loads.
        null: Two loads of one model, the baseline or another: by as much as they differ the instrument errs.
        names: How sentences call candidate and baseline.
        runtime: What ran them.
        seed: Seed of the bootstrap.
    """
    found = speed_up(candidate_ns, baseline_ns, seed=seed)
    null_ratio = None if null is None else speed_up(null[1], null[0], seed=seed).ratio
    word = latency_word(found.ci95, found.ci90, noise_of(null_ratio))
    return LatencyVerdict(
        candidate=names[0], baseline=names[1], runtime=runtime, word=word, speed_up=found, null_ratio=null_ratio
    )


def noise_of(null_ratio: float | None) -> float:
    """Return how close to 1 a ratio is never called a difference: 1 %, or as far as the null arm strayed, if that is farther.

    What differs from load to load is in the interval of a ratio; this is for what is not.
    """
    return NOISE if null_ratio is None else max(NOISE, abs(null_ratio - 1))


def latency_word(ci95: Interval, ci90: Interval, noise: float) -> Word:
    """Return the verdict on a speed-up from its intervals; ratios within `noise` of 1 are no difference.

    An instrument that errs by more than `NOISE` cannot tell that two models are the same.
    """
    if ci95.low > 1 + noise:
        return Word.faster
    if ci95.high < 1 - noise:
        return Word.slower
    told = noise <= NOISE and ci90.low > 1 - SAME and ci90.high < 1 + SAME
    return Word.equivalent if told else Word.inconclusive


def accuracy_word(better: Interval, allowed: float) -> Word:
    """Return the verdict on a difference whose sign is turned so that more is better; `allowed` may be lost."""
    if better.low > 0:
        return Word.better
    if better.low > -allowed:
        return Word.equivalent
    return Word.worse if better.high < 0 else Word.inconclusive


def points(value: float) -> str:
    """Return a difference of shares as signed points, e.g. -1.3."""
    return f"{value * 100:+.1f}"


__all__ = [
    "AccuracyVerdict",
    "LatencyVerdict",
    "Word",
    "accuracy_word",
    "compare_accuracy",
    "compare_latency",
    "latency_word",
    "noise_of",
]
