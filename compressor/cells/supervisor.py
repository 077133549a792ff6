"""Run one command in a session of its own, within limits, and say how it ended.

The parent sleeps in the kernel and looks every few seconds, so that it does not disturb what the cell times.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Final

from compressor.cells import family
from compressor.cells.kin import Kin
from compressor.config import CellConfig

_LOOK_S: Final = 5.0  # between looks at all processes of the machine: some milliseconds each
_MEMORY_LOOK_S: Final = 1.0  # the same where memory is bounded, and may grow fast
_GRACE_S: Final = 3.0  # between SIGTERM and SIGKILL
_PARTING_S: Final = 30.0  # an interrupted cell may save a checkpoint
_KILLS: Final = Path("/proc/vmstat")


class Stop(StrEnum):
    """Why a cell was ended by us."""

    wall = "wall"
    stall = "stall"
    silence = "silence"
    memory = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a cell's process ended.

    Attributes:
        code: Its exit code; negative for a signal.
        stop: The limit that it broke, if we ended it.
        seconds: How long it ran.
        peak_bytes: The most memory that its processes were seen to hold together.
        out_of_memory: Whether the system killed processes for want of memory meanwhile.
        survivors: Processes of the cell that could not be ended.
    """

    code: int
    stop: Stop | None
    seconds: float
    peak_bytes: int
    out_of_memory: bool
    survivors: tuple[int, ...] = ()


def supervise(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    limits: CellConfig,
    log: Path,
    show: Callable[[bytes], None] = lambda chunk: None,
) -> Ending:
    """Run a command to its end, or to the limit that it breaks; nothing that it started outlives it (`kin` says what may).

    Args:
        command: What to run.
        environment: Its environment, to which the mark of the cell is added.
        limits: Wall time, time without a sign of life, time without output, memory, size of the output.
        log: File for its output, standard error included.
        show: Gets the output too, piece by piece.

    Raises:
        KeyboardInterrupt: We were interrupted; the cell was told, and had half a minute to save its work.
    """
    mark = uuid.uuid4().hex
    start, kills = time.monotonic(), _system_kills()
    with Kin(family.marked(mark)) as kin:
        process = kin.start(lambda: _start(command, {**environment, family.MARK: mark}))
        assert process.stdout is not None
        watch = _Watch(limits, lambda: family.use(family.members(mark, kin)), start)
        survivors: list[int] = []
        try:
            with log.open("wb") as kept:
                output = _Output(process.stdout, kept, show, int(limits.log_mb * 1e6))
                stop = _until_end(process, output, watch)
                if stop is not None:
                    _ask(process, signal.SIGTERM, _GRACE_S)
        except KeyboardInterrupt:
            _ask(process, signal.SIGINT, _PARTING_S)
            raise
        finally:
            survivors = family.end(mark, kin)
            _ask(process, signal.SIGKILL, _GRACE_S)
            process.stdout.close()
    killed = (_system_kills() or 0) > (kills or 0)
    return Ending(
        code=process.returncode if process.returncode is not None else -signal.SIGKILL,
        stop=stop,
        seconds=time.monotonic() - start,
        peak_bytes=watch.peak_bytes,
        out_of_memory=killed,
        survivors=tuple(survivors),
    )


def _start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


class _Output:
    """Copies what a process prints, up to a bound; what is beyond it is read and dropped, so that nobody blocks."""

    def __init__(self, source: IO[bytes], kept: IO[bytes], show: Callable[[bytes], None], most: int) -> None:
        self.descriptor = source.fileno()
        self._kept, self._show, self._left = kept, show, most
        os.set_blocking(self.descriptor, False)

    def copy(self) -> bool:
        """Copy what is there; False once the other end is closed."""
        try:
            chunk = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return True
        if chunk and self._left > 0:
            part = chunk[: self._left]
            self._left -= len(part)
            if not self._left:
                part += b"\n[output beyond this is dropped: cell.log_mb]\n"
            self._kept.write(part)
            self._kept.flush()
            with suppress(OSError):  # whoever read it has gone; the cell works on, and its log is kept
                self._show(part)
        return bool(chunk)


class _Watch:
    """Looks at what a cell uses, and says which limit it breaks."""

    def __init__(self, limits: CellConfig, use: Callable[[], family.Use], start: float) -> None:
        self.peak_bytes = 0
        self._limits, self._use, self._start = limits, use, start
        self._alive, self._heard, self._cpu_seconds = start, start, 0.0
        self._look_s = _LOOK_S if limits.memory_gb is None else _MEMORY_LOOK_S
        self._looked = start

    @property
    def due(self) -> float:
        """When to look next, on the monotonic clock."""
        ends = [self._looked + self._look_s]
        if self._limits.timeout_s is not None:
            ends.append(self._start + self._limits.timeout_s)
        if self._limits.stall_s is not None:
            ends.append(self._alive + self._limits.stall_s)
        if self._limits.silent_s is not None:
            ends.append(self._heard + self._limits.silent_s)
        return max(min(ends), self._looked + 0.05)

    def heard(self) -> None:
        """Note that it printed."""
        self._alive = self._heard = time.monotonic()

    def look(self) -> Stop | None:
        """Return the limit that is broken now."""
        used = self._use()
        now = self._looked = time.monotonic()
        self.peak_bytes = max(self.peak_bytes, used.resident_bytes)
        if abs(used.cpu_seconds - self._cpu_seconds) >= 0.5:  # less when a process that used some is gone
            self._cpu_seconds, self._alive = used.cpu_seconds, now
        limits = self._limits
        if limits.memory_gb is not None and used.resident_bytes > limits.memory_gb * 1e9:
            return Stop.memory
        if limits.timeout_s is not None and now - self._start >= limits.timeout_s:
            return Stop.wall
        if limits.stall_s is not None and now - self._alive >= limits.stall_s:
            return Stop.stall
        if limits.silent_s is not None and now - self._heard >= limits.silent_s:
            return Stop.silence
        return None


def _until_end(process: subprocess.Popen[bytes], output: _Output, watch: _Watch) -> Stop | None:
    """Copy output until the process ends, whoever still holds its pipe; return the limit that it breaks before."""
    poll = select.poll()
    poll.register(output.descriptor, select.POLLIN)
    ended = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    try:
        if ended is not None:
            poll.register(ended, select.POLLIN)
        open_pipe = True
        while process.poll() is None:
            ready = {descriptor for descriptor, _ in poll.poll(max(0.0, watch.due - time.monotonic()) * 1000 + 1)}
            if output.descriptor in ready:
                watch.heard()
                if not output.copy():
                    poll.unregister(output.descriptor)
                    open_pipe = False
            if time.monotonic() >= watch.due and (stop := watch.look()) is not None:
                return stop
        while open_pipe and output.descriptor in {descriptor for descriptor, _ in poll.poll(0)}:
            open_pipe = output.copy()  # what it printed last
        return None
    finally:
        if ended is not None:
            os.close(ended)


def _ask(process: subprocess.Popen[bytes], number: signal.Signals, wait_s: float) -> None:
    """Signal the process's group and wait a while for its end."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(wait_s)


def _system_kills() -> int | None:
    """Return how many processes the system has killed for want of memory since it started; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in _KILLS.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None
