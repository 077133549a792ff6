"""Everything that a cell started, found by a mark in the environment that children inherit.

A process group is not enough: measuring processes have groups of their own, so that they can be ended alone.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

MARK: Final = "COMPRESSOR_CELL"
_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Use(NamedTuple):
    """What the processes of a cell use together; the time of ended children counts once their parent has noticed."""

    cpu_seconds: float
    resident_bytes: int


def members(mark: str) -> list[int]:
    """Return the living processes that bear a mark; none where there is no /proc."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in _processes():
        with suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0") and _state(folder) != "Z":
                found.append(int(folder.name))
    return found


def use(pids: list[int]) -> Use:
    """Add up the processor time and the resident memory of some processes; pages that they share count each time."""
    seconds, resident = 0.0, 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            fields = _fields(_PROC / str(pid))
            seconds += sum(map(int, fields[11:15])) / _TICKS  # user, system, and the same of waited-for children
            resident += int(fields[21]) * _PAGE
    return Use(seconds, resident)


def end(mark: str, *, within_s: float = 5.0) -> list[int]:
    """Kill every process that bears the mark, those that are started meanwhile included; return who lives on."""
    deadline = time.monotonic() + within_s
    while (living := members(mark)) and time.monotonic() < deadline:
        for pid in living:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return living


def _processes() -> Iterator[Path]:
    with suppress(OSError):
        yield from (folder for folder in _PROC.iterdir() if folder.name.isdigit())


def _state(folder: Path) -> str:
    return _fields(folder)[0]


def _fields(folder: Path) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
