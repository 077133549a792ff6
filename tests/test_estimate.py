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
        ({"padded": True}, 3.0 * 12 * 12 / 240 * 5),  # the calls of one arm, five times as long
        ({"throughput": True}, 9 * (12 + 6) * 4 * 32 * 0.01),  # passes of nine arms over 128 texts of 10 ms
        ({"surface": True}, 9 * (6 + 3) * 29_520 * 0.01 / 20),  # passes over all shapes, half a millisecond a token
    ],
)
def test_each_scenario_costs_what_it_takes(wanted: dict, more: float | None) -> None:
    def seconds(**options: bool) -> float:
        return estimate._timing_seconds(BenchConfig(**options), 2, per_text=0.01, tokens=20)

    alone = seconds()
    assert alone > 0
    assert seconds(**wanted) - alone == pytest.approx(alone if more is None else more)
