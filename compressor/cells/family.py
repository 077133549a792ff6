"""Everything that a cell started: who bears its mark in the environment, which children inherit, and who stems from it.

A process group is not enough: measuring processes have groups of their own, so that they can be ended alone. Neither sign is
enough alone: a process can clear its environment, and where there are no subreapers an orphan stems from the cell no more.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final, NamedTuple

from compressor.cells.kin import PROC, Kin, environment, fields, processes

MARK: Final = "COMPRESSOR_CELL"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Use(NamedTuple):
    """What the processes of a cell use together; the time of ended children counts once their parent has noticed."""

    cpu_seconds: float
    resident_bytes: int


def marked(mark: str) -> bytes:
    """Return what stands in the environment of who bears a mark."""
    return f"{MARK}={mark}".encode()


def members(mark: str, kin: Kin | None = None) -> list[int]:
    """Return the living processes that bear a mark, and those of `kin`; none where there is no /proc."""
    wanted = marked(mark)
    found = kin.living() if kin is not None else set()
    for folder in processes():
        with suppress(OSError):
            if wanted in environment(int(folder.name)) and fields(folder)[0] != "Z":
                found.add(int(folder.name))
    return sorted(found)


def use(pids: list[int]) -> Use:
    """Add up the processor time and the resident memory of some processes; pages that they share count each time."""
    seconds, resident = 0.0, 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            told = fields(PROC / str(pid))
            seconds += sum(map(int, told[11:15])) / _TICKS  # user, system, and the same of waited-for children
            resident += int(told[21]) * _PAGE
    return Use(seconds, resident)


def end(mark: str, kin: Kin | None = None, *, within_s: float = 5.0) -> list[int]:
    """Kill every member, those that are started meanwhile included; return who lives on."""
    deadline = time.monotonic() + within_s
    while (living := members(mark, kin)) and time.monotonic() < deadline:
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return living
