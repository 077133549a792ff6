"""One timing at a time on a machine: two would measure each other."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compressor.commit import FolderLock, Waiting

_LOG = logging.getLogger("compressor")
_SECONDS: Final = 1.0  # between two looks


@contextmanager
def alone_on_this_machine() -> Iterator[None]:
    """Wait until no other run of this user times anything here, and keep others waiting for the length of the body.

    The lock lies where temporary files do, which machines do not share; it falls with the process that holds it.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with FolderLock(Path(tempfile.gettempdir()) / f"compressor-timing-{user}") as held:
        waiting = Waiting(_LOG, "another run to end its timing", look_s=_SECONDS)
        while not held.acquire():
            waiting.sleep()
        yield
