"""Files that survive a crash: atomic JSON, hashes, disk errors by name, and failpoints."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from compressor.commit.owner import partial_name
from compressor.errors import CompressorError, StoreError

FAILPOINT_ENV: Final = "COMPRESSOR_FAILPOINT"
FAILPOINTS: Final = (
    "commit.opened",
    "commit.before_fsync",
    "commit.after_fsync",
    "commit.before_manifest",
    "commit.after_manifest",
    "commit.before_rename",
    "commit.after_rename",
    "json.before_write",
    "json.before_fsync",
    "json.before_rename",
    "json.after_rename",
)

_DISK_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here, as kill -9 would, if the environment names this point and it is the n-th hit."""
    wanted = os.environ.get(FAILPOINT_ENV)
    if not wanted:
        return
    target, _, count = wanted.partition(":")
    if target == name:
        _hits[name] += 1
        if _hits[name] == int(count or "1"):
            os._exit(137)


def sha256_file(path: Path) -> str:
    """Return the hex digest of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def disk_errors(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn "disk full", "quota exceeded", "file too large" and "I/O error" into a `StoreError`.

    Also understands libraries that report the errno only in their message (safetensors, pyarrow). Where nobody knows how much
    was needed, it was more than what is written by then.
    """
    try:
        yield
    except CompressorError:
        raise
    except Exception as error:  # libraries wrap the errno in kinds of their own; what is none is raised again
        code = _disk_errno(error)
        if code is None:
            raise
        needed = f"more than {_held_bytes(path):,} bytes" if needed_bytes is None else f"{needed_bytes:,} bytes"
        raise StoreError(
            f"{os.strerror(code)} while writing {path} (needed: {needed}, free: {free_bytes(path):,} bytes)",
            hint="free space, or choose another disk, and run the same command again",
        ) from error


def _disk_errno(error: Exception) -> int | None:
    code = error.errno if isinstance(error, OSError) else None
    if code is None:
        found = re.search(r"\b(?:os error|errno) (\d+)", str(error), re.IGNORECASE)
        code = int(found.group(1)) if found else None
    return code if code in _DISK_ERRNOS else None


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that holds `path`, or will hold it."""
    for place in (path, *path.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return 0


def _held_bytes(path: Path) -> int:
    """Return the bytes of a file, or of the files below a folder; 0 where there is nothing."""
    held = 0
    for place in (path, *path.rglob("*")):
        with suppress(OSError):
            held += place.stat().st_size if place.is_file() else 0
    return held


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or malformed one is a `StoreError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is not valid JSON: {error}") from error


def write_json_atomic(path: Path, obj: object) -> None:
    """Write JSON so that a reader sees the old file or the whole new one; NaN is refused."""
    write_text_atomic(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, into a folder that is still in the making: there half of one is no harm."""
    data = text.encode()
    with disk_errors(path, len(data)):
        path.write_bytes(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a text file, UTF-8, so that a reader sees the old file or the whole new one."""
    data = text.encode()
    temporary = path.with_name(partial_name(path.name))
    try:
        with disk_errors(path, len(data)):
            failpoint("json.before_write")
            with temporary.open("wb") as stream:
                stream.write(data)
                failpoint("json.before_fsync")
                stream.flush()
                os.fsync(stream.fileno())
            failpoint("json.before_rename")
            temporary.replace(path)
            failpoint("json.after_rename")
            fsync(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def fsync(path: Path) -> None:
    """Make a file, or the entries of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
