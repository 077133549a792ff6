"""Who owns a partial folder, and is that process still alive?

The owner stands in the folder's name, so that it is there from the first moment and never enters
a manifest. A pid alone may have been given to another process since: the start time settles it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

# A partial folder of another machine cannot be looked up; untouched this long, it is left over.
FOREIGN_AGE_S: Final = 7 * 24 * 3600.0


PARTIAL: Final = ".partial-"


def partial_name(final_name: str) -> str:
    """Return a fresh hidden name beside `final_name`, cut so that it cannot become too long."""
    return f".{final_name[:80]}{PARTIAL}{owner_tag()}-{uuid.uuid4().hex[:8]}"


def owner_tag() -> str:
    """Name this process: `<host>-<boot>-<pid>-<start time>`, in letters fit for a file name."""
    pid = os.getpid()
    return f"{_host()}-{_boot()}-{pid}-{_start_time(pid)}"


def is_abandoned(path: Path) -> bool:
    """Tell whether the process named in a partial's name can no longer finish it."""
    parts = path.name.rpartition(PARTIAL)[2].split("-")
    if len(parts) < 4 or parts[0] != _host() or not parts[2].isdigit():
        return _idle_s(path) > FOREIGN_AGE_S
    if parts[1] != _boot():
        return True
    pid = int(parts[2])
    return not _alive(pid) or _start_time(pid) != parts[3]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return _stat_fields(pid)[:1] != ["Z"]


def _start_time(pid: int) -> str:
    fields = _stat_fields(pid)
    return fields[19] if len(fields) > 19 else "0"


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@lru_cache(maxsize=1)
def _host() -> str:
    """Name the machine and the pid namespace: containers share the one but not the other."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return _short(socket.gethostname() + namespace)


@lru_cache(maxsize=1)
def _boot() -> str:
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return _short(boot)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _idle_s(path: Path) -> float:
    newest = 0.0
    for place in (path, *path.rglob("*")):
        with suppress(OSError):
            newest = max(newest, place.lstat().st_mtime)
    return time.time() - newest
