"""The run folder's views: written with the result, and never at its cost."""

from __future__ import annotations

import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_folders import write_status
from test_results import make_result

from compressor import commit, runfolder
from compressor.cells import ledger
from compressor.cells.cell import Cell
from compressor.compare import load_runs
from compressor.config import BenchConfig, RunConfig
from compressor.errors import StoreError
from compressor.finish import main as finish_command
from compressor.registry import Registry
from compressor.results import RunResult
from compressor.runfolder import RunFolder
from compressor.runkey import plain_config, run_key
from compressor.tracking import LOSSES


def finish(place: Path, **options: object) -> None:
    with RunFolder(place) as folder:
        folder.write_yaml("run.yaml", {"overrides": ["method=distill"], "config": plain_config(RunConfig())})
        (folder.path / LOSSES).write_text('{"stage": "distill", "step": 1}\n')
        (folder.path / "texts").mkdir()
        pq.write_table(pa.table({"id": [1, 2]}), folder.path / "texts" / "test.parquet")
        with commit.partial_folder(folder.path / "candidates" / "distill") as model:
            (model / "model.safetensors").write_bytes(bytes(64))
        folder.write_result(make_result(), ["method=distill"], **options)
        folder.commit()


def test_every_run_folder_has_its_page(tmp_path: Path) -> None:
    finish(tmp_path / "run", price_per_hour=3.0)
    commit.verify(tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "cost to make" in page and "python -m compressor method=distill" in page
    with RunFolder(tmp_path / "failed") as folder:
        folder.write_result(make_result(status="failed(DataError: empty)", candidates=(), comparisons=()), [])
        folder.commit()
    assert "failed(DataError: empty)" in (tmp_path / "failed" / "report.html").read_text(encoding="utf-8")


def test_a_fault_in_the_drawing_loses_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a plot of nothing")

    monkeypatch.setattr(runfolder, "write_html", fault)
    finish(tmp_path / "run")
    commit.verify(tmp_path / "run")
    assert (tmp_path / "run" / "result.json").is_file() and (tmp_path / "run" / "report.md").is_file()
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "report.html could not be written" in log and "a plot of nothing" in log


def test_a_full_disk_is_no_fault_of_the_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(runfolder, "write_html", full)
    with pytest.raises(OSError, match="no space"):
        finish(tmp_path / "run")


def test_what_was_measured_outlives_a_disk_that_takes_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("no space")

    monkeypatch.setattr(commit, "commit", full)
    with pytest.raises(StoreError, match="could not become") as caught:
        finish(tmp_path / "run")
    monkeypatch.undo()
    (kept,) = tmp_path.iterdir()
    assert caught.value.hint == f"python -m compressor.finish {kept}"
    monkeypatch.setattr("compressor.commit.folder.is_abandoned", lambda path: True)  # its process is dead by then
    finish(tmp_path / "run")
    assert (kept / "result.json").is_file() and not commit.is_complete(kept)
    with pytest.raises(SystemExit) as taken:
        finish_command([str(kept)])
    assert taken.value.code == StoreError.exit_code and kept.is_dir(), "a later run has the name"
    commit.set_aside(tmp_path / "run")
    with RunFolder(tmp_path / "run") as record:  # the run was a cell, and its sweep recorded that it failed
        record.write_result(
            RunResult(status="failed(StoreError: full)", run_key="", task="", seed=0, seconds_total=0.0), []
        )
        record.commit()
    monkeypatch.setattr(commit, "commit", busy)
    with pytest.raises(SystemExit) as refused:
        finish_command([str(kept)])
    assert refused.value.code == StoreError.exit_code and kept.is_dir()
    monkeypatch.undo()
    with pytest.raises(SystemExit) as ended:
        finish_command([str(kept)])
    assert ended.value.code == 0 and not kept.exists()
    commit.verify(tmp_path / "run")


def set_apart(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that was measured and found no room for its manifest."""
    with monkeypatch.context() as patch:
        patch.setattr(commit, "commit", busy)
        with pytest.raises(StoreError, match="could not become") as caught:
            finish(place)
    return Path(caught.value.hint.rpartition(" ")[2])


@pytest.mark.parametrize("step", ["write_json_atomic", "_rename"])
def test_the_record_of_a_failure_stays_until_the_run_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    kept = set_apart(tmp_path / "0", monkeypatch)
    write_status(tmp_path / "0", "failed(StoreError: full)")
    before = (tmp_path / "0" / "result.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(f"compressor.commit.folder.{step}", busy)
        with pytest.raises(SystemExit) as refused:
            finish_command([str(kept)])
    assert refused.value.code == StoreError.exit_code and kept.is_dir()
    commit.verify(tmp_path / "0")
    assert (tmp_path / "0" / "result.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"0", kept.name}
    with pytest.raises(SystemExit) as ended:
        finish_command([str(kept)])
    assert ended.value.code == 0 and [path.name for path in tmp_path.iterdir()] == ["0"]
    assert load_runs([tmp_path], verify=True).runs[0].overrides == ("method=distill",)


@pytest.mark.parametrize(
    "name",
    ["run.yaml", "result.json", LOSSES, "texts/test.parquet", "candidates/distill/model.safetensors"],
)
def test_a_file_that_cannot_be_read_is_not_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    kept = set_apart(tmp_path / "run", monkeypatch)
    path = kept / name
    path.write_bytes(path.read_bytes()[: 40 if name != LOSSES else 20])
    with pytest.raises(SystemExit) as refused:
        finish_command([str(kept)])
    assert refused.value.code == StoreError.exit_code and path.name in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (kept / commit.MANIFEST).exists()


def test_a_cell_that_a_command_is_running_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = set_apart(tmp_path / "a" / "0", monkeypatch)
    write_status(tmp_path / "a" / "0", "failed(StoreError: full)")
    (tmp_path / ledger.PLACE).mkdir()
    with commit.FolderLock(Cell(overrides=(), folder=tmp_path / "a" / "0", sweep=tmp_path).desk) as lock:
        assert lock.acquire()
        with pytest.raises(SystemExit) as refused:
            finish_command([str(kept)])
        assert refused.value.code == StoreError.exit_code and "a command is running the cell" in capsys.readouterr().err
        commit.verify(tmp_path / "a" / "0")
    with pytest.raises(SystemExit) as ended:
        finish_command([str(kept)])
    assert ended.value.code == 0


def busy(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "read-only")


def test_the_record_of_a_failure_is_not_set_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "commit", busy)
    with pytest.raises(StoreError, match="could not be written"), RunFolder(tmp_path / "0") as record:
        record.write_result(RunResult(status="oom(held 9 GB)", run_key="", task="", seed=0, seconds_total=0.0), [])
        record.commit()
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_long_name_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "commit", busy)
    name = "student.layers=6," * 7
    with pytest.raises(StoreError) as caught:
        finish(tmp_path / name)
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        finish_command([caught.value.hint.rpartition(" ")[2]])
    commit.verify(tmp_path / name)
    monkeypatch.setattr(commit, "commit", busy)
    with pytest.raises(StoreError) as caught:
        finish(tmp_path / ("x" * 250))
    assert caught.value.hint.startswith("mv "), "no room in the name to say that it is unfinished"


@pytest.mark.parametrize("name", ["run", ".unfinished-h", "run.unfinished-h-b-1-2", "gone.unfinished-h-b-1-2"])
def test_what_was_not_set_apart_is_not_finished(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not name.startswith("gone"):
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit) as ended:
        finish_command([str(tmp_path / name)])
    assert ended.value.code == StoreError.exit_code
    assert name in capsys.readouterr().err and not (tmp_path / "run" / "manifest.json").exists()


def test_the_price_of_the_machine_makes_no_other_run() -> None:
    cheap, dear = (RunConfig(bench=BenchConfig(price_per_hour=price)) for price in (None, 9.0))
    methods = Registry(methods={}, broken={})
    assert run_key(cheap, methods) == run_key(dear, methods)
    assert run_key(cheap, methods) != run_key(RunConfig(bench=BenchConfig(texts=5)), methods)
