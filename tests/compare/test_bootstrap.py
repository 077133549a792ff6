"""Bootstrap intervals: equal to closed forms where there are any, and covering what they should."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import interval_coverage as coverage  # noqa: E402 - found through the line above

from compressor.compare.bootstrap import (
    both_loads,
    centre,
    median_interval,
    metric_estimate,
    paired_difference,
    speed_up,
)
from compressor.tasks.metrics import Accuracy, EntityF1, Pearson, Spearman

LABELS = ("no", "yes")


def test_accuracy_interval_has_the_binomial_standard_error() -> None:
    references = np.ones(1000, int)
    predictions = (np.arange(1000) < 850).astype(int)
    found = metric_estimate(Accuracy(), predictions, references, LABELS, seed=0)
    assert found.value == 0.85
    assert found.standard_error == pytest.approx((0.85 * 0.15 / 1000) ** 0.5, rel=0.03)
    assert found.ci95.low < 0.85 < found.ci95.high


def test_paired_difference_has_the_standard_error_of_its_discordant_pairs() -> None:
    references = np.zeros(2000, int)
    ours, theirs = references.copy(), references.copy()
    ours[:60] = 1
    theirs[60:80] = 1
    found = paired_difference(Accuracy(), ours, theirs, references, LABELS, seed=0)
    assert found.value == pytest.approx(-0.02, abs=1e-12)
    variance = (80 / 2000 - 0.02**2) / 2000
    assert found.standard_error == pytest.approx(variance**0.5, rel=0.03)


def test_same_seed_same_interval() -> None:
    references, ours = np.zeros(100, int), np.r_[np.ones(9, int), np.zeros(91, int)]
    first, second, other = (
        paired_difference(Accuracy(), ours, references, references, LABELS, seed=s) for s in (3, 3, 4)
    )
    assert first == second
    assert first.standard_error != other.standard_error


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    metric_estimate(Accuracy(), [0, 1, 1], [0, 1, 0], LABELS, seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_identical_predictions_are_not_certainty() -> None:
    references = np.zeros(50, int)
    found = paired_difference(Accuracy(), references, references, references, LABELS, seed=0)
    assert found.value == 0
    assert found.ci95.high > 0.05


@pytest.mark.parametrize("metric", [Pearson(), Spearman()])
def test_correlations_are_bootstrapped_with_their_rows(metric: Pearson | Spearman) -> None:
    rng = np.random.default_rng(0)
    references = rng.normal(size=300)
    good, poor = references + 0.3 * rng.normal(size=300), references + 2 * rng.normal(size=300)
    found = paired_difference(metric, good, poor, references, (), seed=0)
    assert found.value == pytest.approx(metric(good, references, ()) - metric(poor, references, ()), abs=1e-12)
    assert found.ci95.low > 0.2
    value = metric_estimate(metric, good, references, (), seed=0)
    assert value.ci95.low < value.value < value.ci95.high


def test_entity_f1_is_bootstrapped_over_sentences() -> None:
    tags = ("O", "B-X")
    references = [[0, 1, 0], [1, 0], [0, 0, 1]] * 30
    predictions = [[0, 1, 0], [1, 0], [0, 0, 0]] * 30
    found = metric_estimate(EntityF1(), predictions, references, tags, seed=0)
    assert found.value == pytest.approx(0.8)
    assert found.ci95.low < 0.8 < found.ci95.high


def test_attempts_that_count_together_hold_the_truth_and_tell_more_than_the_last() -> None:
    share, width = coverage.of_disturbed(400, coverage.level("quick"), 3)
    assert 0.925 <= share <= 0.975
    assert width < 0.8  # the square root of a half, were they of equal noise, and less for the small number of loads


def test_accuracy_difference_covers() -> None:
    """500 samples of a known gap; the 95 % interval must hold it about as often as it says."""
    assert 0.92 <= coverage.of_differences(500, 400, 5) <= 0.98


@pytest.mark.parametrize(("loads", "units"), [(3, 3), (4, 4), (5, 5), (6, 3), (10, 5)])
def test_speed_up_over_loads_covers(loads: int, units: int) -> None:
    assert 0.925 <= coverage.of_speed_ups(400, (loads, 6, 10), 3) <= 0.975
    ours, theirs, _ = coverage.simulated(np.random.default_rng(3), 1.5, (loads, 6, 10))
    assert speed_up(ours, theirs, seed=0).units == units


@pytest.mark.parametrize(
    ("shape", "units"),
    [((6, 3, 4, 12), 6), ((6, 1, 4, 12), 6), ((1, 3, 4, 12), 3), ((1, 12, 1, 12), 6), ((1, 7, 2, 9), 7)],
)
def test_rounds_are_the_unit_where_there_are_several(shape: tuple[int, ...], units: int) -> None:
    assert speed_up(*coverage.simulated(np.random.default_rng(0), 1.5, shape)[:2], seed=0).units == units


def test_speed_up_over_rounds_covers() -> None:
    assert 0.925 <= coverage.of_speed_ups(400, (10, 4, 2, 10), 3) <= 0.975


def test_what_the_order_of_loading_does_goes_away_in_pairs_of_loads() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.lognormal(16, 0.01, (8, 2, 10))
    in_turns = np.where(np.arange(8) % 2, 0.96, 1 / 0.96)[:, None, None]  # four per cent up and down
    ours = theirs / 1.5 * in_turns
    found = speed_up(ours.astype(np.int64), theirs.astype(np.int64), seed=0)
    assert found.ratio == pytest.approx(1.5, rel=1e-6)
    assert found.ci95.high / found.ci95.low < 1.00001


def test_one_round_is_its_blocks() -> None:
    ours, theirs, _ = coverage.simulated(np.random.default_rng(0), 1.5, (12, 20))
    assert speed_up(ours[None], theirs[None], seed=0) == speed_up(ours, theirs, seed=0)


def test_speed_up_covers_under_drift_and_spikes() -> None:
    assert 0.92 <= coverage.of_speed_ups(300, (12, 20), 2) <= 0.985


def test_the_centre_is_the_shift_that_the_signed_rank_test_cannot_refuse() -> None:
    # Hodges and Lehmann's estimate inverts Wilcoxon's test: around it, both signs have the same sum of ranks.
    values = np.random.default_rng(0).standard_t(2, (3, 4, 13))
    found = centre(values)
    assert found.shape == (3, 4)
    shifted = values - found[..., None]
    ranks = rankdata(np.abs(shifted), axis=-1)
    assert np.abs((ranks * np.sign(shifted)).sum(axis=-1)).max() <= 13  # of 91
    assert centre(np.array([1.0, 2.0, 9.0])) == 3.5  # of 1, 1.5, 2, 5, 5.5, 9
    assert centre(np.array([4.0])) == 4.0
    many = np.random.default_rng(1).normal(size=(3, 2, 2000))  # two million pairs each: more than are made at a time
    assert (centre(many)[1] == centre(many[1])).all() and np.abs(centre(many)).max() < 0.1


def test_the_centre_varies_less_than_the_median_and_no_spike_moves_it_far() -> None:
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(20_000, 12))
    assert centre(normal).var() == pytest.approx(normal.mean(axis=-1).var() / 0.955, rel=0.05)
    assert centre(normal).var() < 0.8 * np.median(normal, axis=-1).var()
    spiked = normal[:100].copy()
    spiked[:, :3] = 1e6  # of twelve
    assert np.abs(centre(spiked) - centre(normal[:100])).max() < 2


def test_the_ratio_to_two_loads_is_the_geometric_mean_of_the_ratios_to_each() -> None:
    rng = np.random.default_rng(0)
    ours, base, null = (1e7 * rng.lognormal(mean, 0.05, (8, 2, 5)) for mean in (0, 0.3, 0.5))
    each = [speed_up(ours, loads, seed=0).ratio for loads in (base, null)]
    assert speed_up(ours, both_loads(base, null), seed=0).ratio == pytest.approx(np.sqrt(np.prod(each)), rel=1e-12)
    assert speed_up(both_loads(base, null), ours, seed=0).ratio == pytest.approx(1 / np.sqrt(np.prod(each)), rel=1e-12)
    assert speed_up(ours, both_loads(base, None), seed=0) == speed_up(ours, base, seed=0)


def test_the_null_arm_says_nothing_of_the_error_in_a_ratio_to_both_loads() -> None:
    """Of three loads that vary alike, the ratio to one shares half its variance with the null arm's, that to both none."""
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        ours, base, null = 1e7 * np.exp(rng.normal(0, 0.01, (3, 8, 1, 1))) * np.ones((8, 1, 3))
        pairs = ((null, base), (ours, base), (ours, both_loads(base, null)))
        found.append([math.log(speed_up(*pair, seed=0).ratio) for pair in pairs])
    check, one, both = np.array(found).T
    assert np.corrcoef(check, one)[0, 1] == pytest.approx(0.5, abs=0.06)
    assert np.corrcoef(check, both)[0, 1] == pytest.approx(0.0, abs=0.06)
    assert both.var() / one.var() == pytest.approx(0.75, abs=0.06)


def test_speed_up_is_the_ratio_of_constant_samples() -> None:
    base = np.full((6, 5), 3_000_000)
    found = speed_up(base // 2, base, seed=0)
    assert found.ratio == pytest.approx(2.0, abs=1e-12)
    assert found.ci95.low == pytest.approx(2.0) == found.ci95.high


def test_speed_up_refuses_samples_that_are_not_paired() -> None:
    with pytest.raises(ValueError, match="shape"):
        speed_up(np.ones((4, 3), np.int64), np.ones((4, 2), np.int64), seed=0)


@pytest.mark.parametrize("shape", [(6, 2, 12), (12, 2, 12), (5, 4, 4, 20)])
def test_the_interval_of_a_median_covers_what_other_loads_would_give(shape: tuple[int, ...]) -> None:
    """Loads, or rounds, differ by 2 %: calls that were taken for independent covered a third of the time."""
    rng = np.random.default_rng(0)
    hits, runs = 0, 1000
    for _ in range(runs):
        unit = 0.02 * rng.normal(size=(shape[0], *[1] * (len(shape) - 1)))
        found = median_interval(10.0 * np.exp(unit + 0.05 * rng.standard_t(3, size=shape)))
        assert found is not None
        hits += found.low <= 10.0 <= found.high
    assert 0.93 <= hits / runs <= 0.985


def test_the_interval_of_a_median_holds_it_and_needs_a_repetition() -> None:
    calls = np.array([[[1.0, 1.0, 9.0], [1.0, 9.0, 9.0]], [[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]])
    found = median_interval(calls)
    assert found is not None and found.low <= np.median(calls) <= found.high
    assert median_interval(calls[:1, :1]) is None, "one block of one load"
    assert median_interval(calls[0]) == median_interval(calls[:1]), "of one load the blocks are the units"
    same = median_interval(np.full((1, 4, 2, 3), 2.0))
    assert same is not None and (same.low, same.high) == (2.0, 2.0)
