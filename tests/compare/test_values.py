"""A number, its interval, and how sure it is that it clears a bound."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm, t

from compressor.compare.statistics import Interval
from compressor.compare.values import Value, exact, interval_at, over_runs, over_seeds


def test_confidence_is_the_normal_one_of_a_single_run() -> None:
    value = Value(value=-0.004, ci95=Interval(-0.012, 0.004), each=())
    assert value.confidence(-0.01) == pytest.approx(norm.cdf(0.006 / (0.008 / 1.959964)), abs=1e-9)
    assert value.confidence(-0.01, above=False) == pytest.approx(1 - value.confidence(-0.01), abs=1e-9)
    assert value.confidence(-0.012) == pytest.approx(0.975, abs=1e-6), "the end of a 95 % interval"
    assert value.clears(-0.012) and not value.clears(-0.0119)


def test_confidence_uses_the_side_of_the_bound() -> None:
    value = Value(value=3.0, ci95=Interval(2.9, 4.0), each=())
    assert value.confidence(2.9) == pytest.approx(0.975, abs=1e-6)
    assert value.confidence(4.0, above=False) == pytest.approx(0.975, abs=1e-6)


def test_confidence_is_students_over_seeds() -> None:
    value = over_seeds([(0, 0.97), (1, 0.99), (2, 0.98)], [None] * 3)
    error = 0.01 / math.sqrt(3)
    assert value.freedom == 2
    assert value.confidence(0.97) == pytest.approx(t.cdf((0.98 - 0.97) / error, 2), abs=1e-9)


def test_what_was_counted_is_certain() -> None:
    assert exact(30.0).confidence(30.0, above=False) == 1.0
    assert exact(30.0).confidence(29.0, above=False) == 0.0
    assert exact(30.0).clears(30.0, above=False)


def test_without_an_interval_nothing_is_known() -> None:
    value = Value(value=1.0, ci95=None, each=())
    assert value.confidence(0.0) is None and not value.clears(0.0)
    assert value.overlaps(exact(5.0)) and interval_at(value, 0.9) is None


def test_repeats_of_a_seed_are_no_further_seeds() -> None:
    value = over_seeds([(0, 0.8), (0, 0.82)], [Interval(0.78, 0.82), Interval(0.80, 0.84)])
    assert value.value == pytest.approx(0.81) and value.freedom is None
    assert value.ci95 == Interval(0.78, 0.84)


def test_another_confidence_is_a_scaled_interval() -> None:
    value = over_runs([(0, 2.0)], [Interval(2.0 / 1.1, 2.0 * 1.1)])
    narrow = interval_at(value, 0.90)
    assert math.log(narrow.high / 2.0) == pytest.approx(math.log(1.1) * norm.ppf(0.95) / 1.959964)
    pooled = over_runs([(0, 2.0), (1, 2.2)], [None, None])
    assert math.log(interval_at(pooled, 0.90).high / pooled.value) == pytest.approx(
        math.log(pooled.ci95.high / pooled.value) * t.ppf(0.95, 1) / t.ppf(0.975, 1)
    )
