"""Who stems from a cell's process, whatever has become of their parents and of their environment.

While a cell runs, its orphans become children of ours and not the system's (Linux: a subreaper), so that the tree of processes
reaches them. So do orphans of what we started beside the cell, and where we are the first process of a container, everybody's;
the caller has children of its own too. A child of ours is therefore taken for the cell's only by a sign: it was seen below the
cell's process at an earlier look, its session or its group is that of a process seen there, it bears the cell's mark, or it can
write into the pipe of the cell's output. What the cell starts can never join our session, so nobody in it is looked at.

This misses a process that shows no sign: one that was started between two looks, in a session of its own, with another output
and with another environment (or as another user, so that we may read neither), and whose parents had ended by the next look. It
lives on, as a stranger's would. A stranger's that has ended is not reaped either: the caller may wait for it.
"""

from __future__ import annotations

import ctypes
import os
import stat
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
    group: int
    session: int
    started: int


class Kin:
    """The processes of one cell; to be entered before its first is started, and left when all have ended.

    Several may be entered in one process.

    Args:
        mark: What the cell's processes bear in their environment, as long as they keep it.
    """

    _lock: Final = threading.Lock()
    _entered: Final[list[Kin]] = []
    _before: Final[list[bool]] = []  # whether we were a subreaper, while any is entered

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self._root: tuple[int, int] | None = None  # like all that were seen: its number and when it was started
        self._seen: dict[int, int] = {}
        self._pipe = ""

    def __enter__(self) -> Kin:
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
        """Start the cell's first process; if its output is a pipe, whoever can write into that is of the cell."""
        with self._lock:  # until it runs its own program, another cell's process may hold our pipe, and ours another's
            process = start()
        if process.stdout is not None:
            self._pipe = f"pipe:[{os.fstat(process.stdout.fileno()).st_ino}]"
        with suppress(OSError):  # there is no /proc
            self._root = process.pid, _status(PROC / str(process.pid)).started
            self._seen = dict([self._root])
        return process

    def living(self) -> set[int]:
        """Return the processes that stem from the first and are alive; orphans that have ended are reaped."""
        with self._lock:
            table = statuses()
            found = self._ours(table)
            self._seen |= {pid: table[pid].started for pid in found}
            self._reap(table)
        return {pid for pid in found if table[pid].state != "Z"}

    def _ours(self, table: dict[int, Status]) -> set[int]:
        """Return the first process, its orphans, and all below them."""
        children: dict[int, list[int]] = {}
        for pid, status in table.items():
            children.setdefault(status.parent, []).append(pid)
        found = {pid for pid in table if self._is_ours(pid, table)}
        waiting = list(found)
        while waiting:
            below = [pid for pid in children.get(waiting.pop(), ()) if pid not in found]
            found.update(below)
            waiting += below
        return found

    def _is_ours(self, pid: int, table: dict[int, Status]) -> bool:
        """Tell whether a process is the first or, by one of the signs, an orphan of the cell's."""
        status = table[pid]
        if self._is_seen(pid, table):
            return True
        if status.parent != os.getpid() or status.session == os.getsid(0):
            return False
        led = any(self._is_seen(leader, table) for leader in (status.session, status.group))
        return led or self.mark in environment(pid) or _writes(pid, self._pipe)

    def _is_seen(self, pid: int, table: dict[int, Status]) -> bool:
        """Tell whether a process was seen below the first; one that is gone keeps its number while it leads others."""
        return pid in self._seen and (pid not in table or table[pid].started == self._seen[pid])

    def _reap(self, table: dict[int, Status]) -> bool:
        """Take leave of the orphans that have ended; tell whether there were any."""
        me, taken = os.getpid(), False
        ended = [
            pid for pid, s in table.items() if s.state == "Z" and s.parent == me and (pid, s.started) != self._root
        ]
        for pid in ended:
            if self._is_ours(pid, table):
                with suppress(ChildProcessError):
                    taken |= os.waitpid(pid, os.WNOHANG)[0] == pid
        return taken


def statuses() -> dict[int, Status]:
    """Return every process of the machine; none where there is no /proc."""
    found = {}
    for folder in processes():
        with suppress(OSError, ValueError, IndexError):
            found[int(folder.name)] = _status(folder)
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


def _status(folder: Path) -> Status:
    told = fields(folder)
    return Status(told[0], int(told[1]), int(told[2]), int(told[3]), int(told[19]))


def _writes(pid: int, pipe: str) -> bool:
    """Tell whether a process holds the end of a pipe that is written into, as far as we may look."""
    with suppress(OSError):
        for held in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):  # it has just been closed
                if str(held.readlink()) == pipe and held.lstat().st_mode & stat.S_IWUSR:
                    return True
    return False


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
