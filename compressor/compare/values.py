"""One number from one run or several: its interval, and how sure it is that it clears a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compressor.compare.statistics import Interval, mean_interval

_Z = 1.959964  # standard errors on either side of a 95 % interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A mean with its 95 % interval.

    Attributes:
        value: The value of one run, or the mean over seeds.
        ci95: Its interval; None where nothing is known about it.
        each: The values behind it as (seed, value); never the best of them alone.
        freedom: Degrees of freedom of Student's t where the interval is over seeds or runs; None where it is the runs' own.
    """

    value: float
    ci95: Interval | None
    each: tuple[tuple[int, float], ...]
    freedom: int | None = None

    @property
    def half(self) -> float | None:
        """The larger half of the interval."""
        return None if self.ci95 is None else max(self.value - self.ci95.low, self.ci95.high - self.value)

    def confidence(self, bound: float, *, above: bool = True) -> float | None:
        """Return the one-sided confidence, 0 to 1, that the true value is at least (or at most) `bound`.

        The standard error is read off the interval, on the side of the bound; the law is the interval's own.
        """
        if self.ci95 is None:
            return None
        gap = self.value - bound if above else bound - self.value
        towards_low = (gap > 0) == above
        side = self.value - self.ci95.low if towards_low else self.ci95.high - self.value
        if side <= 0:
            return 1.0 if gap >= 0 else 0.0
        from scipy.stats import norm, t

        if self.freedom is None:
            return float(norm.cdf(gap / side * _Z))
        return float(t.cdf(gap / side * t.ppf(0.975, self.freedom), self.freedom))

    def clears(self, bound: float, *, above: bool = True) -> bool:
        """Tell whether the whole 95 % interval lies on the wanted side of a bound."""
        return self.ci95 is not None and (self.ci95.low >= bound if above else self.ci95.high <= bound)

    def overlaps(self, other: Value, *, noise: float = 0.0) -> bool:
        """Tell whether the intervals meet, or lie no further apart than `noise`, a share; an unknown one meets all."""
        if self.ci95 is None or other.ci95 is None:
            return True
        low, high = sorted((self.ci95, other.ci95), key=lambda found: (found.low, found.high))
        return high.low - low.high <= noise * abs(low.high)


def exact(value: float) -> Value:
    """Return a number that was counted, not estimated."""
    return Value(value=value, ci95=Interval(value, value), each=())


def over_seeds(each: Sequence[tuple[int, float]], intervals: Sequence[Interval | None]) -> Value:
    """Return one seed's value as it is, or the mean over seeds with Student's interval.

    Repeats of one seed are averaged first: they are the same draw, on another machine say. Where all are of one seed the
    interval spans theirs. Seeds that happen to agree say nothing about other examples: where the runs' own intervals are
    wider on average, theirs is taken.
    """
    seeds: dict[int, list[float]] = {}
    for seed, value in each:
        seeds.setdefault(seed, []).append(value)
    means = [sum(values) / len(values) for values in seeds.values()]
    if len(means) > 1:
        return _student(means, each, intervals)
    known = [i for i in intervals if i is not None]
    span = Interval(min(i.low for i in known), max(i.high for i in known)) if len(known) == len(each) else None
    return Value(value=means[0], ci95=span, each=tuple(each))


def over_runs(ratios: Sequence[tuple[int, float]], intervals: Sequence[Interval | None]) -> Value:
    """Return one run's ratio as it is, or the geometric mean over runs with Student's interval of the logarithms.

    Unlike an accuracy, a time measured again with the same seed is another measurement. As in `over_seeds` the interval is no
    narrower than the runs' own.
    """
    if len(ratios) == 1:
        return Value(value=ratios[0][1], ci95=intervals[0], each=tuple(ratios))
    logs = [None if i is None or i.low <= 0 else Interval(math.log(i.low), math.log(i.high)) for i in intervals]
    found = _student([math.log(ratio) for _, ratio in ratios], ratios, logs)
    ends = None if found.ci95 is None else Interval(math.exp(found.ci95.low), math.exp(found.ci95.high))
    return replace(found, value=math.exp(found.value), ci95=ends)


def over_tasks(values: Sequence[Value]) -> Value:
    """Return the mean of values of different tasks, whose errors are independent: the half-widths add in squares."""
    mean = sum(v.value for v in values) / len(values)
    ends = [v.ci95 for v in values if v.ci95 is not None]
    interval = None
    if len(ends) == len(values):
        down = math.hypot(*(v.value - i.low for v, i in zip(values, ends, strict=True))) / len(values)
        up = math.hypot(*(i.high - v.value for v, i in zip(values, ends, strict=True))) / len(values)
        interval = Interval(mean - down, mean + up)
    return Value(value=mean, ci95=interval, each=())


def interval_at(value: Value, confidence: float) -> Interval | None:
    """Return the interval of a ratio at another confidence, scaled from the 95 % one on the logarithm."""
    if value.ci95 is None or value.ci95.low <= 0:
        return None
    from scipy.stats import norm, t

    tail = 0.5 + confidence / 2
    wide, narrow = (
        (_Z, norm.ppf(tail)) if value.freedom is None else (t.ppf(0.975, value.freedom), t.ppf(tail, value.freedom))
    )
    centre, scale = math.log(value.value), float(narrow / wide)
    low, high = (centre + (math.log(end) - centre) * scale for end in (value.ci95.low, value.ci95.high))
    return Interval(math.exp(low), math.exp(high))


def _student(values: Sequence[float], each: Sequence[tuple[int, float]], intervals: Sequence[Interval | None]) -> Value:
    mean, found = sum(values) / len(values), mean_interval(values)
    known = [i for i in intervals if i is not None]
    if known:
        own = Interval(sum(i.low for i in known) / len(known), sum(i.high for i in known) / len(known))
        if own.high - own.low > found.high - found.low:
            return Value(value=mean, ci95=own, each=tuple(each))
    return Value(value=mean, ci95=found, each=tuple(each), freedom=len(values) - 1)
