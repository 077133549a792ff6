"""Stopping on SIGINT and SIGTERM at a moment when everything can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and its state was saved if it has a place for it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """Whether a signal came."""

    def __init__(self) -> None:
        self.signum: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM of the body instead of dying of it; a second one acts at once.

    Outside the main thread signals cannot be caught, and nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signum, handler = before.popitem()
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def note(signum: int, frame: FrameType | None) -> None:
        request.signum = signum
        restore()

    for signum in _SIGNALS:
        before[signum] = signal.signal(signum, note)
    try:
        yield request
    finally:
        restore()
