"""`python -m compressor.compare` as it is typed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run_folders import Model, write_run, write_status  # noqa: E402 - found through the line above

from compressor.comparing import main  # noqa: E402


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
