"""A measuring process that answers questions one at a time: the question is the token that several of them pass.

Between questions both sides sleep in the kernel, so that only the worker that was asked computes. A parent that polled, or a
worker that spun, would take a core from whoever is being timed.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from compressor.errors import MeasureError
from compressor.measure.processes import job_file, outcome, running, signal_group, worker_environment

_TO_END_S: Final = 10.0  # for a worker that has closed its ear; then it is killed
_CHUNK: Final = 1 << 16  # bytes read at once


def encoded(**values: Any) -> bytes:
    """Return a question or an answer as it is sent: JSON on a line."""
    return json.dumps(values, allow_nan=False).encode() + b"\n"


def decoded(line: bytes) -> dict[str, Any]:
    """Return what was sent."""
    return dict(json.loads(line))


class Hung(MeasureError):
    """A worker gave no answer."""


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
            timeout_s: For one answer; a worker that takes longer is ended.
            cores: The only cores it may run on; none: all that we may.
        """
        self._name, self._timeout_s = name, timeout_s
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(timeout_s)
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

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal_group(self._process, signal.SIGKILL)  # and whatever it left behind
        self._process.wait()
        running.discard(self._process)
        self._socket.close()

    def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question, wait for the answer; raises what `say` raises."""
        return decoded(self.say(encoded(**question)))

    def say(self, question: bytes) -> bytes:
        """Send an encoded question, wait for the answer and return it as it came.

        While somebody is timed, this is all that runs. After a model's call nothing of ours is in a cache any more, and every
        line of Python costs several times what it does in a loop: encoding and decoding would take another 0.6 ms of our time
        beside each call of 50 ms, where this takes 0.5.

        Raises:
            Hung: It did not answer in time, and is gone.
            MeasureError: It ended instead; the message holds its last lines.
            CompressorError: It met one of the user's errors; it is raised here as it was there.
        """
        try:
            self._socket.sendall(question)
            line = self._socket.recv(_CHUNK)
            while line and not line.endswith(b"\n"):
                more = self._socket.recv(_CHUNK)
                line = line + more if more else b""
        except TimeoutError:
            self._end(0.0)
            raise Hung(f"{self._name} gave no answer within {self._timeout_s:g} s and was ended") from None
        except OSError:  # it is gone
            line = b""
        if line:
            return line
        outcome(self._end(_TO_END_S), self._result, self._log, self._name, None)
        raise MeasureError(f"{self._name} ended before it was told to")

    def _end(self, seconds: float) -> int:
        """Wait so long for the end, then bring it about; return the exit code."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        signal_group(self._process, signal.SIGKILL)
        return self._process.wait()


class Listener:
    """The worker's side."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._questions = self._socket.makefile("rb")

    def question(self) -> dict[str, Any] | None:
        """Sleep until there is a question; None when nobody will ask any more."""
        line = self._questions.readline()
        return decoded(line) if line.endswith(b"\n") else None

    def answer(self, **values: Any) -> None:
        """Answer the last question."""
        self._socket.sendall(encoded(**values))
