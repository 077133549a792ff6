"""Finding run folders: every one is found, and what is none or cannot be used is named with its reason."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import Model, N, write_run, write_status

from compressor import commit
from compressor.compare import compare, load_runs
from compressor.errors import StoreError
from compressor.report.comparison import comparison
from compressor.report.views import Format, render


def rejected(found) -> dict[str, tuple[str, str]]:
    return {r.name: (r.why.value, r.reason) for r in found.rejected}


def test_runs_are_found_below_sweep_folders_in_natural_order(tmp_path: Path) -> None:
    for name in ("sweep/10", "sweep/2", "other/deep/er"):
        write_run(tmp_path / name, Model())
    assert [r.name for r in load_runs([tmp_path]).runs] == ["other/deep/er", "sweep/2", "sweep/10"]
    assert [r.name for r in load_runs([tmp_path / "sweep" / "2"]).runs] == ["2"]


def test_a_folder_given_twice_is_read_once(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    found = load_runs([tmp_path, tmp_path / "a", tmp_path])
    assert (len(found.runs), len(found.rejected)) == (1, 0)


def test_a_copy_is_no_second_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    found = load_runs([tmp_path])
    assert [r.name for r in found.runs] == ["a"]
    assert rejected(found) == {"b": ("copy", "the same run as a")}


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good", Model())
    write_status(tmp_path / "failed", "failed(MeasureError: it crashed)", ["seed=1"])
    write_status(tmp_path / "skipped", "skipped(duplicate of 0)")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes" / "deep").mkdir(parents=True)
    (tmp_path / "notes" / "deep" / "a.txt").write_text("x")
    (tmp_path / ".x.partial-h-b-1-2").mkdir()
    (write_run(tmp_path / "torn", Model()) / "report.md").unlink()
    (write_run(tmp_path / "no_manifest", Model()) / "manifest.json").unlink()
    (write_run(tmp_path / "extra", Model()) / "more.txt").write_text("x")
    with commit.partial_folder(tmp_path / "model") as partial:
        (partial / "config.json").write_text("{}")
    found = load_runs([tmp_path])
    assert [r.name for r in found.runs] == ["good"]
    reasons = rejected(found)
    assert {name: why for name, (why, _) in reasons.items()} == {
        "failed": "failed", "skipped": "skipped", "empty": "no run", "notes": "no run", ".x.partial-h-b-1-2": "unfinished",
        "torn": "damaged", "no_manifest": "damaged", "extra": "damaged", "model": "no run",
    }  # fmt: skip
    assert reasons["failed"][1] == "failed(MeasureError: it crashed)"
    assert next(r for r in found.rejected if r.name == "failed").overrides == ("seed=1",)
    assert reasons["torn"][1] == "report.md is missing"
    assert "manifest.json is missing" in reasons["no_manifest"][1]
    assert "more.txt" in reasons["extra"][1]


def rewrite(folder: Path, name: str, text: str) -> Path:
    """Change a file of a run and its manifest with it, as a program would that writes such a file."""
    other = folder.with_name("rewritten")
    with commit.partial_folder(other) as partial:
        for path in folder.iterdir():
            if path.name not in ("manifest.json", name):
                (shutil.copytree if path.is_dir() else shutil.copy)(path, partial / path.name)
        (partial / name).write_text(text)
    shutil.rmtree(folder)
    return other


@pytest.mark.parametrize(
    ("changes", "why", "reason"),
    [
        ({"schema_version": 1}, "other schema", "schema_version 1"),
        ({"schema_version": 99}, "other schema", "schema_version 99"),
        ({"schema_version": None}, "damaged", "schema_version None"),
        ({"candidates": []}, "damaged", "teacher"),
        ({"seconds_total": float("nan")}, "damaged", "seconds_total"),
        ({"surplus": 1}, "damaged", "surplus"),
    ],
)
def test_a_result_that_cannot_be_read_is_named(tmp_path: Path, changes: dict, why: str, reason: str) -> None:
    folder = write_run(tmp_path / "a", Model())
    data = json.loads((folder / "result.json").read_text()) | changes
    rewrite(folder, "result.json", json.dumps(data))
    found = load_runs([tmp_path], needs_one=False)
    assert not found.runs
    assert found.rejected[0].why.value == why
    assert reason in found.rejected[0].reason


MULTIPLIED = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["a: [", "[]", "config: {task: 3}", "overrides: []", "[" * 100_000, MULTIPLIED, "config: &c {again: *c}"],
    ids=lambda text: text[:20],
)
def test_settings_that_cannot_be_read_are_named(tmp_path: Path, text: str) -> None:
    rewrite(write_run(tmp_path / "a", Model()), "run.yaml", text)
    found = load_runs([tmp_path], needs_one=False)
    assert [r.why.value for r in found.rejected] == ["damaged"]
    assert "run.yaml" in found.rejected[0].reason


@pytest.mark.parametrize("name", ["../../other/model", "..\\other", "/etc/passwd", "x" * 300])
def test_a_candidate_whose_name_leads_elsewhere_is_named(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "a", Model())
    data = json.loads((folder / "result.json").read_text())
    data["candidates"][1]["name"] = name
    rewrite(folder, "result.json", json.dumps(data))
    found = load_runs([tmp_path], needs_one=False)
    assert not found.runs and "holds the name" in found.rejected[0].reason


def altered(path: Path, old: bytes, new: bytes) -> None:
    """Change a file so that its size stays."""
    data = path.read_bytes()
    assert data.count(old) and len(old) == len(new)
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("result.json", b'"value": 0.8', b'"value": 0.9'),
        ("run.yaml", b"seed: 0", b"seed: 1"),
        ("predictions/distill-test.parquet", b"PAR1", b"PAR2"),
    ],
)
def test_a_file_that_tables_are_made_of_is_compared_by_its_hash(
    tmp_path: Path, name: str, old: bytes, new: bytes
) -> None:
    altered(write_run(tmp_path / "a", Model()) / name, old, new)
    found = load_runs([tmp_path], needs_one=False)
    assert not found.runs and found.rejected[0].reason.startswith(f"{name} has sha256")


def test_only_verify_reads_every_byte(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", Model())
    (folder / "report.md").write_text("rePort\n")
    assert len(load_runs([tmp_path]).runs) == 1
    found = load_runs([tmp_path], verify=True, needs_one=False)
    assert "sha256" in found.rejected[0].reason


def test_no_run_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is no folder"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(StoreError, match="no run to compare"):
        load_runs([])
    write_status(tmp_path / "a", "failed(TrainingError: the loss is not finite)")
    with pytest.raises(StoreError, match="the loss is not finite"):
        load_runs([tmp_path])
    assert len(load_runs([tmp_path], needs_one=False).rejected) == 1


def test_links_below_are_named_and_not_followed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "elsewhere" / "b", Model())
    write_run(tmp_path / "runs" / "a", Model())
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "b").symlink_to(run)
    found = load_runs(tmp_path / "runs")
    assert [r.name for r in found.runs] == ["a"]
    assert rejected(found) == {"b": ("link", "give the run folder that it leads to")}


def test_a_name_that_is_too_long_is_no_folder() -> None:
    with pytest.raises(StoreError, match="xxx is no folder"):
        load_runs("x" * 300)


def test_a_folder_behind_a_closed_door_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", Model())
    closed = write_run(tmp_path / "closed", Model())
    is_file, scandir = Path.is_file, os.scandir

    def door(path) -> None:
        if closed in (Path(path), *Path(path).parents):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", lambda path: door(path) or is_file(path))
    monkeypatch.setattr(os, "scandir", lambda path=".": door(path) or scandir(path))
    found = load_runs([tmp_path])
    assert [r.name for r in found.runs] == ["a"]
    assert rejected(found) == {"closed": ("damaged", "cannot be read: Permission denied")}


def test_a_name_that_is_no_text_is_shown_as_escapes(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model()).rename(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\nb"))
    found = load_runs([tmp_path])
    assert [r.name for r in found.runs] == ["a\\udcff\\nb"]
    assert "a\\\\udcff\\\\nb" in render(comparison(compare(found)), Format.json)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Model(size_bytes=-5), "size_bytes -5"),
        (Model(parameters=0), "parameters 0"),
        (Model(right=33_600), "accuracy 84"),
    ],
)
def test_what_no_model_can_have_is_damage(tmp_path: Path, model: Model, reason: str) -> None:
    run = write_run(tmp_path / "a", replace(model, right=320))
    if model.right != 320:
        read = json.loads((run / "result.json").read_text())
        read["candidates"][1]["metrics"]["accuracy"]["value"] = model.right / N
        run = rewrite(run, "result.json", json.dumps(read))
    (found,) = load_runs(tmp_path, needs_one=False).rejected
    assert found.why == "damaged" and found.reason == f"result.json says of distill: {reason}"


def test_a_teacher_without_a_metric_is_damage(tmp_path: Path) -> None:
    read = json.loads((write_run(tmp_path / "a", Model()) / "result.json").read_text())
    read["candidates"][0]["metrics"] = {}
    rewrite(tmp_path / "a", "result.json", json.dumps(read))
    (found,) = load_runs(tmp_path, needs_one=False).rejected
    assert (found.why, found.reason) == ("damaged", "result.json holds no metric of the teacher")
