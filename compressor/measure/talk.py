"""A measuring process that answers questions one at a time: the question is the token that several of them pass.

Between questions both sides sleep in the kernel, so that only the worker that was asked computes. A parent that polled, or a
worker that spun, would take a core from whoever is being timed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from compressor.errors import MeasureError
from compressor.measure.processes import job_file, outcome, running, signal_group, worker_environment

_LARGEST_FILE: Final = 1 << 28  # bytes; what a flood of output may fill of the disk


class Talker:
    """A worker of kind `job["kind"]` that takes JSON objects, one a line, and answers each; leaving the context ends it."""

    def __init__(
        self,
        job: Mapping[str, Any],
        folder: Path,
        *,
        name: str,
        threads: int,
        timeout_s: float,
        cores: Collection[int] = (),
    ) -> None:
        """Start the process.

        Args:
            job: Plain data for `compressor.measure.worker`.
            folder: The job's own folder; `job.json` and `worker.log` stay in it.
            name: What error messages call it.
            threads: Threads of every library in it.
            timeout_s: From now; a worker that has not answered by then is ended.
            cores: The only cores it may run on; none: all that we may.
        """
        self._name, self._timeout_s, self._deadline = name, timeout_s, time.monotonic() + timeout_s
        self._socket, theirs = socket.socketpair()
        path = job_file({**job, "talk": theirs.fileno(), "cores": sorted(cores)}, folder)
        self._result, self._log = folder / "result.json", folder / "worker.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "compressor.measure.worker", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=worker_environment(threads),
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
            )
        theirs.close()
        running.add(self._process)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
        self._replies = self._socket.makefile("rb")

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal_group(self._process, signal.SIGKILL)  # and whatever it left behind
        self._process.wait()
        running.discard(self._process)
        self._replies.close()
        self._socket.close()

    @property
    def cpu_seconds(self) -> float:
        """Processor time it has used, user and system; 0.0 where the system does not tell."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question, wait for the answer.

        Raises:
            MeasureError: It ended instead, or did not answer in time; the message holds its last lines. It is gone then.
            CompressorError: It met one of the user's errors; it is raised here as it was there.
        """
        try:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            self._socket.sendall(json.dumps(question).encode() + b"\n")
            line = self._replies.readline()
        except TimeoutError:
            signal_group(self._process, signal.SIGKILL)
            self._process.wait()
            outcome(0, self._result, self._log, self._name, self._timeout_s)
            raise
        except OSError:  # it is gone
            line = b""
        if line.endswith(b"\n"):
            return dict(json.loads(line))
        outcome(self._process.wait(), self._result, self._log, self._name, None)
        raise MeasureError(f"{self._name} ended before it was told to")


class Listener:
    """The worker's side."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._questions = self._socket.makefile("rb")

    def question(self) -> dict[str, Any] | None:
        """Sleep until there is a question; None when nobody will ask any more."""
        line = self._questions.readline()
        return dict(json.loads(line)) if line.endswith(b"\n") else None

    def answer(self, **values: Any) -> None:
        """Answer the last question."""
        self._socket.sendall(json.dumps(values, allow_nan=False).encode() + b"\n")
