"""Cells of a sweep: what they leave behind when a process dies at the wrong moment."""

from __future__ import annotations

import dataclasses
import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from run_folders import Model, write_run

from compressor import commit, copies, tracking
from compressor.cells import cell, ledger
from compressor.cells.supervisor import Ending
from compressor.config import CellConfig, RunConfig, TrackingConfig
from compressor.errors import StoreError
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import RunResult
from compressor.runfolder import RunFolder


def record(folder: Path, status: str) -> None:
    with RunFolder(folder) as place:
        place.write_result(RunResult(status=status, run_key="", task="", seed=0, seconds_total=0.0), [])
        place.commit()


def test_the_record_of_a_failed_cell_goes_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "0", "failed(DataError: empty)")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.commit.folder.discard", killed)
    with pytest.raises(KeyboardInterrupt):
        cell.clear_failed(tmp_path / "0")
    assert not (tmp_path / "0").exists(), "half a record would keep the cell from ever running again"
    record(tmp_path / "1", "ok")
    cell.clear_failed(tmp_path / "1")
    commit.verify(tmp_path / "1")


def altered(folder: Path, old: bytes, new: bytes) -> None:
    path = folder / "result.json"
    data = path.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))


def test_a_result_that_was_altered_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0", "1"):
        record(tmp_path / name, "ok")
    altered(tmp_path / "0", b'"seed": 0', b'"seed": 7')
    altered(tmp_path / "1", b'"status": "ok"', b'"status": "oj"')
    cell.clear_failed(tmp_path / "1")
    assert (tmp_path / "1" / "result.json").is_file(), "a result with a flipped letter is no record of a failure"
    ran: list[Path] = []

    def run(asked: cell.Cell, *_: object) -> Ending:
        ran.append(asked.folder)
        return Ending(code=7, stop=None, seconds=1.0, peak_bytes=0, out_of_memory=False)

    monkeypatch.setattr(cell, "_run", run)
    monkeypatch.setattr(cell, "run_key", lambda *_: "")
    out = io.StringIO()
    composed = cell.Composed(config=RunConfig(), values={}, limits=CellConfig())
    for name in ("0", "2"):  # the second is its twin, and no duplicate of it
        asked = cell.Cell(overrides=(), folder=tmp_path / name, sweep=tmp_path)
        screen = Screen(Console(file=out, width=500))
        assert cell.run_cell(asked, lambda: composed, Registry(methods={}, broken={}), screen).code != 0
    assert ran == [tmp_path / "0", tmp_path / "2"]
    assert "already holds a run, and is damaged or incomplete: result.json has sha256" in out.getvalue()


def test_the_desk_of_a_killed_sweep_is_cleared_by_the_next(tmp_path: Path) -> None:
    killed = (
        "import os, sys\nfrom pathlib import Path\nfrom compressor.cells import cell\n"
        "with cell._desk(cell.Cell(overrides=(), folder=Path(sys.argv[1]), sweep=Path(sys.argv[1]).parent)) as desk:\n"
        "    (desk / 'output.txt').write_text('printed')\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path / "0")], check=False).returncode == 9
    (left,) = (tmp_path / ledger.PLACE).iterdir()
    with cell._desk(cell.Cell(overrides=(), folder=tmp_path / "1", sweep=tmp_path)) as desk:
        assert desk.is_dir() and not left.exists()
    assert not list((tmp_path / ledger.PLACE).iterdir())


def test_a_disk_that_fills_while_a_cell_prints_ends_that_cell_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cell, "_run", full)
    asked = cell.Cell(overrides=("seed=0",), folder=tmp_path / "0", sweep=tmp_path)
    composed = cell.Composed(config=RunConfig(), values={}, limits=CellConfig())
    ended = cell.run_cell(asked, lambda: composed, Registry(methods={}, broken={}), Screen(Console(quiet=True)))
    assert ended.code == StoreError.exit_code
    assert ended.result.status.startswith("failed(StoreError: No space left on device while writing ")
    commit.verify(tmp_path / "0")
    assert not list((tmp_path / ledger.PLACE).iterdir())


def test_a_training_that_a_search_ended_is_skipped_and_no_failure() -> None:
    ending = Ending(code=6, stop=None, seconds=1.0, peak_bytes=0, out_of_memory=False)
    told = {"kind": "Hopeless", "got": "validation accuracy is 0.5 after epoch 1", "code": 6}
    assert cell.describe(ending, told, CellConfig()) == (
        "skipped(hopeless: validation accuracy is 0.5 after epoch 1)",
        0,
    )
    status, code = cell.describe(ending, {**told, "kind": "TrainingError"}, CellConfig())
    assert status.startswith("failed(TrainingError") and code == 6


@pytest.mark.parametrize("case", ["finished before", "a duplicate", "its process died after the run"])
def test_a_cell_whose_result_stands_already_is_mirrored_under_the_name_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    sweep = tmp_path / "sweep"
    stands = write_run(sweep / "0", Model())
    asked = cell.Cell(overrides=(), folder=sweep / ("1" if case == "a duplicate" else "0"), sweep=sweep)
    composed = cell.Composed(
        config=RunConfig(), values={}, limits=CellConfig(), tracking=TrackingConfig(kind="wandb", mode="offline")
    )
    begun = []

    def start(folder: Path, wanted: TrackingConfig) -> str:
        begun.append(folder)
        for copy in copies.wanted(folder, wanted.project, wanted.entity, wanted.project):
            copies.note(folder, dataclasses.replace(copy, sent="offline"), instead_of=copy)
        return "written offline"

    def died(*_: object) -> Ending:
        (tmp_path / "aside").rename(stands)
        return Ending(code=-9, stop=None, seconds=1.0, peak_bytes=0, out_of_memory=False)

    def run() -> str:
        ended = cell.run_cell(asked, lambda: composed, Registry(methods={}, broken={}), Screen(Console(quiet=True)))
        assert ended.code == 0
        return ended.result.status

    if case.startswith("its process"):
        stands.rename(tmp_path / "aside")
    monkeypatch.setattr(cell, "run_key", lambda *_: "key-0")
    monkeypatch.setattr(cell, "_run", died)
    monkeypatch.setattr(tracking, "start", start)
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    assert run() == ("skipped(duplicate of 0)" if case == "a duplicate" else "ok")
    assert begun == [stands] and [copy.id for copy in copies.noted(stands)] == ["r1"]
    run()
    assert begun == [stands], "a copy that is made is not made again"
    composed = dataclasses.replace(composed, tracking=TrackingConfig())
    monkeypatch.setenv("WANDB_RUN_ID", "r2")
    run()
    assert begun == [stands], "nobody asked for one"


def test_a_sweep_that_finds_all_cells_finished_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    place = tmp_path / ledger.PLACE
    killed = (
        "import sys; from pathlib import Path; from compressor import commit; commit.open_partial(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", killed, place / "2"], check=True)
    ours = commit.open_partial(place / "1")
    assert len(list(place.iterdir())) == 2
    ledger.tidy(tmp_path)
    assert list(place.iterdir()) == [ours]
