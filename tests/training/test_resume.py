from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from toy_task import Toy, distillation_loss, sha256_of

from compressor.commit import FolderLock
from compressor.errors import Hopeless, StoreError
from compressor.training import floors, journal
from compressor.training.loop import Interrupted
from compressor.training.progress import Prefixed, silent_progress
from compressor.training.session import label_loss
from compressor.training.signals import TeacherSignals

STEPS = 12  # 2 epochs of 6


class HaltError(RuntimeError):
    """Stands for a crash."""


class Counter:
    """A hook with a state: how many steps it saw, and a crash on demand."""

    def __init__(self, halt_at: int | None = None) -> None:
        self.seen = torch.zeros(1)
        self.halt_at = halt_at

    def before_forward(self, step, total_steps):
        if step == self.halt_at:
            raise HaltError

    def after_step(self, step, total_steps):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen.copy_(state["seen"])


def train(folder, *, halt_at=None, loss=label_loss, seconds=0.0, progress=None, **changes):
    """Train the toy with dropout, a hook and an extra module; checkpoint after each step."""
    toy, hook, extra = Toy(), Counter(halt_at), torch.nn.Linear(2, 2)
    with torch.no_grad():
        extra.weight.copy_(torch.eye(2))
        extra.bias.zero_()
    model = toy.model()
    options = {"checkpoints": folder, "hooks": [hook], "extra_modules": {"extra": extra}}
    options |= {} if progress is None else {"progress": progress}

    def with_extra(inputs):
        return {**loss(inputs), "extra": 0.1 * extra(inputs.logits.float()).square().mean()}

    try:
        _, result = toy.fit(model, with_extra, options=options, checkpoint_seconds=seconds, **changes)
    except HaltError:
        return None
    return sha256_of(model), sha256_of(extra), float(hook.seen), result


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    return train(None)


@pytest.mark.parametrize("halt_at", [1, 4, 6, 11])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, uninterrupted, halt_at) -> None:
    assert train(tmp_path / "stage", halt_at=halt_at) is None
    names = [p.name for p in sorted((tmp_path / "stage").iterdir())]
    assert len(names) == min(halt_at, 2)
    model, extra, seen, result = train(tmp_path / "stage")
    assert (model, extra, seen) == uninterrupted[:3]
    assert result.resumed_from == f"step {halt_at}"
    assert [e.train for e in result.epochs] == [e.train for e in uninterrupted[3].epochs]
    assert [e.validation for e in result.epochs] == [e.validation for e in uninterrupted[3].epochs]
    assert (result.steps, result.tokens) == (STEPS, uninterrupted[3].tokens)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_run_that_goes_on_or_takes_over_has_the_whole_curve(tmp_path, seconds) -> None:
    def curve(name, stage, halt_at=None):
        place = tmp_path / name
        train(tmp_path / stage, halt_at=halt_at, seconds=seconds, progress=journal.Journal(silent_progress(), place))
        return journal.read(place)

    whole = curve("whole", "undisturbed")
    assert [line["step"] for line in whole if "epoch" not in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in whole if "epoch" in line] == [6, 12] and "hard" in whole[0]
    killed = curve("killed", "stage", halt_at=8)
    assert [line["step"] for line in killed] == [1, 2, 3, 4, 5, 6, 6, 7, 8]
    assert curve("resumed", "stage") == whole, "also the steps that the killed run took after its last checkpoint"
    assert curve("reused", "stage", halt_at=0) == whole
    noted = Prefixed(journal.Journal(silent_progress(), tmp_path / "baseline"), floors.BASELINE)
    train(tmp_path / "stage", halt_at=0, progress=noted)
    assert {line["stage"] for line in journal.read(tmp_path / "baseline")} == {"baseline training"}


def test_what_is_taken_over_is_in_the_curve_and_ends_no_training(tmp_path) -> None:
    train(tmp_path / "stage")
    floor = floors.Floor(
        mark=floors.Mark("training", 1, 2), metric="accuracy", score=2.0, higher_is_better=True, said="why"
    )
    watched = floors.Watched(journal.Journal(silent_progress(), tmp_path / "curve"), [floor])
    assert train(tmp_path / "stage", halt_at=0, progress=watched)[3].resumed_from == "finished"
    marks = [floors.mark_of(line["stage"], line) for line in journal.read(tmp_path / "curve")]
    assert [mark for mark in marks if mark] == [floor.mark, floors.Mark("training", 2, 2)]
    with pytest.raises(Hopeless):
        train(tmp_path / "other", progress=watched)


def test_a_finished_stage_is_not_run_again(tmp_path, uninterrupted) -> None:
    train(tmp_path / "stage")
    assert [p.name for p in (tmp_path / "stage").iterdir()] == ["finished"]
    model, extra, seen, result = train(tmp_path / "stage", halt_at=0)
    assert (model, extra, seen) == uninterrupted[:3] and result.resumed_from == "finished"
    assert result.best_epoch == uninterrupted[3].best_epoch and result.epochs


def test_what_a_process_killed_at_the_end_of_a_stage_left_is_removed(tmp_path, uninterrupted) -> None:
    folder = tmp_path / "stage"
    train(folder, halt_at=5)
    steps = [shutil.copytree(step, tmp_path / step.name) for step in folder.glob("step-*")]
    assert train(folder)[0] == uninterrupted[0]
    for step in steps:
        step.rename(folder / step.name)
    assert train(folder, halt_at=0)[3].resumed_from == "finished"
    assert [p.name for p in folder.iterdir()] == ["finished"]


def test_a_checkpoint_under_the_name_of_a_later_one_is_not_used(tmp_path, uninterrupted, caplog) -> None:
    folder = tmp_path / "stage"
    train(folder, halt_at=5)
    older, newer = sorted(folder.glob("step-*"))
    shutil.copytree(older, folder / "finished")
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    model, extra, seen, result = train(folder)
    assert (model, extra, seen) == uninterrupted[:3] and result.resumed_from == "step 4"
    told = [m for m in caplog.messages if f"it was written as {older.name}" in m]
    assert [name for m in told for name in ("finished", newer.name) if f"{name} is not used" in m] == [
        "finished",
        newer.name,
    ]


def test_a_reused_stage_says_so_and_keeps_its_time(tmp_path, caplog) -> None:
    first = train(tmp_path / "stage")[3]
    with caplog.at_level(logging.INFO, "compressor"):
        again = train(tmp_path / "stage")[3]
    assert f"training: finished before in {first.seconds:.0f} s; its weights are reused" in caplog.messages
    assert again.seconds == first.seconds > 0
    assert again.summary() == {**first.summary(), "resumed_from": "finished"}


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_summary_tells_of_the_weights_that_are_kept(toy, monkeypatch, keep_best) -> None:
    from compressor.training import stage
    from compressor.training.evaluate import Evaluation

    scores = iter([0.75, 0.5])
    monkeypatch.setattr(
        stage, "evaluate", lambda *a, **k: Evaluation(predictions=[], scores={"accuracy": next(scores)})
    )
    result = toy.fit(keep_best=keep_best)[1]
    assert (result.best_epoch, result.best_score) == (1, 0.75)
    told = result.summary()
    assert (told["kept_epoch"], told["validation"]) == (
        (1, {"accuracy": 0.75}) if keep_best else (2, {"accuracy": 0.5})
    )


def test_a_stage_that_another_run_is_at_work_on_is_waited_for(tmp_path, uninterrupted, caplog) -> None:
    train(tmp_path / "theirs")
    found = []
    with FolderLock(tmp_path / "stage") as theirs, caplog.at_level(logging.INFO, "compressor"):
        assert theirs.acquire()
        ours = threading.Thread(target=lambda: found.append(train(tmp_path / "stage", halt_at=0)))
        ours.start()
        while not any("waiting" in m for m in caplog.messages):
            assert ours.is_alive(), "it did not wait"
            time.sleep(0.05)
        (tmp_path / "theirs").rename(tmp_path / "stage")  # they finish
    ours.join(timeout=120)
    assert found[0][0] == uninterrupted[0] and found[0][3].resumed_from == "finished"


def test_helpers_take_no_lock_and_meet_the_main_process_after_each_look(tmp_path) -> None:
    from compressor.training.checkpoint import held

    class Helper:
        is_main = False
        met = 0

        def agree(self, *flags):
            assert flags == (False,)
            self.met += 1
            return (self.met == 3,)

    helper = Helper()
    with FolderLock(tmp_path / "stage") as main:
        assert main.acquire()
        with held(tmp_path / "stage", helper, logging.getLogger("compressor")):
            assert helper.met == 3


def test_how_often_is_saved_and_how_much_is_kept_are_no_other_settings(tmp_path) -> None:
    train(tmp_path / "stage")
    assert train(tmp_path / "stage", halt_at=0, seconds=5.0, cache_gb=1.0)[3].resumed_from == "finished"


DAMAGES = {
    "truncated": lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
    "zeroed": lambda f: f.write_bytes(bytes(f.stat().st_size)),
    "one bit": lambda f: f.write_bytes(f.read_bytes()[:-1] + bytes([f.read_bytes()[-1] ^ 1])),
    "missing": lambda f: f.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path, uninterrupted, caplog, damage, file
) -> None:
    folder = tmp_path / "stage"
    train(folder, halt_at=5)
    newest = sorted(folder.glob("step-*"))[-1]
    DAMAGES[damage](newest / file)
    with caplog.at_level(logging.WARNING, "compressor"):
        model, _, _, result = train(folder)
    assert any(newest.name in m and file in m for m in caplog.messages)
    assert model == uninterrupted[0] and result.resumed_from == "step 4"


def test_without_an_intact_checkpoint_the_stage_starts_anew(tmp_path, uninterrupted) -> None:
    folder = tmp_path / "stage"
    train(folder, halt_at=3)
    for step in folder.glob("step-*"):
        (step / "manifest.json").unlink()
    model, _, _, result = train(folder)
    assert model == uninterrupted[0] and result.resumed_from is None


def test_other_settings_do_not_continue(tmp_path) -> None:
    train(tmp_path / "stage", halt_at=3)
    with pytest.raises(StoreError, match="other settings"):
        train(tmp_path / "stage", learning_rate=1e-3)


def test_tensors_that_share_memory_are_kept_apart_and_together(tmp_path) -> None:
    from compressor.training.checkpoint import Checkpoints, Snapshot

    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"one": base, "same": base, "part": base[1:], "turned": base.t(), "none": torch.empty(0)}
    store = Checkpoints(tmp_path / "stage", {}, logging.getLogger("compressor"))
    store.write(Snapshot(parts={"model": tensors}, facts={"step": 1, "epoch": 0}))
    found = store.newest().parts["model"]
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert not list((tmp_path / "stage").rglob("*.bin")) and not list((tmp_path / "stage").rglob("*.pt"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_stops(tmp_path, uninterrupted, signum) -> None:
    before = signal.getsignal(signum)

    def loss(inputs):
        if inputs.step == 7:
            os.kill(os.getpid(), signum)
        return label_loss(inputs)

    with pytest.raises(Interrupted, match=signal.Signals(signum).name):
        train(tmp_path / "stage", loss=loss, seconds=1e9)
    assert signal.getsignal(signum) is before
    assert [p.name for p in (tmp_path / "stage").iterdir() if "step" in p.name][-1].startswith("step-")
    model, _, _, result = train(tmp_path / "stage")
    assert model == uninterrupted[0] and result.resumed_from == "step 8"


@pytest.mark.parametrize("point", ["checkpoint.part:7", "commit.before_manifest:3", "commit.after_rename:2"])
def test_a_killed_process_is_continued(tmp_path, uninterrupted, toy_path, point) -> None:
    folder = tmp_path / "stage"
    code = (
        f"import sys, torch; torch.set_num_threads(1); sys.path.insert(0, {toy_path!r})\n"
        f"from pathlib import Path\nfrom test_resume import train\ntrain(Path({str(folder)!r}))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "COMPRESSOR_FAILPOINT": point}, timeout=120
    )
    assert ended.returncode == 137
    model, _, _, result = train(folder)
    assert model == uninterrupted[0] and result.resumed_from is not None
    assert not list(folder.glob(".*partial*"))


def test_distillation_resumes_with_the_same_bits(tmp_path) -> None:
    def run(folder, halt_at=None):
        toy = Toy()
        model = toy.model()
        options = {
            "checkpoints": folder,
            "hooks": [Counter(halt_at)],
            "teacher": toy.teacher(TeacherSignals(logits=True)),
        }
        try:
            toy.fit(model, distillation_loss, options=options, checkpoint_seconds=0)
        except HaltError:
            return None
        return sha256_of(model)

    whole = run(None)
    run(tmp_path / "stage", halt_at=8)
    assert run(tmp_path / "stage") == whole
    shutil.rmtree(tmp_path / "stage")
