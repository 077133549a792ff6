"""What the machine says about itself while a round is timed: throttling, pressure, stolen time, a battery.

A counter that cannot be read is None, and no conclusion is drawn from it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MAX_PRESSURE: Final = 0.10  # share of the time in which some task waited for a processor
MAX_STEAL: Final = 0.01  # share of processor time that the host gave to others

_PRESSURE = Path("/proc/pressure/cpu")
_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup/cpu.stat")
_SUPPLIES = Path("/sys/class/power_supply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Counters at one moment; `seconds` is of a monotonic clock, ticks are of all processors together."""

    seconds: float
    waited_us: int | None  # microseconds in which some task waited for a processor
    stolen_ticks: int | None
    all_ticks: int | None
    throttled: int | None  # periods in which the control group was stopped
    on_battery: bool | None


def read() -> Reading:
    """Read every counter."""
    stolen, ticks = _ticks()
    return Reading(
        seconds=time.monotonic(),
        waited_us=_waited_us(),
        stolen_ticks=stolen,
        all_ticks=ticks,
        throttled=_throttled(),
        on_battery=_on_battery(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What happened while calls were timed; shares are of 1, None is not known."""

    seconds: float
    pressure: float | None
    steal: float | None
    throttled: int | None
    on_battery: bool | None

    @classmethod
    def during(cls, spans: Sequence[tuple[Reading, Reading]]) -> Conditions:
        """Add up what happened from the first to the second reading of each span."""

        def grown(name: str) -> int | None:
            steps = [_minus(getattr(after, name), getattr(before, name)) for before, after in spans]
            return None if None in steps else sum(filter(None, steps))

        seconds = max(sum(after.seconds - before.seconds for before, after in spans), 1e-9)
        waited, stolen, ticks = grown("waited_us"), grown("stolen_ticks"), grown("all_ticks")
        return cls(
            seconds=seconds,
            pressure=None if waited is None else waited / 1e6 / seconds,
            steal=None if stolen is None or not ticks else stolen / ticks,
            throttled=grown("throttled"),
            on_battery=spans[-1][1].on_battery,
        )

    def complaints(self) -> list[str]:
        """Say what makes the round doubtful; nothing on a quiet machine."""
        said = []
        if self.pressure is not None and self.pressure > MAX_PRESSURE:
            said.append(f"tasks waited for a processor in {self.pressure:.0%} of the time")
        if self.steal is not None and self.steal > MAX_STEAL:
            said.append(f"the host took {self.steal:.0%} of the processors' time")
        if self.throttled:
            said.append(f"the control group was throttled {self.throttled} times")
        if self.on_battery:
            said.append("the machine ran on its battery")
        return said

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def _minus(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def _waited_us() -> int | None:
    line = _read(_PRESSURE).partition("\n")[0]
    total = line.rpartition("total=")[2]
    return int(total) if line.startswith("some") and total.isdigit() else None


def _ticks() -> tuple[int | None, int | None]:
    fields = _read(_STAT).partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None, None
    values = [int(f) for f in fields[1:9]]  # user nice system idle iowait irq softirq steal; guests are within user
    return values[7], sum(values)


def _throttled() -> int | None:
    for line in _read(_CGROUP).splitlines():
        name, _, value = line.partition(" ")
        if name == "nr_throttled":
            return int(value)
    return None


def _on_battery() -> bool | None:
    if not _SUPPLIES.is_dir():
        return None
    batteries = [p for p in _SUPPLIES.iterdir() if _read(p / "type") == "Battery"]
    return any(_read(p / "status") == "Discharging" for p in batteries)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
