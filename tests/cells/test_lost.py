"""A cell whose launcher's process was killed is noted all the same."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from compressor import cli, commit
from compressor.cells import cell, ledger, lost
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import RunResult
from compressor.runfolder import RunFolder

TOKEN = "sweep-mine"


def begun(sweep: Path, number: int) -> cell.Cell:
    one = cell.Cell(overrides=(f"seed={number}",), folder=sweep / str(number), sweep=sweep)
    ledger.begin(sweep, TOKEN)
    lost.begin(one, number, TOKEN)
    return one


def ended(folder: Path, status: str) -> None:
    with RunFolder(folder) as place:
        place.write_result(RunResult(status=status, run_key="", task="", seed=0, seconds_total=0.0), [])
        place.commit()


def note(sweep: Path, cells: int) -> bool:
    return lost.note(sweep, TOKEN, {n: [f"seed={n}"] for n in range(cells)}, lambda n, line: sweep / f"{n}")


def states(sweep: Path) -> dict[int, tuple[str, int]]:
    return {entry.number: (entry.status, entry.code) for entry in ledger.read(sweep, TOKEN)}


def test_every_cell_of_a_command_has_a_state_whoever_died(tmp_path: Path) -> None:
    begun(tmp_path, 0)
    ledger.write(tmp_path, TOKEN, ledger.Entry(number=0, folder=tmp_path / "0", status="ok", code=0))
    begun(tmp_path, 1)
    assert note(tmp_path, 3)
    assert states(tmp_path) == {0: ("ok", 0), 1: (lost.LOST, 11), 2: (lost.NEVER_BEGUN, 11)}
    commit.verify(tmp_path / "1")
    assert RunResult.from_json(commit.read_json(tmp_path / "1" / "result.json")).status == lost.LOST
    assert "seed=1" in (tmp_path / "1" / "run.yaml").read_text()
    assert not (tmp_path / "2").exists(), "a queue may still begin it"


def test_where_every_cell_said_how_it_ended_nothing_is_noted(tmp_path: Path) -> None:
    begun(tmp_path, 0)
    ledger.write(tmp_path, TOKEN, ledger.Entry(number=0, folder=tmp_path / "0", status="ok", code=0))
    assert not note(tmp_path, 1) and states(tmp_path) == {0: ("ok", 0)} and not (tmp_path / "0").exists()


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed(DataError: empty)", 11)])
def test_what_a_cell_left_before_its_launcher_died_stands(tmp_path: Path, status: str, code: int) -> None:
    ended(begun(tmp_path, 0).folder, status)
    note(tmp_path, 1)
    assert states(tmp_path) == {0: (status, code)}


def test_a_result_from_before_is_neither_taken_for_its_end_nor_harmed(tmp_path: Path) -> None:
    ended(tmp_path / "0", "ok")
    os.utime(tmp_path / "0" / "result.json", (1e9, 1e9))
    begun(tmp_path, 0)
    note(tmp_path, 1)
    assert states(tmp_path) == {0: (lost.LOST, 11)}
    commit.verify(tmp_path / "0")
    assert RunResult.from_json(commit.read_json(tmp_path / "0" / "result.json")).status == "ok"


def test_a_cell_that_another_process_still_runs_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "_LOOK_S", 0.05)
    one = begun(tmp_path, 0)
    with commit.FolderLock(one.desk) as lock:
        assert lock.acquire()
        waiting = threading.Thread(target=note, args=(tmp_path, 1))
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive() and states(tmp_path) == {0: (lost.LOST, 11)}
        ledger.write(tmp_path, TOKEN, ledger.Entry(number=0, folder=one.folder, status="ok", code=0))
    waiting.join(30)
    assert states(tmp_path) == {0: ("ok", 0)} and not one.folder.exists()


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(KeyboardInterrupt(), "interrupted", 130), (ValueError("a bug"), "failed(ValueError: a bug)", 1)],
)
def test_whoever_outlives_a_cell_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str, code: int
) -> None:
    def ends(*_: object, **__: object) -> None:
        assert states(tmp_path) == {0: (lost.LOST, 11)}, "noted from its beginning"
        raise error

    monkeypatch.setattr("compressor.cells.sharing.run_free_cell", ends)
    monkeypatch.setenv(ledger.TOKEN, TOKEN)
    one = cell.Cell(overrides=("seed=0",), folder=tmp_path / "0", sweep=tmp_path)
    with pytest.raises(type(error)):
        cli._cell(None, one, 0, Registry(methods={}, broken={}), Screen(Console(quiet=True)))
    assert states(tmp_path) == {0: (status, code)} and not note(tmp_path, 1)
