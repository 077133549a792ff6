"""`python -m compressor.compare` as it is typed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run_folders import Model, N, write_run, write_status  # noqa: E402 - found through the line above

from compressor import commit  # noqa: E402
from compressor.comparing import main  # noqa: E402
from compressor.results import CandidateResult, MetricValue  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_run(folder / "0", Model())
    write_run(folder / "1", Model(right=250, size_bytes=40_000_000), settings={"student.layers": 3})
    write_status(folder / "2", "failed(MeasureError: it crashed)")
    return folder


def code_of(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_the_table_is_printed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(place)])
    out = capsys.readouterr().out
    assert "teacher" in out and "student.layer" in out and "2: failed(MeasureError: it crashed)" in out


def test_strict_minds_folders_that_cannot_be_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(str(place), "--strict") == 7
    assert "it crashed" in capsys.readouterr().out, "the table comes all the same"
    main([str(place / "0"), str(place / "1"), "--strict"])


def test_an_answer_names_what_it_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(place), "--pick", "smallest", "--within", "10"])
    shown = capsys.readouterr()
    assert shown.out.startswith("Take distill as the smallest within 10 points of the teacher: 90.0 MB")
    assert "not compared: 2: failed(MeasureError: it crashed)" in shown.err
    main([str(place), "--diff", "distill", "distill student.layers=3"])
    assert "exact McNemar" in capsys.readouterr().out
    main([str(place), "--pareto"])
    assert "the front is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--pick", "smallest", "--within", "-1"], 2, "within=-1"),
        (["--pick", "fastest", "--runtime", "tensorrt"], 2, "tensorrt"),
        (["--within", "1"], 2, "--within without --pick"),
        (["--under-ms", "1"], 2, "--under-ms without --pick"),
        (["--task", "sst2"], 2, "--task without --pick"),
        (["--diff", "distill", "nobody"], 2, "no candidate is called 'nobody'"),
        (["--metric", "f1"], 2, "metric=f1"),
        (["--pick", "cheapest"], 2, "invalid choice"),
        (["--pareto", "--diff", "a", "b"], 2, "not allowed with"),
        (["--format", "pdf"], 2, "invalid choice"),
        (["--format", "html", "--pareto"], 2, "allowed: the whole comparison"),
        (["--plots", "plots", "--pareto"], 2, "--plots with --pareto"),
    ],
)
def test_errors_leave_with_their_code(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    assert code_of(str(place), *arguments) == code
    assert told in capsys.readouterr().err


def test_no_runs_leave_with_the_folders_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(str(tmp_path)) == 7
    assert "no run to compare" in capsys.readouterr().err
    assert code_of(str(tmp_path / "nowhere")) == 7


def test_out_writes_a_whole_file_or_none(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(place), "--format", "csv", "--out", str(tmp_path / "t.csv")])
    assert len(list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))) == 1 + 3 + 1
    main([str(place), "--format", "json", "--out", str(tmp_path / "t.json")])
    assert len(json.loads((tmp_path / "t.json").read_text())["candidates"]) == 3
    assert capsys.readouterr().out == ""
    before = (tmp_path / "t.csv").read_bytes()
    assert code_of(str(place), "--pick", "smallest", "--within", "-1", "--out", str(tmp_path / "t.csv")) == 2
    assert (tmp_path / "t.csv").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.json"], "no partial file is left"


def test_out_goes_behind_links_and_into_pipes(place: Path, tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "t.csv")
    main([str(place), "--format", "csv", "--out", str(tmp_path / "link.csv")])
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "t.csv").read_text().startswith("candidate,")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        main([str(place), "--format", "csv", "--out", str(tmp_path / "pipe")])
        assert read.result() == (tmp_path / "t.csv").read_text()
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("option", ["--out", "--archive", "--plots"])
def test_nothing_is_written_into_a_run_folder(place: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert code_of(str(place), option, str(place / "0" / "x.html")) == 2
    assert "a run folder, which it would damage" in capsys.readouterr().err
    assert not (place / "0" / "x.html").exists() and commit.is_complete(place / "0")


@pytest.mark.parametrize("option", ["--out", "--archive", "--plots"])
def test_an_empty_name_is_refused(place: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert code_of(str(place), option, "") == 2
    assert "an empty name" in capsys.readouterr().err
    assert code_of("") == 2


@pytest.mark.parametrize("where", [".", "/"])
def test_a_folder_is_no_file_to_write(place: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    assert code_of(str(place), "--out", where) == 2
    assert f"--out {where} is a folder" in capsys.readouterr().err


def test_a_task_without_the_metric_is_named_and_strict_minds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(), task="other", changes=with_metric("f1"))
    assert code_of(str(tmp_path), "--metric", "f1", "--strict") == 7
    shown = capsys.readouterr()
    assert "2 folders: 1 ok, 1 no such metric" in shown.out
    assert "a: no such metric ('f1' is not among accuracy)" in shown.out


def with_metric(name: str) -> dict:
    """Return changes to a run in which the metric has another name."""
    value = MetricValue(value=0.8, ci95=(0.7, 0.9), n=N, higher_is_better=True)
    candidates = [
        CandidateResult(name=n, role=r, lineage=(), parameters=1, size_bytes=1, metrics={name: value}, latency=())
        for n, r in (("teacher", "teacher"), ("distill", "result"))
    ]
    return {"candidates": tuple(candidates), "comparisons": ()}


@pytest.mark.parametrize("text", [None, "no JSON"])
def test_predictions_that_are_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    write_run(tmp_path / "a", Model())
    run = write_run(tmp_path / "b", Model(), settings={"student.layers": 3})
    file = run / "predictions" / "distill-test.parquet"
    table = pq.read_table(file)
    column = pa.array([text, *table["prediction"].to_pylist()[1:]])
    with commit.partial_folder(tmp_path / "c") as partial:
        for path in run.iterdir():
            if path.name != commit.MANIFEST:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, partial / path.name)
        table = table.set_column(table.schema.get_field_index("prediction"), "prediction", column)
        pq.write_table(table, partial / "predictions" / file.name)
    shutil.rmtree(run)
    main([str(tmp_path), "--diff", "distill", "distill student.layers=3"])
    assert "not compared: accuracy on rotten_tomatoes" in capsys.readouterr().out
    main([str(tmp_path)])
    assert "cannot be read" in capsys.readouterr().out


def test_plots_that_cannot_be_written_are_an_error(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert code_of(str(place), "--plots", str(tmp_path / "taken")) == 7
    assert "--plots" in capsys.readouterr().err


def test_a_page_is_written_with_the_command_that_made_it(place: Path, tmp_path: Path) -> None:
    main([str(place), "--format", "html", "--out", str(tmp_path / "page.html"), "--plots", str(tmp_path / "plots")])
    assert (tmp_path / "plots" / "tradeoff-bytes.svg").is_file()
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "2: failed(MeasureError: it crashed)" in page
    assert f"python -m compressor.compare {place.name} --format html --out page.html" in page
    assert str(tmp_path) not in page, "a page that is sent around tells nothing of where it was made"


def test_a_place_that_cannot_be_written_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(str(place), "--out", str(tmp_path / "no" / "t.txt")) == 7
    assert "t.txt" in capsys.readouterr().err


def test_the_module_is_light_and_can_be_run() -> None:
    code = "import sys, compressor.compare; print(sorted({'numpy', 'torch', 'scipy', 'pyarrow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
    code = (
        "import sys; sys.argv = ['x', '--help']\ntry:\n import runpy; runpy.run_module('compressor.compare', alter_sys=True,"
        " run_name='__main__')\nexcept SystemExit: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--pick" in found.stdout and found.stdout.endswith("False False\n")


def test_an_archive_keeps_what_the_table_needs(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(place), "--archive", str(tmp_path / "kept"), "--format", "csv"])
    shown = capsys.readouterr()
    assert f"kept 2 new results in {tmp_path / 'kept'}" in shown.err
    main([str(tmp_path / "kept"), "--format", "csv"])
    again = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    first = [row for row in csv.DictReader(shown.out.splitlines()) if row["parameters"]]
    assert [row["candidate"] for row in again] == [row["candidate"] for row in first]
