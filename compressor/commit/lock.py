"""One process at a time: the lock of a folder, which the system drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from io import BufferedWriter
from pathlib import Path
from types import TracebackType


class FolderLock:
    """The lock of a folder that is about to be made; it lies beside the folder, as `.<name>.lock`, and stays there.

    Where the place has no locks (some network filesystems) or cannot be written to, everybody gets it: work may then be
    done twice, and the commit keeps whichever folder came first.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder.parent / f".{folder.name[:80]}.lock"
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
