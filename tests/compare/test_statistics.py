"""Closed forms against scipy and against numbers worked out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from compressor.compare.statistics import (
    detectable_difference,
    mcnemar_p_value,
    percentile_bound,
    percentile_needs,
    wilson_interval,
    zero_event_bound,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (785, 872), (1, 2136)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    found = wilson_interval(successes, n)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)


def test_wilson_refuses_what_is_no_count() -> None:
    with pytest.raises(ValueError, match="11 successes of 10"):
        wilson_interval(11, 10)


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p_value(0, 0) == 1.0
    assert mcnemar_p_value(0, 5) == pytest.approx(2 * 0.5**5, abs=1e-12)
    # P(X <= 2) for Binomial(10, 1/2) is 56 / 1024, doubled.
    assert mcnemar_p_value(2, 8) == pytest.approx(112 / 1024, abs=1e-12)
    assert mcnemar_p_value(8, 2) == mcnemar_p_value(2, 8)


def test_zero_event_bound_equals_clopper_pearson() -> None:
    for n in (1, 20, 2136):
        expected = binomtest(0, n).proportion_ci(confidence_level=0.95, method="exact").high
        assert zero_event_bound(n) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "at_4", "at_8"), [(277, 3.4, 4.9), (872, 2.0, 2.8), (2136, 1.3, 1.8), (5463, 0.8, 1.1)])
def test_detectable_difference_equals_the_published_table(n: int, at_4: float, at_8: float) -> None:
    assert detectable_difference(n, 0.04) * 100 == pytest.approx(at_4, abs=0.06)
    assert detectable_difference(n, 0.08) * 100 == pytest.approx(at_8, abs=0.06)


def test_detectable_difference_is_found_as_often_as_it_says() -> None:
    n, disagreement, rng = 500, 0.06, np.random.default_rng(1)
    gap = detectable_difference(n, disagreement)
    share = (gap / disagreement + 1) / 2
    found = 0
    for _ in range(1500):
        discordant = rng.binomial(n, disagreement)
        lost = rng.binomial(discordant, share)
        found += mcnemar_p_value(int(lost), int(discordant - lost)) < 0.05
    assert found / 1500 == pytest.approx(0.8, abs=0.04)


def test_without_disagreement_a_gap_must_bring_its_own() -> None:
    assert 0.003 < detectable_difference(2136, 0.0) < 0.005
    assert detectable_difference(4, 0.5) == 1.0


@pytest.mark.parametrize(("level", "needs"), [(0.5, 11), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_a_percentile_is_given_from_so_many_calls_on(level: float, needs: int) -> None:
    assert percentile_needs(level) == needs
    assert percentile_bound(np.arange(needs - 1.0), level) is None
    assert percentile_bound(np.arange(float(needs)), level) == needs - 2  # one call lies above it


def test_a_percentile_is_bounded_as_often_as_promised() -> None:
    rng, held = np.random.default_rng(0), 0
    truth = np.exp(0.5 * 1.2815515655446004)  # the 90th percentile of these log-normal calls
    for _ in range(1000):
        held += percentile_bound(rng.lognormal(0, 0.5, 240), 0.9) >= truth
    assert held >= 985
