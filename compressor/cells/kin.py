"""Who stems from a cell's process, whatever has become of their parents and of their environment.

While a cell runs, its orphans become children of ours and not the system's (Linux: a subreaper), so that the tree of processes
reaches them. A child of ours is such an orphan if it stands in another session than we do: what a cell starts can never join
ours, and what we start in a session of its own is a cell.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37


class Status(NamedTuple):
    """What /proc says of a process; `started` tells it from a later one of its number."""

    state: str
    parent: int
    session: int
    started: int


class Kin:
    """The processes of one cell; to be entered before its first is started, and left when all have ended.

    Several may be entered in one process. An orphan without a mark of its own then counts to each of them.

    Args:
        mark: What the cell's processes bear in their environment, as long as they keep it.
    """

    _lock: Final = threading.Lock()
    _entered: Final[list[Kin]] = []
    _before: Final[list[bool]] = []  # whether we were a subreaper, while any is entered

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self._root: int | None = None
        self._known: frozenset[tuple[int, int]] = frozenset()

    def __enter__(self) -> Kin:
        me = os.getpid()
        self._known = frozenset((pid, s.started) for pid, s in statuses().items() if s.parent == me)
        with self._lock:
            if not self._entered:
                self._before[:] = [_subreaper()]
                _set_subreaper(True)
            self._entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            while self._reap(statuses()):  # an ended orphan's own orphans come next
                pass
            self._entered.remove(self)
            if not self._entered:
                _set_subreaper(self._before[0])

    def start(self, start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        """Start the cell's first process; nobody takes it for an orphan meanwhile."""
        with self._lock:
            process = start()
            self._root = process.pid
        return process

    def living(self) -> set[int]:
        """Return the processes that stem from the first and are alive; orphans that have ended are reaped."""
        with self._lock:
            table = statuses()
            found = {*self._orphans(table), *([self._root] if self._root in table else [])}
            self._reap(table)
        children: dict[int, list[int]] = {}
        for pid, status in table.items():
            children.setdefault(status.parent, []).append(pid)
        waiting = list(found)
        while waiting:
            below = [pid for pid in children.get(waiting.pop(), ()) if pid not in found]
            found.update(below)
            waiting += below
        return {pid for pid in found if table[pid].state != "Z"}

    def _orphans(self, table: dict[int, Status]) -> list[int]:
        me, ours = os.getpid(), os.getsid(0)
        roots = {kin._root for kin in self._entered}
        others = [kin.mark for kin in self._entered if kin is not self]
        return [
            pid
            for pid, s in table.items()
            if s.parent == me and s.session != ours and pid not in roots and (pid, s.started) not in self._known
            if not any(mark in environment(pid) for mark in others)
        ]

    def _reap(self, table: dict[int, Status]) -> bool:
        """Take leave of the orphans that have ended; tell whether there were any."""
        taken = False
        for pid in self._orphans(table):
            if table[pid].state == "Z":
                with suppress(ChildProcessError):
                    taken |= os.waitpid(pid, os.WNOHANG)[0] == pid
        return taken


def statuses() -> dict[int, Status]:
    """Return every process of the machine; none where there is no /proc."""
    found = {}
    for folder in processes():
        with suppress(OSError, ValueError, IndexError):
            told = fields(folder)
            found[int(folder.name)] = Status(told[0], int(told[1]), int(told[3]), int(told[19]))
    return found


def processes() -> Iterator[Path]:
    """Yield the folder of each process in /proc."""
    with suppress(OSError):
        yield from (folder for folder in PROC.iterdir() if folder.name.isdigit())


def fields(folder: Path) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def environment(pid: int) -> list[bytes]:
    """Return the environment that a process was started with, as far as we may read it."""
    with suppress(OSError):
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return []


def _subreaper() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    answer = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _set_subreaper(wanted: bool) -> None:
    """Ask Linux to give us the orphans below us; elsewhere they stay the system's."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))
