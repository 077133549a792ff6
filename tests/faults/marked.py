"""Everything that a command started, found by a mark in the environment that children inherit, however they detach."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "COMPRESSOR_FAULTS"


def living(mark: str, *, within_s: float = 0.0) -> dict[int, str]:
    """Return pid -> command of the processes that bear the mark, once there are none or the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        found = {pid: _command(pid) for pid in _pids(mark)}
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def end(mark: str) -> None:
    """Kill every process that bears the mark."""
    while pids := _pids(mark):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def _pids(mark: str) -> list[int]:
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            pid = int(folder.name)
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return "ended meanwhile"
