"""Two commands that want the same cell: one runs it, the other goes on and takes over what was found."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from compressor import commit
from compressor.cells import cell, ledger, sharing
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import OK, RunResult
from compressor.runfolder import RunFolder

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom compressor import commit\n"
    "with commit.FolderLock(Path(sys.argv[1])) as lock:\n    assert lock.acquire()\n"
    "    print('held', flush=True)\n    time.sleep(120)"
)


def result(status: str) -> RunResult:
    return RunResult(status=status, run_key="", task="", seed=0, seconds_total=0.0)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of cell 0."""
    place = tmp_path / ledger.PLACE / "0"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were run here."""
    done: list[str] = []

    def run(asked: cell.Cell, *_: object) -> cell.Outcome:
        done.append(asked.folder.name)
        return cell.Outcome(result=result(OK), code=0)

    monkeypatch.setattr(sharing, "run_cell", run)
    monkeypatch.setattr(sharing, "_LOOK_S", 0.05)
    return done


def ask(run, folder: Path, **options: str) -> cell.Outcome:
    screen, methods = Screen(Console(quiet=True)), Registry(methods={}, broken={})
    return run(cell.Cell(overrides=(), folder=folder, sweep=folder.parent), lambda: None, methods, screen, **options)


def free(folder: Path, token: str = "sweep-mine") -> cell.Outcome:
    return ask(sharing.run_free_cell, folder, token=token)


def test_a_cell_that_another_command_runs_is_left_to_it(tmp_path: Path, held, ran: list[str]) -> None:
    assert free(tmp_path / "0").result.status == sharing.BUSY
    assert free(tmp_path / "1").result.status == OK
    assert ran == ["1"]


def test_what_cells_share_stays_while_another_command_is_at_one(tmp_path: Path, held) -> None:
    shared = tmp_path / ledger.PLACE / ledger.SHARED
    shared.mkdir()
    ledger.tidy(tmp_path)
    assert shared.is_dir()
    held.kill()
    held.wait()
    ledger.tidy(tmp_path)
    assert not shared.exists()


def test_a_cell_whose_command_died_is_run_by_who_waited(tmp_path: Path, held, ran: list[str]) -> None:
    found: list[cell.Outcome] = []
    waiting = threading.Thread(target=lambda: found.append(ask(sharing.run_busy_cell, tmp_path / "0")))
    waiting.start()
    time.sleep(0.5)
    assert waiting.is_alive() and ran == []
    held.kill()
    waiting.join(30)
    assert ran == ["0"] and found[0].result.status == OK


def test_a_failure_from_before_is_tried_again_and_one_from_meanwhile_is_not(tmp_path: Path, ran: list[str]) -> None:
    free(tmp_path / "1")  # this command has begun
    for name in ("0", "2"):
        with RunFolder(tmp_path / name) as place:
            place.write_result(result("failed(DataError: empty)"), [])
            place.commit()
    os.utime(tmp_path / "2" / "result.json", (1e9, 1e9))
    assert free(tmp_path / "0").result.status == "failed(DataError: empty)"
    assert free(tmp_path / "2").result.status == OK
    assert ran == ["1", "2"]
    free(tmp_path / "0", "sweep-later")
    assert ran == ["1", "2", "0"], "the next command tries once more"


@pytest.mark.parametrize("status", ["interrupted", "skipped(duplicate of 1)"])
def test_what_was_not_tried_is_run_after_all(tmp_path: Path, ran: list[str], status: str) -> None:
    with RunFolder(tmp_path / "0") as place:
        place.write_result(result(status), [])
        place.commit()
    assert ask(sharing.run_busy_cell, tmp_path / "0").code == 0 and ran == ["0"]


@pytest.mark.parametrize("damage", [lambda b: b"x" * len(b), lambda b: b.replace(b"DataError", b"DataErroz")])
def test_a_folder_that_was_damaged_ends_nobody_and_is_not_taken_over(tmp_path: Path, ran: list[str], damage) -> None:
    with RunFolder(tmp_path / "0") as place:
        place.write_result(result("failed(DataError: empty)"), [])
        place.commit()
    path = tmp_path / "0" / "result.json"
    path.write_bytes(damage(path.read_bytes()))
    assert ask(sharing.run_busy_cell, tmp_path / "0").result.status == OK and ran == ["0"]


def test_what_the_other_command_recorded_is_taken_over_and_not_tried_again(tmp_path: Path, ran: list[str]) -> None:
    with RunFolder(tmp_path / "0") as place:
        place.write_result(result("failed(DataError: empty)"), [])
        place.commit()
    entry = ledger.Entry(number=0, folder=tmp_path / "0", status="failed(DataError: empty)", code=4)
    ledger.write(tmp_path, "sweep-other", entry)
    found = ask(sharing.run_busy_cell, tmp_path / "0")
    assert (found.result.status, found.code) == ("failed(DataError: empty)", 4) and ran == []
    commit.verify(tmp_path / "0")
    # Without a note of it, it still does not count as well.
    (tmp_path / ledger.PLACE / "sweep-other" / "0.json").unlink()
    assert ask(sharing.run_busy_cell, tmp_path / "0").code == 1


def test_a_note_of_a_busy_cell_holds_what_running_it_takes(tmp_path: Path) -> None:
    job = {"overrides": ["seed=1"], "config": {"seed": 1}}
    entry = ledger.Entry(number=3, folder=tmp_path / "3", status=sharing.BUSY, code=0, job=job)
    ledger.write(tmp_path, "sweep-a", entry)
    assert ledger.read(tmp_path, "sweep-a") == [entry]
