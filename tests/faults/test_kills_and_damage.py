"""A tenth of the kills and flips that `tests/benchmarks/faults.py` counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import damage  # noqa: E402 - found through the line above
import killed_training  # noqa: E402
import killed_writers  # noqa: E402


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    found = killed_training.kill(tmp_path, 20)
    assert (found.tried, found.kept, found.failures) == (20, 20, ())


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 2, 8])
def test_killed_writers_leave_whole_folders_or_none(tmp_path: Path, writers: int) -> None:
    found = killed_writers.kill(tmp_path, 34, writers=writers)
    assert (found.tried, found.kept, found.failures) == (34, 34, ())


def test_damage_is_noticed_by_whoever_reads(tmp_path: Path) -> None:
    for found in damage.damage(tmp_path, 20):
        assert found.tried > 20 and found.kept == found.tried, found.failures
