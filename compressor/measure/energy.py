"""Energy of timed calls, from the processor packages' own counters (RAPL), where they can be read.

A package counts for everything that runs on it. So what it takes at rest is subtracted, calls take turns so that all but one
process sleep, and a round in which others computed gives no figure. Nothing is ever guessed from a processor's rated power.

A graphics card has a counter of its own, which `cuda_energy` reads. Calls on one have no figure here, rather than that of the
processors alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compressor.measure.schedule import Arm
from compressor.runtimes import get_runtime

POWERCAP: Final = Path("/sys/class/powercap")
_IDLE_S: Final = 2.0
# The counters move about once a millisecond (Intel SDM vol. 3B, RAPL interfaces): in a call so long that is at most 2 %.
_SHORTEST_CALL_S: Final = 0.05
_LEAST_S: Final = 10.0  # of calls, over all rounds
_OTHERS: Final = 0.05  # share of the calls' processor time that others may have used meanwhile
_STAT: Final = Path("/proc/stat")
_TICKS_A_SECOND: Final = 100  # /proc/stat's unit wherever Linux runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Of one model's calls: `joules` above what the packages take at rest, or the reason why it cannot be told."""

    joules: float | None
    seconds: float
    calls: int
    idle_watts: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Package:
    counter: Path
    wraps_at: int  # microjoules

    def read(self) -> int:
        return int(self.counter.read_text(encoding="ascii"))


class Meter:
    """Counts the energy of each arm's calls over one round; `reason` says why it cannot."""

    def __init__(self, root: Path = POWERCAP, *, idle_s: float = _IDLE_S) -> None:
        self.reason: str | None = None
        self._idle_s = idle_s
        self._packages: list[_Package] = []
        self._joules: dict[Arm, float] = {}
        self._idle_watts = 0.0
        self._busy: int | None = None  # ticks of all processors in the spans that count
        self._since: int | None = None
        self._counting = False
        try:
            self._packages = _packages(root)
            for package in self._packages:
                package.read()
        except (OSError, ValueError) as error:
            self.reason = f"the energy counters cannot be read: {type(error).__name__}"
        if not self._packages and self.reason is None:
            self.reason = "this machine shows no energy counters (RAPL)"

    def begin(self) -> None:
        """Start a round: forget the last one, and measure what the machine takes while every process sleeps."""
        self._joules = {}
        if self.reason is None:
            before, started = self.read(), time.monotonic()
            time.sleep(self._idle_s)
            self._idle_watts = self._between(before, self.read()) / (time.monotonic() - started)
        self._busy = 0
        self.resume()

    def resume(self) -> None:
        """Count what the processors do from here."""
        self._since, self._counting = _busy_ticks(), True

    def pause(self) -> None:
        """Count it no more, until `resume`: models are loaded, not called."""
        if self._counting and self._busy is not None:
            now = _busy_ticks()
            self._busy = None if now is None or self._since is None else self._busy + now - self._since
        self._counting = False

    def read(self) -> tuple[float, tuple[int, ...]]:
        """Return the moment and the counters, in microjoules."""
        return time.monotonic(), tuple(p.read() for p in self._packages) if self.reason is None else ()

    def add(self, arm: Arm, mark: tuple[float, tuple[int, ...]] | None) -> None:
        """Count what the machine took since `mark` for an arm, less what it would have taken at rest."""
        if mark is None or self.reason is not None:
            return
        now = self.read()
        self._joules[arm] = self._joules.get(arm, 0.0) + (
            self._between(mark, now) - self._idle_watts * (now[0] - mark[0])
        )

    def end(self, samples: Mapping[Arm, NDArray[np.int64]], *, threads: int) -> dict[Arm, Energy]:
        """Return each arm's energy over the round whose samples these are, in nanoseconds."""
        self.pause()
        seconds = {arm: float(ns.sum()) / 1e9 for arm, ns in samples.items()}
        doubt = self.reason or self._others(sum(seconds.values()) * threads)
        found = {}
        for arm, ns in samples.items():
            why = doubt
            if get_runtime(arm.runtime).device != "cpu":
                why = "a graphics card's counter moves too slowly to tell apart models that take turns"
            if why is None and float(np.median(ns)) / 1e9 < _SHORTEST_CALL_S:
                why = f"calls of {float(np.median(ns)) / 1e6:.0f} ms are too short for counters that move once a millisecond"
            found[arm] = Energy(
                joules=self._joules.get(arm) if why is None else None,
                seconds=seconds[arm],
                calls=int(ns.size),
                idle_watts=None if self.reason else self._idle_watts,
                reason=why,
            )
        return found

    def _between(self, before: tuple[float, tuple[int, ...]], after: tuple[float, tuple[int, ...]]) -> float:
        """Return the joules between two readings; a counter that became smaller has begun again."""
        steps = [a - b for a, b in zip(after[1], before[1], strict=True)]
        return sum(s if s >= 0 else s + p.wraps_at for s, p in zip(steps, self._packages, strict=True)) / 1e6

    def _others(self, ours: float) -> str | None:
        """Return a reason if other processes used the processors beside `ours`, in seconds of one."""
        if self._busy is None:
            return "the use of the processors cannot be read, so other work cannot be told apart"
        others = self._busy / _TICKS_A_SECOND - ours
        if others > _OTHERS * ours:
            return f"other processes used the processors for {others / max(ours, 1e-9):.0%} of the calls' time"
        return None


def total(parts: Sequence[Energy | None]) -> Energy | None:
    """Add up the rounds; one that cannot tell leaves nothing to add."""
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    seconds, reason = sum(p.seconds for p in known), next((p.reason for p in known if p.reason), None)
    joules = sum(p.joules or 0.0 for p in known)
    if reason is None and seconds < _LEAST_S:
        reason = f"{seconds:.1f} s of calls are too few; {_LEAST_S:g} s are needed"
    if reason is None and joules <= 0:
        reason = "the counters did not rise above what the machine takes at rest"
    return Energy(
        joules=None if reason else joules,
        seconds=seconds,
        calls=sum(p.calls for p in known),
        idle_watts=known[-1].idle_watts,
        reason=reason,
    )


def _packages(root: Path) -> list[_Package]:
    """Return the zones of whole packages; their parts, and the platform that holds them, would count twice."""
    found = []
    for zone in sorted(root.glob("*rapl:*")):
        if (zone / "name").is_file() and (zone / "name").read_text(encoding="ascii").strip().startswith("package"):
            wraps_at = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            found.append(_Package(zone / "energy_uj", wraps_at))
    return found


def _busy_ticks() -> int | None:
    """Return the ticks in which processors computed, all of them together."""
    try:
        fields = _STAT.read_text(encoding="ascii").partition("\n")[0].split()
        user, nice, system, _idle, _wait, irq, softirq = (int(f) for f in fields[1:8])
    except (OSError, ValueError):
        return None
    return user + nice + system + irq + softirq
