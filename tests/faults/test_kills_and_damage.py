"""A tenth of the kills and flips that `tests/benchmarks/faults.py` counts."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

import compressor
from compressor import commit

sys.path.insert(0, str(Path(__file__).parent))

import damage  # noqa: E402 - found through the line above
import killed_training  # noqa: E402
import killed_writers  # noqa: E402


def test_every_failpoint_of_the_whole_package_is_one_that_trainings_are_killed_at() -> None:
    text = "".join(path.read_text() for path in Path(compressor.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'failpoint\("([^"]+)"\)', text)) == set(killed_training.ON_THE_WAY)


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    found = killed_training.kill(tmp_path, 20)
    assert (found.tried, found.kept, found.failures) == (20, 20, ())


@pytest.mark.slow
@pytest.mark.parametrize("writers", [1, 2, 8])
def test_killed_writers_leave_whole_folders_or_none(tmp_path: Path, writers: int) -> None:
    found = killed_writers.kill(tmp_path, 34, writers=writers)
    assert (found.tried, found.kept, found.failures) == (34, 34, ())


def test_a_cell_that_is_made_twice_is_counted_against_the_writers(tmp_path: Path) -> None:
    notes, seen = tmp_path / "acknowledged", dict[str, str]()
    for content in ("first", "second"):
        with commit.partial_folder(tmp_path / "cell-1") as partial:
            (partial / "result.json").write_text(content)
        found = killed_writers._what_is_wrong(tmp_path, notes, seen)
        assert found == ([] if content == "first" else ["cell-1 was made twice"])
        shutil.rmtree(tmp_path / "cell-1")
    with commit.partial_folder(tmp_path / "cell-1-again") as partial:
        (partial / "result.json").write_text("beside it")
    assert killed_writers._what_is_wrong(tmp_path, notes, seen) == ["cell-1-again is no cell's name"]


def test_damage_is_noticed_by_whoever_reads(tmp_path: Path) -> None:
    for found in damage.damage(tmp_path, 20):
        assert found.tried > 20 and found.kept == found.tried, found.failures
