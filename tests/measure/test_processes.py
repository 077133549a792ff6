"""The supervisor: every way to fail is a typed error with the worker's own words."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compressor.errors import MeasureError, StoreError
from compressor.measure import processes
from compressor.measure.accuracy import measure_accuracy
from compressor.measure.candidate import Candidate
from compressor.measure.processes import run_worker

pytestmark = pytest.mark.usefixtures("openers")


def score(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str, timeout_s: float = 100.0):
    from dataclasses import replace

    monkeypatch.setattr(processes, "OPENER", f"worker_openers:{opener}")
    bench = replace(house.bench, timeout_s=timeout_s)
    return measure_accuracy(Candidate("it", house.folder / "teacher"), house.splits, house.task, tmp_path, bench=bench)


@pytest.mark.parametrize(
    ("opener", "words"),
    [
        ("raises", "RuntimeError: the opener broke"),
        ("exits_with_zero", "ended without a result"),
        ("segfaults", "killed by SIGSEGV"),
        ("not_finite", "not finite"),
    ],
)
def test_failures(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str, words: str) -> None:
    with pytest.raises(MeasureError, match=words) as caught:
        score(house, tmp_path, monkeypatch, opener)
    assert "'it'" in str(caught.value)


def test_a_users_error_keeps_its_type(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="the folder is damaged") as caught:
        score(house, tmp_path, monkeypatch, "user_error")
    assert caught.value.hint == "copy it again"


def test_a_hang_is_ended_with_its_children(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.3)
    started, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(MeasureError, match="did not finish within 8 s"):
        score(house, tmp_path, monkeypatch, "hangs", timeout_s=8.0)
    assert time.monotonic() - started < 15
    now = resource.getrusage(resource.RUSAGE_SELF)
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < 1.0  # the parent did not spin
    log = (tmp_path / "score-it" / "worker.log").read_text()
    child = int(log.split("child ")[1].split()[0])
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead but not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_flood_is_capped_and_survived(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasureError):
        score(house, tmp_path, monkeypatch, "floods")
    assert (tmp_path / "score-it" / "worker.log").stat().st_size <= 1_000_000


def test_a_stale_result_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"peak_bytes": 1}')
    with pytest.raises(MeasureError, match="KeyError"):
        run_worker({"kind": "nonsense"}, tmp_path, name="it", threads=1, timeout_s=60)


def test_threads_are_set_before_the_worker_starts() -> None:
    variables = processes.worker_environment(3)
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == variables["OPENBLAS_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "3"


def test_a_failure_ends_the_workers_beside_it(house, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from compressor.measure.accuracy import measure_accuracies

    monkeypatch.setattr(processes, "OPENER", "worker_openers:student_fails_others_hang")
    candidates = [Candidate(name, house.folder / name) for name in ("student", "teacher")]
    bench = replace(house.bench, timeout_s=90.0)
    started = time.monotonic()
    with pytest.raises(MeasureError, match="the student broke"):
        measure_accuracies(candidates, house.splits, house.task, tmp_path, bench=bench, processes=2)
    assert time.monotonic() - started < 60
    assert not processes.running


def test_a_worker_dies_with_its_parent(house, tmp_path: Path) -> None:
    job = {"kind": "score", "folder": str(house.folder / "teacher"), "form": "torch", "task": {}}
    script = (
        "from pathlib import Path; from compressor.measure import processes; "
        "processes.OPENER = 'worker_openers:hangs'; "
        f"processes.run_worker({job!r}, Path({str(tmp_path)!r}), name='it', threads=1, timeout_s=60)"
    )
    root = str(Path(processes.compressor.__file__).parent.parent)
    path = os.pathsep.join([root, os.environ["PYTHONPATH"]])
    parent = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": path})
    try:
        worker = wait_for_worker(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def wait_for_worker(parent: int) -> int:
    """Return the pid of the worker once it has begun its work."""
    deadline = time.monotonic() + 40
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while time.monotonic() < deadline:
        for pid in children.read_text().split():
            if Path(f"/proc/{pid}/task/{pid}/children").read_text().split():  # `hangs` has started its child
                return int(pid)
        time.sleep(0.1)
    raise AssertionError("no worker was started")
