"""Start a measuring process, wait without spinning, and believe it only when its result file is there.

A waiting parent that polls doubles the latency it waits for, so the wait blocks in the kernel: on the output pipe
and, where the system has it, on the process itself (pidfd).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import compressor
from compressor import errors
from compressor.commit import read_json
from compressor.errors import CompressorError, MeasureError

OPENER = "compressor.store:load"  # what re-loads an artifact in the worker, as module:function
T = TypeVar("T")
R = TypeVar("R")

running: set[subprocess.Popen[bytes]] = set()
_LOG_BYTES: Final = 1_000_000  # output beyond this is read and dropped
_SHOWN_LINES: Final = 12
_GRACE_S: Final = 3.0  # between SIGTERM and SIGKILL


def run_worker(job: Mapping[str, Any], folder: Path, *, name: str, threads: int, timeout_s: float) -> dict[str, Any]:
    """Run one job in a fresh process and return its result.

    Args:
        job: Plain data for `compressor.measure.worker`.
        folder: The job's own folder; `job.json`, `worker.log` and what the worker writes stay in it.
        name: What error messages call the job.
        threads: Threads of every library in the worker.
        timeout_s: The worker's whole process group is ended after this.

    Raises:
        MeasureError: The worker crashed, hung or left no result; the message holds its last lines.
        CompressorError: The worker met one of the user's errors; it is raised here as it was there.
    """
    path = job_file(job, folder)
    result = folder / "result.json"
    # -P: the user's current folder must not shadow a module.
    command = [sys.executable, "-P", "-m", "compressor.measure.worker", str(path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=worker_environment(threads),
        start_new_session=True,
    )
    assert process.stdout is not None
    running.add(process)
    try:
        with (folder / "worker.log").open("wb") as log:
            ended = _wait(process, process.stdout, log, time.monotonic() + timeout_s)
        if not ended:
            signal_group(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
    finally:
        signal_group(process, signal.SIGKILL)  # and whatever it left behind
        process.wait()
        running.discard(process)
        process.stdout.close()
    return outcome(process.returncode, result, folder / "worker.log", name, None if ended else timeout_s)


def job_file(job: Mapping[str, Any], folder: Path) -> Path:
    """Write the file that tells a worker everything, and remove the result of one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    path = folder.resolve() / "job.json"
    facts = {"out": str(folder.resolve()), "opener": OPENER, "parent": os.getpid()}
    path.write_text(json.dumps({**job, **facts}, indent=1), encoding="utf-8")
    return path


def side_by_side(call: Callable[[T], R], items: Sequence[T], processes: int) -> list[R]:
    """Return `call` of each item, in order, with so many workers at a time; an interrupt ends them all."""
    with ThreadPoolExecutor(processes) as pool:
        calls = [pool.submit(call, item) for item in items]
        try:
            return [future.result() for future in calls]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                signal_group(process, signal.SIGKILL)
            raise


def worker_environment(threads: int) -> dict[str, str]:
    """Return the worker's environment: threads set before any library is loaded, no network, our code findable."""
    root = str(Path(compressor.__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: they share the cores with others
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def _wait(process: subprocess.Popen[bytes], output: IO[bytes], log: IO[bytes], deadline: float) -> bool:
    """Copy output to the log until the process ends; return False at the deadline."""
    poll = select.poll()
    poll.register(output, select.POLLIN)
    watch = os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else None
    written = 0
    try:
        if watch is not None:
            poll.register(watch, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if output.fileno() in ready:
                chunk = os.read(output.fileno(), 65536)
                log.write(chunk[: _LOG_BYTES - written])
                written += min(len(chunk), _LOG_BYTES - written)
                if chunk:
                    continue
                poll.unregister(output)  # closed, by the end or by the worker itself
                if watch is None:
                    break
            if watch in ready:
                return True
        if watch is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
                return True
        return False
    finally:
        if watch is not None:
            os.close(watch)


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a worker and everything that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def outcome(code: int, result: Path, log: Path, name: str, timed_out_s: float | None) -> dict[str, Any]:
    """Return the result of a worker that has ended, or raise what became of it."""
    if timed_out_s is not None:
        raise MeasureError(
            f"{name} did not finish within {timed_out_s:g} s and was ended{_tail(log)}",
            hint=f"bench.timeout_s={2 * timed_out_s:g}",
        )
    answer = read_json(result) if result.exists() else None
    if isinstance(answer, dict) and "error" in answer:
        raise _restored(answer["error"], name)
    if code < 0:
        cause = signal.Signals(-code).name
        memory = " (the system may have run out of memory)" if code == -signal.SIGKILL else ""
        raise MeasureError(f"{name} was killed by {cause}{memory}{_tail(log)}")
    if code != 0:
        raise MeasureError(f"{name} failed with exit code {code}{_tail(log)}")
    if not isinstance(answer, dict):
        raise MeasureError(f"{name} ended without a result{_tail(log)}")
    return answer


def _restored(error: Mapping[str, str], name: str) -> CompressorError:
    kind = getattr(errors, error["type"], MeasureError)
    restored: CompressorError = kind(f"{name}: {error['got']}", allowed=error["allowed"], hint=error["hint"])
    return restored


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    shown = [line for line in lines if line.strip()][-_SHOWN_LINES:]
    return "".join(f"\n  | {line[:300]}" for line in shown) or "; it printed nothing"
