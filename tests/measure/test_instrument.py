"""A tenth of `tests/benchmarks/instrument.py`, at fewer loads, beside whatever else the tests do on the machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import instrument  # noqa: E402 - found through the line above

NAMES = "equal", "slower-5"
TRIALS = 10
BENCH = replace(instrument.TINY, loads=9, blocks=18, texts=10, repeats=0)
NEAR = 0.015  # of the median over all trials to the truth; it varies by a quarter of that


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    with instrument.slowing():
        scored = instrument.prepare(tmp_path_factory.mktemp("instrument"), instrument.tiny(), BENCH)
        trials = [instrument.trial(scored, NAMES, seed, BENCH) for seed in range(TRIALS)]
        return {name: [verdicts[name] for verdicts in trials] for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_a_busy_machine_no_verdict_is_wrong_and_the_estimates_centre_on_the_truth(found, name: str) -> None:
    words = [instrument.right(name, one.word.value) for one in found[name]]
    ratios = [one.speed_up.ratio for one in found[name]]
    assert words.count(False) <= (1 if name == "equal" else 0), [one.word.value for one in found[name]]
    assert abs(np.median(ratios) - 1 / instrument.SLOWDOWNS[name]) <= NEAR, ratios
