"""The estimate counts the scenarios that are asked for, in the numbers that are measured."""

from __future__ import annotations

import pytest

from compressor import estimate
from compressor.config import BenchConfig
from compressor.measure import scenario_runs, scenarios
from compressor.measure.surface import BATCHES, LENGTHS


def test_the_estimate_counts_what_is_measured() -> None:
    assert sum(BATCHES) * sum(LENGTHS) == estimate.SURFACE_TOKENS
    surface = scenario_runs._SURFACE_BLOCKS, scenario_runs._SURFACE_LOADS
    assert surface == (estimate.SURFACE_BLOCKS, estimate.SURFACE_LOADS)
    throughput = scenarios._LEAST_BATCHES, scenario_runs._THROUGHPUT_LOADS
    assert throughput == (estimate.THROUGHPUT_BATCHES, estimate.THROUGHPUT_LOADS)


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        ({"end_to_end": True}, None),  # as long again
        ({"padded": True}, 3.0 * 12 * 12 / 240 * 6.4),  # the calls of one arm, 128 tokens instead of 20
        ({"throughput": True}, 9 * (12 + 6) * 4 * 32 * 0.01),  # passes of nine arms over 128 texts of 10 ms
        (
            {"throughput": True, "throughput_batch": 2},
            9 * (12 + 6) * 12 * 0.01,
        ),  # as many texts as single calls at least
        ({"surface": True}, 9 * (6 + 3) * 29_520 * 0.01 / 20),  # passes over all shapes, half a millisecond a token
    ],
)
def test_each_scenario_costs_what_it_takes(wanted: dict, more: float | None) -> None:
    def seconds(**options: bool | int) -> float:
        return estimate._timing_seconds(BenchConfig(**options), 2, estimate.Pace(seconds=0.01, tokens=20), longest=128)

    alone = seconds()
    assert alone > 0
    assert seconds(**wanted) - alone == pytest.approx(alone if more is None else more)


def test_loads_that_six_do_not_divide_are_those_of_the_throughput_too() -> None:
    def seconds(**options: bool | int) -> float:
        bench = BenchConfig(loads=4, rounds=3, **options)
        return estimate._timing_seconds(bench, 1, estimate.Pace(seconds=0.01, tokens=20), longest=128)

    assert seconds(throughput=True) - seconds() == pytest.approx(3 * 6 * (12 + 4) * 4 * 32 * 0.01)
