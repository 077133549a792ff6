"""Processes that are killed at random moments. They are forked from a server that has imported torch once, so each is cheap."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["compressor.training.loop", "compressor.tasks", "compressor.testing.tiny"])


def start(call: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process that calls a function of a module."""
    process = _SERVER.Process(target=call, args=arguments, daemon=True)
    process.start()
    return process


def kill_after(process: ForkServerProcess, seconds: float) -> bool:
    """Wait so long, then send SIGKILL; return whether it was still at work."""
    process.join(seconds)
    killed = process.is_alive()
    if killed and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return killed


def seconds_of(call: Callable[..., None], *arguments: Any) -> float:
    """Return how long a process takes that nobody kills."""
    started = time.monotonic()
    process = start(call, *arguments)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{call.__name__} ended with {process.exitcode}")
    return time.monotonic() - started
