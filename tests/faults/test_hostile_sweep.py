"""A sweep outlives whatever its cells do, and a launcher of another package is no worse a place for cells than Hydra's own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile_sweep import SIDE_BY_SIDE_S, STATES, Swept, prepare, sweep, wrong  # noqa: E402 - found through the line above


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hostile_sweep_loses_nothing_but_the_hostile(tmp_path: Path) -> None:
    prepare(tmp_path)
    swept = sweep(tmp_path, list(STATES))
    assert not wrong(swept, list(STATES)), swept.printed[-5000:]
    assert swept.code != 0 and len(swept.states) == len(STATES)
    said = swept.printed.partition(f"== {len(STATES)} cells")[2]
    for (end, _), state in swept.states.items():
        assert state == "ok" or state.partition("(")[0] in said, (end, said)
    assert len(swept.printed) < 2_500_000, "a flood reaches neither the terminal nor the disk whole"
    record = next((tmp_path / "sweep").glob("*/output.txt"))
    assert record.stat().st_size > 0
    assert not swept.living, "a child of the hanging cell or of the escaping one lives on"
    assert not (tmp_path / "sweep" / ".cells" / "shared").exists()

    again = sweep(tmp_path, ["well", "flood", "raise"])
    assert again.printed.count("finished  before") == 1, "only the first cell stands at its old place"
    assert again.states["well", 0] == "ok"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launcher", ["joblib", "submitit"])
def test_other_launchers_lose_no_more(tmp_path: Path, launcher: str) -> None:
    prepare(tmp_path)
    ends = ["well", "raise", "kill"]
    swept = sweep(tmp_path, ends, launcher=launcher, stall_s=SIDE_BY_SIDE_S)
    assert not wrong(swept, ends), swept.printed[-5000:]
    assert swept.code != 0 and not swept.living and "== 3 cells" in swept.printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_is_killed_with_its_cell_is_named_and_the_others_are_waited_for(tmp_path: Path) -> None:
    prepare(tmp_path)
    ends = ["launcher", "well"]
    swept = sweep(tmp_path, ends, launcher="submitit", stall_s=SIDE_BY_SIDE_S)
    assert not wrong(swept, ends), swept.printed[-5000:]
    said = swept.printed.partition("== 2 cells")[2]
    assert swept.code == 11 and "killed" in said and "launcher failed" in swept.printed, swept.printed[-5000:]
    assert not swept.living


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cells_that_a_killed_worker_never_began_are_named_too(tmp_path: Path) -> None:
    prepare(tmp_path)
    swept = sweep(tmp_path, ["launcher", "well"], numbers=(0, 1, 2), launcher="joblib", stall_s=SIDE_BY_SIDE_S)
    said = swept.printed.partition("== 6 cells")[2]
    assert swept.code == 11 and said.count("killed") >= 6 and "before it began" in said, swept.printed[-5000:]
    assert ("launcher", 0) in swept.states and ("well", 2) not in swept.states
    assert not wrong(swept, ["launcher"]) and not swept.living, swept.states


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_commands_share_a_sweep(tmp_path: Path) -> None:
    """As on two machines with one folder: every cell runs once, and either command ends with all of them."""
    prepare(tmp_path)
    ends, numbers = ["well", "raise"], (0, 1, 2)

    def on(machine: str) -> Swept:
        place = {"cache": machine, "subdir": "of_some/${hydra.job.num}"}
        return sweep(tmp_path, ends, numbers=numbers, stall_s=SIDE_BY_SIDE_S, **place)

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(on, ["here", "there"]))
    for swept in both:
        assert not wrong(swept, ends, numbers), swept.printed[-5000:]
        assert swept.code == 1 and "== 6 cells" in swept.printed, swept.printed[-5000:]
    printed = "".join(swept.printed for swept in both)
    assert "another command is running it" in printed
    assert printed.count("Traceback") == printed.count("\nverdict ") == 3, "no cell ran twice"
