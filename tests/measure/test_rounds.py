"""The processes of a round: which cores they keep to, and what becomes of whoever fails in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.machine import core_numbers
from compressor.measure import latency, processes, rounds
from compressor.measure.latency import LatencyResult, measure_latency
from compressor.results import NULL
from compressor.runtimes import get_runtime


@pytest.mark.skipif(len(core_numbers()) < 2, reason="one core, or a system that pins nobody")
def test_every_thread_leaves_its_core_to_load_and_is_back_when_calls_are_timed() -> None:
    every = core_numbers()
    code = f"""
import os, threading
from compressor.measure.latency_job import Arms
threading.Thread(target=threading.Event().wait, daemon=True).start()
def at():
    return [sorted(os.sched_getaffinity(int(t))) for t in os.listdir("/proc/self/task")]
os.sched_setaffinity(0, {every[:1]})
arms = Arms({{"cores": {every[-1:]}, "all_cores": {every}}})
for what in "roam", "begin":
    arms.reply({{"do": what}})
    print(at())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    roaming, timed = map(json.loads, ended.stdout.splitlines())
    assert len(roaming) == len(timed) >= 2
    assert all(cores == every for cores in roaming) and all(cores == every[-1:] for cores in timed)


@pytest.mark.skipif(len(core_numbers()) < 2, reason="one core, or a system that pins nobody")
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_no_runtime_leaves_its_core_in_a_timed_call(house, scored, tmp_path: Path, runtime: str) -> None:
    if why := get_runtime(runtime).available():
        pytest.skip(why)
    place = latency._place(scored[1], get_runtime(runtime))
    with rounds._worker(runtime, replace(house.bench, threads=1), tmp_path, place) as worker:
        for load in range(2):
            if load:
                worker.ask(do="roam")
            worker.ask(do="load", arm="student", **place)
            worker.ask(do="warm", arm="student", calls=3)
            worker.ask(do="begin")
            for text in range(house.bench.texts):
                worker.ask(do="call", arm="student", text=text)
                threads = [int(task.name) for task in Path(f"/proc/{worker._process.pid}/task").iterdir()]
                assert {tuple(os.sched_getaffinity(thread)) for thread in threads} == {tuple(core_numbers()[-1:])}
            worker.ask(do="end")


def on_torch(house, scored, tmp_path: Path, **changes) -> LatencyResult:
    return measure_latency(scored, replace(house.bench, runtimes=["torch"], **changes), tmp_path, seed=0).runtimes[0]


def test_a_model_that_computes_something_else_is_refused(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers
) -> None:
    monkeypatch.setattr(processes, "OPENER", "worker_openers:disturbed")
    found = on_torch(house, scored, tmp_path)
    assert set(found.refusals) == {"teacher", "student"}
    assert "logits differ by up to 1.0e-02" in found.refusals["teacher"]
    assert found.timed == {}
    assert found.null is None


@pytest.mark.parametrize(
    ("opener", "words", "timeout_s"),
    [
        ("student_crashes", "SIGSEGV", 120.0),
        ("student_raises", "RuntimeError: the student broke", 120.0),
        ("student_crashes_late", "SIGSEGV", 120.0),
        ("student_hangs", "gave no answer within 20 s", 20.0),
    ],
)
def test_whoever_fails_is_refused_and_the_others_are_timed(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers, opener: str, words: str, timeout_s: float
) -> None:
    monkeypatch.setattr(processes, "OPENER", f"worker_openers:{opener}")
    found = on_torch(house, scored, tmp_path, timeout_s=timeout_s)
    assert list(found.timed) == ["teacher"] and found.null is not None
    assert words in found.refusals["student"]
    assert not processes.running


@pytest.mark.parametrize(
    ("way", "words"),
    [("raise", "RuntimeError: the student broke"), ("crash", "SIGSEGV"), ("hang", "gave no answer within 20 s")],
)
def test_who_fails_while_others_are_loaded_beside_is_the_only_one_refused(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers, way: str, words: str
) -> None:
    """With this seed the teacher is opened to get ready, so that the student's second opening is that of the second load."""
    monkeypatch.setattr(processes, "OPENER", "worker_openers:student_fails_beside")
    monkeypatch.setenv("STUDENT_FAILS_AT", "2")
    monkeypatch.setenv("STUDENT_FAILS_BY", way)
    bench = replace(house.bench, runtimes=["onnxruntime", "torch"], repeats=0, timeout_s=20.0)
    other, found = measure_latency(scored, bench, tmp_path, seed=0).runtimes
    assert list(other.timed) == ["teacher", "student"] and other.null is not None and other.refusals == {}
    assert list(found.timed) == ["teacher"] and found.null is not None
    assert words in found.refusals["student"]
    assert not processes.running


def test_where_all_are_refused_nobody_is_waited_for(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers
) -> None:
    monkeypatch.setattr(processes, "OPENER", "worker_openers:raises")
    found = on_torch(house, scored, tmp_path)
    assert found.timed == {} and found.null is None
    assert found.refusals == dict.fromkeys(["teacher", "student"], "RuntimeError: the opener broke")


@pytest.mark.parametrize(("number", "timed"), [(4, ["teacher", "student"]), (5, ["student"])])
def test_who_fails_at_a_later_load_ends_nobody_else(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers, number: int, timed: list[str]
) -> None:
    """With this seed the teacher is opened to get ready, and the second load begins with the null arm: its fourth opening."""
    monkeypatch.setattr(processes, "OPENER", "worker_openers:teacher_fails_later")
    monkeypatch.setenv("TEACHER_FAILS_AT", str(number))
    found = measure_latency(scored, replace(house.bench, runtimes=["torch"], repeats=0), tmp_path, seed=0).runtimes[0]
    assert list(found.timed) == timed and found.null is None
    assert found.refusals == {NULL if "teacher" in timed else "teacher": "RuntimeError: the teacher broke"}


def test_where_the_baseline_fails_there_is_no_null_arm(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers
) -> None:
    monkeypatch.setattr(processes, "OPENER", "worker_openers:student_crashes")
    found = on_torch(house, [scored[1], scored[0]], tmp_path)
    assert list(found.timed) == ["teacher"] and found.null is None
