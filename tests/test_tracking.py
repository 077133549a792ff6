"""The mirror holds what the run folder holds, and nothing that befalls it touches the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor import commit, tracking
from compressor.compare import load_runs
from compressor.config import TrackingConfig
from compressor.errors import ConfigError, MissingExtra
from compressor.report.grid import Grid
from compressor.report.html.grids import draw

sys.path.insert(0, str(Path(__file__).parent))

from run_folders import Model, write_run  # noqa: E402 - found through the line above

pytest.importorskip("wandb")


@pytest.fixture
def run(tmp_path: Path):
    write_run(tmp_path / "run", Model())
    return load_runs([tmp_path / "run"]).runs[0]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "compressor.tracking", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def records(place: Path) -> list:
    """Read the log that W&B's own sync would send: LevelDB's log format after a header of 7 bytes, a protobuf a record."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = next(place.rglob("*.wandb")).read_bytes()
    assert data[:4] == b":W&B"
    found, parts, at = [], b"", 7
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def test_without_a_key_the_run_is_written_offline_and_is_whole(run, tmp_path: Path) -> None:
    ended = command(str(run.folder))
    assert ended.returncode == 0, ended.stderr
    assert "written offline; to send it: wandb sync " in ended.stdout
    found = records(tmp_path / "wandb")
    begun = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    assert begun.run_id == tracking.identity(run) and begun.project == "compressor"
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert config["overrides"] == list(run.overrides) and config["task.name"] == run.config["task"]["name"]
    summary = {}
    for record in (r for r in found if r.WhichOneof("record_type") == "summary"):
        summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    expected = tracking.summary(run.result)
    assert expected["objective"] == run.result.candidates[-1].metrics["accuracy"].value
    assert {name: summary[name] for name in expected} == expected
    assert any(r.WhichOneof("record_type") == "exit" for r in found), "a mirror that is cut off has no end"


def test_no_text_of_the_users_leaves_with_the_page(run, tmp_path: Path) -> None:
    grid = Grid(
        title="g", header=("id", "label"), rows=(("7", "good"), ("8", "bad")), texts=("a secret", "</tr> <b>too")
    )
    page = f"<html>{draw([grid])}</html>"
    assert page.count("secret") == 1 and page.count("too") == 1
    commit.add_file(run.folder, tracking.PAGE, page)
    ended = command(str(run.folder))
    assert ended.returncode == 0, ended.stderr
    (sent,) = (tmp_path / "wandb").rglob("report*.html")
    assert "good" in sent.read_text() and "bad" in sent.read_text()
    for path in (tmp_path / "wandb").rglob("*"):
        assert not path.is_file() or b"secret" not in path.read_bytes(), path
    assert "too" not in sent.read_text()


def test_the_losses_of_every_step_are_in_it(run) -> None:
    steps = [{"stage": "distill", "step": n, "soft": 1.0 / n} for n in (1, 2, 3)]
    text = "".join(json.dumps(step) + "\n" for step in steps)
    (run.folder / tracking.LOSSES).write_text(text + '{"stage": "dist')  # a process that was killed while it wrote
    assert list(tracking.history(run)) == [{"distill/step": n, "distill/soft": 1.0 / n} for n in (1, 2, 3)]


def test_a_second_copy_is_the_same_run(run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.folder, tmp_path / "elsewhere")
    again = load_runs([tmp_path / "elsewhere"]).runs[0]
    assert tracking.identity(again) == tracking.identity(run)
    write_run(tmp_path / "other", Model(right=300))
    assert tracking.identity(load_runs([tmp_path / "other"]).runs[0]) != tracking.identity(run)


def test_a_mirror_that_fails_or_hangs_is_told_of_and_raises_nothing(run, tmp_path: Path) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("not a folder")
    os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:9"
    try:
        begun = time.monotonic()
        said = tracking.start(run.folder, TrackingConfig(kind="wandb", mode="online", timeout_s=8))
        assert time.monotonic() - begun < 30
    finally:
        del os.environ["WANDB_BASE_URL"]
    assert said.startswith("not mirrored") and f"python -m compressor.tracking {run.folder}" in said
    assert load_runs([run.folder], verify=True).runs, "the run folder is untouched"


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = command(str(tmp_path / "empty"))
    assert ended.returncode != 0 and "Traceback" not in ended.stderr


def test_bad_settings_and_a_missing_library_are_errors_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ({"kind": "mlflow"}, {"mode": "sometimes"}, {"timeout_s": 0}, {"project": ""}):
        with pytest.raises(ConfigError, match="tracking"):
            TrackingConfig(**bad)
    tracking.require(TrackingConfig())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tracking.require(TrackingConfig())
    with pytest.raises(MissingExtra, match="wandb"):
        tracking.require(TrackingConfig(kind="wandb"))
