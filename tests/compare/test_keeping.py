"""Small copies of run folders: the same table, whole by themselves, replaced only by a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import Model, write_run

from compressor.compare import compare, load_runs
from compressor.compare.keeping import keep_results
from compressor.errors import StoreError


def test_a_copy_gives_the_same_row_without_the_models(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", Model(right=330))
    write_run(tmp_path / "runs" / "b", Model(right=300), settings={"student.layers": 3})
    runs = load_runs([tmp_path / "runs"])
    kept = keep_results(runs.runs, tmp_path / "kept")
    assert [p.name for p in kept] == ["a", "b"]
    assert {p.name for p in (tmp_path / "kept" / "a").iterdir()} == {"manifest.json", "result.json", "run.yaml"}
    again = load_runs([tmp_path / "kept"], verify=True)
    assert not again.rejected
    for ours, theirs in zip(compare(runs).rows, compare(again).rows, strict=True):
        assert (ours.label, ours.parameters, ours.size_bytes) == (theirs.label, theirs.parameters, theirs.size_bytes)


def test_what_is_there_stays_and_what_changed_is_replaced(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", Model(right=330))
    keep_results(load_runs([tmp_path / "runs"]).runs, tmp_path / "kept")
    assert keep_results(load_runs([tmp_path / "runs"]).runs, tmp_path / "kept") == []
    assert keep_results(load_runs([tmp_path / "kept"]).runs, tmp_path / "kept") == []
    write_run(tmp_path / "later" / "a", Model(right=310))
    later = load_runs([tmp_path / "later"]).runs
    assert [p.name for p in keep_results(later, tmp_path / "kept")] == ["a"]
    (run,) = load_runs([tmp_path / "kept"], verify=True).runs
    assert run.result.run_key == later[0].result.run_key
    assert run.result.candidates[1].metrics == later[0].result.candidates[1].metrics
    assert all(c.path is None for c in run.result.candidates), "no folder of the machine that made it"


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", Model())
    (tmp_path / "kept" / "a").mkdir(parents=True)
    (tmp_path / "kept" / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="is no run folder"):
        keep_results(load_runs([tmp_path / "runs"]).runs, tmp_path / "kept")
    assert (tmp_path / "kept" / "a" / "thesis.txt").read_text() == "years of work"


def test_two_runs_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for sweep, right in (("s1", 330), ("s2", 300)):
        write_run(tmp_path / sweep / "0", Model(right=right))
    runs = load_runs([tmp_path / "s1", tmp_path / "s2"]).runs
    with pytest.raises(StoreError, match="two runs are called 0"):
        keep_results(runs, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_an_archive_below_is_left_out_and_a_copy_does_not_displace_its_original(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "z", Model(right=330))
    keep_results(load_runs([tmp_path / "runs"]).runs, tmp_path / "archive")
    again = load_runs([tmp_path], leave_out=tmp_path / "archive")
    assert [r.name for r in again.runs] == ["runs/z"] and not again.rejected
    both = load_runs([tmp_path])
    assert [r.name for r in both.runs] == ["runs/z"]
    assert [(r.name, r.why.value) for r in both.rejected] == [("archive/z", "copy")]
