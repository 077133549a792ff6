"""When a timed run's predictions count as the scoring run's."""

from __future__ import annotations

import numpy as np
import pytest

from compressor.measure.latency_job import agreement as compare_outputs
from compressor.measure.workload import Replay


def agreement(expected, found) -> dict[str, float]:
    batches = tuple(np.array_split(np.asarray(expected, np.float32), 4))
    replay = Replay(inputs=({},) * 4, positions=(), expected=batches)
    return compare_outputs(replay, np.array_split(np.asarray(found, np.float32), 4))


def test_classes_are_compared() -> None:
    expected = np.random.default_rng(0).normal(size=(40, 3))
    assert agreement(expected, expected + 1.0)["same_prediction_rate"] == 1.0
    assert agreement(expected, np.roll(expected, 1, axis=1))["same_prediction_rate"] < 0.5


def test_scores_are_compared_within_a_tenth_of_their_spread() -> None:
    expected = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 1))
    spread = expected.std()
    assert agreement(expected, expected + 0.09 * spread)["same_prediction_rate"] == 1.0
    assert agreement(expected, expected + 0.11 * spread)["same_prediction_rate"] == 0.0
    assert agreement(expected, expected[::-1])["same_prediction_rate"] < 0.5
    one_off = expected.copy()
    one_off[7] += spread
    assert agreement(expected, one_off)["same_prediction_rate"] == pytest.approx(39 / 40)


def test_a_constant_score_may_carry_float_noise() -> None:
    expected = np.full((40, 1), 2.5)
    assert agreement(expected, expected + 1e-6)["same_prediction_rate"] == 1.0
    assert agreement(expected, expected + 0.1)["same_prediction_rate"] == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_class_that_is_no_number_is_not_the_same(bad: float) -> None:
    expected = np.tile([1.0, 0.0], (40, 1))  # class 0, which is what argmax makes of NaN
    found = expected.copy()
    found[7, 1] = bad
    assert agreement(expected, found) == {"same_prediction_rate": 0.0, "max_logit_difference": 1e30}


def test_a_score_that_is_no_number_is_not_the_same() -> None:
    assert agreement(np.arange(40.0)[:, None], np.full((40, 1), np.nan))["same_prediction_rate"] == 0.0
