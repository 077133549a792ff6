"""Energy of a graphics card: what a process makes of its counter, and who is asked for it. On a card: `test_cuda.py`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from compressor.errors import MeasureError
from compressor.measure import cuda_energy, cuda_energy_job
from compressor.measure.cuda_energy import with_cuda_energy
from compressor.measure.energy import Energy
from compressor.measure.latency import LatencyResult, LatencyRun, LatencySamples
from compressor.measure.workload import Replay

KNOWN = Energy(joules=30.0, seconds=12.0, calls=60, idle_watts=50.0)
BATCHES = tuple({"input_ids": np.ones((4, 8), np.int64)} for _ in range(3))


class Device:
    """A card that takes 50 W at rest and 3 J a call beside, on a clock that only it and sleeping move."""

    def __init__(self, a_call: float = 3.0, busy: int = 0) -> None:
        self.now, self.taken, self.calls, self.a_call, self.busy = 100.0, 7.0, 0, a_call, busy
        self.reason = None

    def joules(self) -> float:
        return self.taken

    def utilisation(self) -> int:
        return self.busy

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.taken += 50.0 * seconds

    def run(self, inputs: object) -> None:
        self.calls += 1
        self.taken += self.a_call
        self.sleep(0.5)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, object]:
    expected = tuple(np.zeros((4, 2), np.float32) for _ in BATCHES)
    Replay(inputs=BATCHES, positions=(), expected=expected).save(tmp_path / "replay.npz")
    return {"replay": str(tmp_path / "replay.npz"), "seconds": 12.0}


def counted(card: Device, job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Energy:
    monkeypatch.setattr(cuda_energy_job, "opened", lambda _: nullcontext(card))
    monkeypatch.setattr(cuda_energy_job, "time", SimpleNamespace(sleep=card.sleep, monotonic=lambda: card.now))
    monkeypatch.setattr(cuda_energy_job, "Card", lambda: card)
    return Energy(**cuda_energy_job.run(job, tmp_path))


def test_whole_passes_count_and_what_the_card_takes_at_rest_does_not(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Device()
    found = counted(card, job, tmp_path, monkeypatch)
    assert found.calls == 24 == card.calls - len(BATCHES), "whole passes in 12 s of 0.5 s a call, one before that"
    assert found.joules == pytest.approx(24 * 3.0) and found.idle_watts == pytest.approx(50.0)
    assert found.reason is None and found.seconds == pytest.approx(12.0)


def test_a_counter_that_does_not_rise_gives_a_reason(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = counted(Device(a_call=0.0), job, tmp_path, monkeypatch)
    assert found.joules is None and "did not rise" in str(found.reason)


def test_a_card_that_others_use_gives_a_reason(
    job: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = counted(Device(busy=30), job, tmp_path, monkeypatch)
    assert found.joules is None and found.reason == "other processes used the graphics card for 30 % of the time"


def test_without_the_extra_its_name_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'encoder-compressor[gpu]'" in str(cuda_energy_job.Card().reason)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    driver = SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption={"GPU-abc": 12_345}.__getitem__,
        nvmlDeviceGetUtilizationRates={"GPU-abc": SimpleNamespace(gpu=7)}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="abc"))
    return driver


def test_the_counter_is_of_the_device_that_torch_uses(nvml: SimpleNamespace) -> None:
    card = cuda_energy_job.Card()
    assert (card.reason, card.joules(), card.utilisation()) == (None, 12.345, 7)


def test_what_the_driver_says_is_the_reason(nvml: SimpleNamespace) -> None:
    def init() -> None:
        raise nvml.NVMLError("Driver Not Loaded")

    nvml.nvmlInit = init
    assert cuda_energy_job.Card().reason == "the graphics card's counter cannot be read: Driver Not Loaded"


def samples() -> LatencySamples:
    return LatencySamples(
        samples_ns=np.full((1, 3, 2, 3), 5_000_000),
        load_seconds=0.1,
        first_call_seconds=0.1,
        warmup_calls=3,
        same_prediction_rate=1.0,
        max_logit_difference=0.0,
        energy=Energy(joules=None, seconds=1.0, calls=18, idle_watts=None, reason="of the processors"),
    )


def test_what_was_timed_on_a_card_is_asked_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def result(runtime: str, *names: str) -> LatencyResult:
        timed = {name: samples() for name in names}
        return LatencyResult(runtime=runtime, threads=1, batch_size=4, timed=timed, null=samples(), refusals={})

    asked = []

    def answer(job: dict[str, object], folder: Path, **_: object) -> dict[str, object]:
        asked.append((job["runtime"], folder.name, job["kind"]))
        return asdict(KNOWN)

    monkeypatch.setattr(cuda_energy, "run_worker", answer)
    monkeypatch.setattr(cuda_energy, "replay_job", lambda scored, runtime, bench: {"runtime": runtime})
    run = LatencyRun(
        runtimes=(
            result("torch", "teacher", "student"),
            result("torch_cuda", "teacher", "student"),
            result("torch_fp16_cuda"),
        ),
        rounds=(),
    )
    candidates = [SimpleNamespace(candidate=SimpleNamespace(name=name)) for name in ("teacher", "student")]
    bench = SimpleNamespace(threads=1, timeout_s=5.0)
    found = with_cuda_energy(run, candidates, bench, tmp_path)  # type: ignore[arg-type]
    assert asked == [("torch_cuda", f"energy-{name}-torch_cuda", "cuda_energy") for name in ("teacher", "student")]
    assert found.runtimes[0] == run.runtimes[0] and found.runtimes[2] == run.runtimes[2]
    assert [one.energy for one in found.runtimes[1].timed.values()] == [KNOWN, KNOWN]


def test_a_process_that_fails_costs_its_figure_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MeasureError("it was killed by SIGKILL\n  | out of memory")

    monkeypatch.setattr(cuda_energy, "run_worker", fail)
    monkeypatch.setattr(cuda_energy, "replay_job", lambda scored, runtime, bench: {})
    scored = SimpleNamespace(candidate=SimpleNamespace(name="teacher"))
    found = cuda_energy._energy(scored, "torch_cuda", SimpleNamespace(threads=1, timeout_s=5.0), tmp_path)  # type: ignore[arg-type]
    assert found.joules is None and found.reason == "it was killed by SIGKILL"
