"""What the machine says of itself: read from files, and never taken for quiet where it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.measure import noise
from compressor.measure.noise import Conditions

QUIET = {"seconds": 10.0, "pressure": 0.01, "steal": 0.0, "throttled": 0, "on_battery": False}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pressure", "stat", "cgroup", "supplies"):
        monkeypatch.setattr(noise, f"_{name.upper()}", tmp_path / name)
    return tmp_path


def write(folder: Path, *, waited: int, steal: int, idle: int, throttled: int) -> None:
    (folder / "pressure").write_text(f"some avg10=1.00 avg60=0.00 avg300=0.00 total={waited}\nfull avg10=0 total=9\n")
    (folder / "stat").write_text(f"cpu  100 0 100 {idle} 0 0 0 {steal} 50 0\ncpu0 1 1\n")
    (folder / "cgroup").write_text(f"usage_usec 5\nnr_periods 9\nnr_throttled {throttled}\n")


def test_counters_are_subtracted(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(noise.time, "monotonic", lambda: next(clock))
    write(files, waited=1_000_000, steal=10, idle=1000, throttled=3)
    before = noise.read()
    write(files, waited=3_500_000, steal=40, idle=1970, throttled=5)
    found = Conditions.during([(before, noise.read())])
    assert (found.seconds, found.pressure, found.steal, found.throttled) == (10.0, 0.25, 0.03, 2)
    assert [text.split()[0] for text in found.complaints()] == ["tasks", "the", "the"]


def test_what_cannot_be_read_is_unknown_and_no_complaint(files: Path) -> None:
    found = Conditions.during([(noise.read(), noise.read())])
    assert (found.pressure, found.steal, found.throttled, found.on_battery) == (None, None, None, None)
    assert found.complaints() == []
    assert found.to_json()["pressure"] is None


def test_a_battery_counts_while_it_is_drained(files: Path) -> None:
    (files / "supplies" / "BAT0").mkdir(parents=True)
    (files / "supplies" / "BAT0" / "type").write_text("Battery\n")
    for status, told in (("Charging", False), ("Discharging", True)):
        (files / "supplies" / "BAT0" / "status").write_text(f"{status}\n")
        assert noise.read().on_battery is told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, None),
        ({"pressure": 0.11}, "11%"),
        ({"steal": 0.02}, "2%"),
        ({"throttled": 4}, "4 times"),
        ({"on_battery": True}, "battery"),
    ],
)
def test_limits(changed: dict, told: str | None) -> None:
    said = Conditions(**(QUIET | changed)).complaints()
    assert said == [] if told is None else len(said) == 1 and told in said[0]
