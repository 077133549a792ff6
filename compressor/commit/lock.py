"""One process at a time: the lock of a folder, which the system drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import time
from io import BufferedWriter
from pathlib import Path
from types import TracebackType
from typing import Final

_SAID_S: Final = 60.0
_LONGEST: Final = 80  # of a name; names that begin alike must not share a lock


class FolderLock:
    """The lock of a folder that is about to be made; it lies beside the folder, as `.<name>.lock`, and stays there.

    Where the place has no locks (some network filesystems) or cannot be written to, everybody gets it: work may then be
    done twice, and the commit keeps whichever folder came first.
    """

    def __init__(self, folder: Path) -> None:
        name = folder.name if len(folder.name) <= _LONGEST else f"{folder.name[:_LONGEST]}-{_digest(folder.name)}"
        self._path = folder.parent / f".{name}.lock"
        self._stream: BufferedWriter | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody has it, without waiting; tell whether it is ours."""
        try:
            if self._stream is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._path.open("ab")
            fcntl.flock(self._stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()  # which also unlocks
            self._stream = None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def any_held(place: Path) -> bool:
    """Tell whether somebody holds a lock that lies in a folder."""
    for path in place.glob(".*.lock"):
        try:
            with path.open("ab") as stream:
                fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue  # a place without locks
    return False


class Waiting:
    """Tells that we wait, at once and then every minute: who watches a process must see that it lives.

    Args:
        logger: Where it is told.
        what: What we wait for.
        look_s: Seconds between two looks at a lock.
    """

    def __init__(self, logger: logging.Logger, what: str, *, look_s: float) -> None:
        self._logger, self._what, self._look_s = logger, what, look_s
        self._next = time.monotonic()

    def sleep(self) -> None:
        """Wait until it is time to look again."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SAID_S
            self._logger.info("waiting for %s", self._what)
        time.sleep(self._look_s)
