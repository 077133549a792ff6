"""Energy counters, on a folder that looks like the kernel's: what they give, and when they give nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.measure import energy
from compressor.measure.energy import Energy, Meter, total
from compressor.measure.schedule import Arm

ARM, OTHER = Arm("torch", "teacher"), Arm("torch", "student")
CALLS = {ARM: np.full((2, 3), 2_000_000_000), OTHER: np.full((2, 3), 500_000_000)}  # nanoseconds


def zone(root: Path, number: str, name: str, microjoules: int, wraps_at: int = 1_000_000) -> Path:
    place = root / f"intel-rapl:{number}"
    place.mkdir(parents=True)
    (place / "name").write_text(f"{name}\n")
    (place / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else computes, and time stands still."""
    monkeypatch.setattr(energy, "_busy_ticks", lambda: 0)
    monkeypatch.setattr(energy.time, "monotonic", iter(range(10**6)).__next__)


def test_a_machine_without_counters_gives_a_reason_and_no_number(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "none", idle_s=0.0)
    meter.begin()
    meter.add(ARM, meter.read())
    found = meter.end(CALLS, threads=1)[ARM]
    assert found.joules is None and found.idle_watts is None and "no energy counters" in found.reason


def test_counters_that_may_not_be_read_give_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 5)
    monkeypatch.setattr(energy._Package, "read", lambda self: (_ for _ in ()).throw(PermissionError("root only")))
    meter = Meter(tmp_path, idle_s=0.0)
    assert meter.reason == "the energy counters cannot be read: PermissionError"
    assert meter.end(CALLS, threads=1)[ARM].joules is None


def test_calls_on_a_graphics_card_have_no_figure_of_the_processors_alone(tmp_path: Path, quiet: None) -> None:
    counter, arm = zone(tmp_path, "0", "package-0", 0), Arm("torch_cuda", "teacher")
    meter = Meter(tmp_path, idle_s=0.0)
    meter.begin()
    for each in (ARM, arm):
        mark = meter.read()
        counter.write_text(f"{int(counter.read_text()) + 300_000}")
        meter.add(each, mark)
    found = meter.end({each: CALLS[ARM] for each in (ARM, arm)}, threads=1)
    assert found[ARM].joules == pytest.approx(0.3)
    assert found[arm].joules is None and "graphics card" in found[arm].reason


def test_packages_alone_count_and_rest_is_subtracted(tmp_path: Path, quiet: None) -> None:
    counters = [zone(tmp_path, "0", "package-0", 0), zone(tmp_path, "1", "package-1", 0)]
    for number, name in (("0:0", "core"), ("2", "psys")):
        zone(tmp_path, number, name, 0)
    meter = Meter(tmp_path, idle_s=0.0)
    meter.begin()
    assert meter._idle_watts == 0.0
    meter._idle_watts = 0.1  # a tick of the clock above is a second
    mark = meter.read()
    for counter in counters:
        counter.write_text("300000")
    meter.add(ARM, mark)
    found = meter.end(CALLS, threads=1)
    assert found[ARM].joules == pytest.approx(0.6 - 0.1)
    assert found[ARM].calls == 6 and found[ARM].seconds == 12.0 and found[ARM].idle_watts == 0.1


def test_a_counter_that_began_again_is_no_negative_energy(tmp_path: Path, quiet: None) -> None:
    counter = zone(tmp_path, "0", "package-0", 900_000)
    meter = Meter(tmp_path, idle_s=0.0)
    meter.begin()
    mark = meter.read()
    counter.write_text("200000")
    meter.add(ARM, mark)
    meter.add(OTHER, meter.read())
    assert meter.end(CALLS, threads=1)[ARM].joules == pytest.approx(0.3)


def test_short_calls_and_other_work_give_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 0)
    ticks = iter([0, 2000, 0, 1520])  # of 10 ms; the calls take 15 s
    monkeypatch.setattr(energy, "_busy_ticks", lambda: next(ticks))
    meter = Meter(tmp_path, idle_s=0.0)
    meter.begin()
    for arm in CALLS:
        meter.add(arm, meter.read())
    assert meter.end(CALLS, threads=1)[ARM].reason == "other processes used the processors for 33% of the calls' time"
    meter.begin()
    meter.add(ARM, meter.read())
    short = {ARM: np.full((1000, 3), 5_000_000)}
    assert "5 ms are too short" in meter.end(short, threads=1)[ARM].reason


def test_what_is_computed_between_two_loads_is_no_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone(tmp_path, "0", "package-0", 0)
    ticks = iter([0, 700, 9000, 9800])  # 15 s of calls in two spans, and 83 s of loading in between
    monkeypatch.setattr(energy, "_busy_ticks", lambda: next(ticks))
    meter = Meter(tmp_path, idle_s=0.0)
    meter.begin()
    for arm in CALLS:
        meter.add(arm, meter.read())
    meter.pause()
    meter.resume()
    meter.pause()
    assert meter.end(CALLS, threads=1)[ARM].reason is None


def test_rounds_add_up_and_what_one_lacks_all_lack() -> None:
    one = Energy(joules=4.0, seconds=6.0, calls=6, idle_watts=2.0)
    both = total([one, one])
    assert both is not None and (both.joules, both.seconds, both.calls) == (8.0, 12.0, 12)
    assert total([one, None]) is None and total([]) is None
    unknown = total([one, Energy(joules=None, seconds=6.0, calls=6, idle_watts=2.0, reason="noise")])
    assert unknown is not None and unknown.joules is None and unknown.reason == "noise"
    few = total([one])
    assert few is not None and few.joules is None and "6.0 s of calls are too few" in few.reason
    still = total([Energy(joules=0.0, seconds=60.0, calls=6, idle_watts=2.0)])
    assert still is not None and still.joules is None and "did not rise" in still.reason
