"""The mirror holds what the run folder holds, and nothing that befalls it touches the run."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor import account, commit, copies, tracking
from compressor.compare import load_runs
from compressor.config import TrackingConfig
from compressor.errors import ConfigError, MissingExtra, StoreError
from compressor.report.grid import Grid
from compressor.report.html.grids import draw

sys.path.insert(0, str(Path(__file__).parent))

import wandb_records  # noqa: E402 - found through the line above
from run_folders import Model, write_run, write_status  # noqa: E402
from wandb_records import records  # noqa: E402

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


def test_without_a_key_the_run_is_written_offline_and_is_whole(run, tmp_path: Path) -> None:
    ended = command(str(run.folder))
    assert ended.returncode == 0, ended.stderr
    assert "written offline; to send it: wandb sync " in ended.stdout
    found = records(tmp_path / "wandb")
    written = wandb_records.begun(found)
    assert written.run_id == tracking.identity(run) and written.project == "compressor"
    config = {item.key: json.loads(item.value_json) for item in written.config.update}
    assert config["overrides"] == list(run.overrides) and config["task.name"] == run.config["task"]["name"]
    summary = wandb_records.summary(found)
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


def test_a_lost_mirror_is_made_again_by_what_was_printed(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    wanted = TrackingConfig(kind="wandb", project="mine", entity="team", models=True, mode="offline")
    said = tracking.start(run.folder, wanted)
    monkeypatch.undo()
    folder, *typed = shlex.split(said.partition("the run folder is whole; again: python -m compressor.tracking ")[2])
    assert folder == str(run.folder)
    assert typed == ["--project", "mine", "--entity", "team", "--mode", "offline", "--models"]
    assert tracking._parser().parse_args([folder, *typed]).models


def test_a_folder_that_is_refused_is_not_called_whole(run, tmp_path: Path) -> None:
    (run.folder / "report.md").write_text("reparT\n")
    said = tracking.start(run.folder, TrackingConfig(kind="wandb", mode="offline"))
    assert said.startswith("not mirrored: StoreError") and said.endswith("the run folder is damaged")


def test_the_lost_mirror_of_an_agents_run_is_made_again_as_that_run(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as agent:
        given = {"WANDB_RUN_ID": "r0", "WANDB_SWEEP_ID": "s0", "WANDB_PROJECT": "sweeps", "WANDB_ENTITY": "team"}
        for name, value in given.items():
            agent.setenv(name, value)
        agent.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, "", ""))
        said = tracking.start(run.folder, TrackingConfig(kind="wandb"))
    assert "ended by SIGKILL" in said and said.endswith(f"{run.folder} --project sweeps --entity team")
    commit.verify(run.folder)
    assert command(*shlex.split(said)[-5:]).returncode == 0
    (sent,) = (tmp_path / "wandb").glob("offline-run-*")
    written = wandb_records.begun(records(sent))
    assert (written.run_id, written.sweep_id, written.project, written.entity) == ("r0", "s0", "sweeps", "team")
    assert command(str(run.folder)).returncode == 0, "nothing but the folder is typed, and it is the same run again"
    assert [p.name[-3:] for p in (tmp_path / "wandb").glob("offline-run-*")] == ["-r0"] * 2
    assert command(str(run.folder), "--project", "other").returncode == 0
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{tracking.identity(run)}"))) == 1


def test_what_is_noted_of_a_run_is_of_no_other_in_its_place(run, tmp_path: Path) -> None:
    copy = copies.Copy(id="r0", project="p", entity=None, sweep=None)
    copies.note(run.folder, copy)
    copies.note(run.folder, dataclasses.replace(copy, sent="offline"), instead_of=copy)
    assert [(c.id, c.sent) for c in copies.noted(run.folder)] == [("r0", "offline")]
    shutil.rmtree(run.folder)
    write_run(run.folder, Model(right=300))
    assert copies.noted(run.folder) == []
    next(run.folder.parent.glob(".run.mirrored*")).write_text('{"run": []')
    assert copies.noted(run.folder) == []


def test_a_place_that_never_took_a_copy_is_tried_no_more_once_another_has_it(
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = copies.Copy(id=tracking.identity(run), project="p", entity="wrong", sweep=None)
    right = dataclasses.replace(wrong, entity="right", sent="online")
    copies.note(run.folder, wrong)
    assert copies.wanted(run.folder, None, None, "p") == [wrong], "nobody has it yet"
    copies.note(run.folder, right)
    for project in ("p", None):
        assert copies.wanted(run.folder, project, None, "p") == [right]
    begun = []
    monkeypatch.setattr(tracking, "start", lambda *asked: begun.append(asked))
    assert tracking.catch_up(run.folder, TrackingConfig(kind="wandb", project="p", mode="online")) is None
    assert not begun
    copies.note(run.folder, wrong)  # typed once more, after the other
    assert copies.wanted(run.folder, None, None, "p") == [right]
    assert copies.wanted(run.folder, None, "wrong", "p") == [wrong], "it is named"
    lost = dataclasses.replace(wrong, id="r0", entity="right")
    copies.note(run.folder, lost)
    assert copies.wanted(run.folder, None, None, "p") == [lost], "another run at W&B, which nobody has seen"


def test_a_run_that_has_its_name_from_outside_goes_where_it_is_told(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "r0")
    copies.note(run.folder, copies.Copy(id="r0", project="p", entity="wrong", sweep=None))
    assert [copy.entity for copy in copies.wanted(run.folder, "p", "right", "p")] == ["right"]


def test_a_copy_is_caught_up_with_once(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sent() -> list[str]:
        return sorted(p.name.rpartition("-")[2] for p in (tmp_path / "wandb").glob("offline-run-*"))

    wanted = TrackingConfig(kind="wandb")
    assert tracking.catch_up(run.folder, TrackingConfig()) is None and not sent()
    assert "written offline" in (tracking.catch_up(run.folder, wanted) or "")
    assert tracking.catch_up(run.folder, wanted) is None and sent() == [tracking.identity(run)]
    monkeypatch.setenv("WANDB_RUN_ID", "r7")
    assert "written offline" in (tracking.catch_up(run.folder, wanted) or ""), "another run at W&B has nothing yet"
    assert tracking.catch_up(run.folder, wanted) is None and sent() == sorted([tracking.identity(run), "r7"])
    begun = []
    monkeypatch.setattr(tracking, "start", lambda *asked: begun.append(asked))
    tracking.catch_up(run.folder, TrackingConfig(kind="wandb", mode="online"))
    assert len(begun) == 1, "what was written offline is not at the server yet"


def test_what_could_not_be_mirrored_decides_the_exit_code(run, tmp_path: Path) -> None:
    damaged = write_run(tmp_path / "damaged", Model(right=300))
    (damaged / "report.md").write_text("reparT\n")
    write_status(tmp_path / "failed", "failed(DataError: empty)")
    ended = command(str(tmp_path))
    assert ended.returncode == StoreError.exit_code and "left out: " in ended.stderr
    assert "written offline" in ended.stdout
    shutil.rmtree(damaged)
    assert command(str(tmp_path)).returncode == 0, "a cell that failed, and W&B's own folder, are nothing to mirror"
    assert command(str(run.folder), str(tmp_path / "failed")).returncode == StoreError.exit_code, "it was named"


def test_a_run_that_is_refused_costs_no_other_its_copy(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "second", Model(right=300))

    def mirror(asked, *_: object, **__: object) -> str:
        if asked.folder == run.folder:
            raise ValueError("no such project")
        return f"sent {asked.folder.name}"

    monkeypatch.setattr(tracking, "mirror", mirror)
    with pytest.raises(SystemExit) as ended:
        tracking.main([str(run.folder), str(tmp_path / "second")])
    told = capsys.readouterr()
    assert ended.value.code == StoreError.exit_code and told.out == "sent second\n"
    assert "W&B took no copy" in told.err and "no such project" in told.err


def test_w_and_b_switched_off_is_no_copy(run, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = command(str(run.folder), WANDB_MODE="disabled")
    assert ended.returncode == ConfigError.exit_code and not ended.stdout
    assert "WANDB_MODE=disabled" in ended.stderr
    monkeypatch.setenv("WANDB_MODE", "disabled")
    said = tracking.start(run.folder, TrackingConfig(kind="wandb", entity="team"))
    assert said.startswith("not mirrored: ConfigError: WANDB_MODE=disabled") and said.endswith("--entity team")
    assert copies.noted(run.folder) == [], "nothing was begun"


def test_a_key_counts_for_the_server_that_is_asked(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    assert account.mode_of("auto") == "offline"
    keys = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(keys))
    keys.write_text(f"machine 127.0.0.1:9 login user password {'0' * 40}\n")
    assert account.mode_of("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert account.mode_of("auto") == "online"
    said = tracking.start(run.folder, TrackingConfig(kind="wandb", timeout_s=5))
    assert said.startswith("not mirrored"), "nobody listens, and nothing was written offline instead"
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    assert account.mode_of("auto") == "online", "`wandb login --host` wrote it"
    keys.write_text(f"machine api.wandb.ai login user password {'0' * 40}\n")
    assert account.mode_of("auto") == "offline"
    (tmp_path / "config" / "settings").unlink()
    assert account.mode_of("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert account.mode_of("auto") == "offline" and account.mode_of("online") == "online"


def test_the_library_reports_nothing_to_its_makers(run, tmp_path: Path) -> None:
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    told = "import os\nraise ImportError('reports: ' + os.environ.get('WANDB_ERROR_REPORTING', 'by default'))\n"
    (tmp_path / "site" / "wandb" / "__init__.py").write_text(told)
    ended = command(str(run.folder), PYTHONPATH=os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    assert "reports: false" in ended.stderr


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
