"""The cache of fetched and converted assets: built once, by one process, verified on reading."""

from __future__ import annotations

import fcntl
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from compressor.commit import (
    discard,
    disk_errors,
    open_partial,
    partial_folder,
    sweep_leftovers,
    verify,
)
from compressor.errors import StoreError

CACHE_ENV: Final = "COMPRESSOR_CACHE"
ProgressFn = Callable[[str, int, int], None]
"""Called as `progress(label, done_bytes, total_bytes)` while bytes arrive, and at the end."""

_log = logging.getLogger(__name__)
_deeply_verified: set[Path] = set()


def cache_root() -> Path:
    """Return the cache folder: `COMPRESSOR_CACHE`, otherwise `~/.cache/compressor`."""
    configured = os.environ.get(CACHE_ENV)
    return Path(configured).expanduser().absolute() if configured else _default_root()


def _default_root() -> Path:
    return Path.home() / ".cache" / "compressor"


def assets_folder() -> Path:
    """Return where the converted assets lie, one folder each."""
    return cache_root() / "assets"


def usable(final: Path) -> bool:
    """Tell whether a cached folder is there and intact.

    The first call in a process compares every hash, later ones presence and sizes. A damaged
    folder is reported; whoever asked will build it anew.
    """
    if not final.exists():
        _deeply_verified.discard(final)
        return False
    try:
        verify(final, deep=final not in _deeply_verified)
    except StoreError as error:
        _log.warning("%s\n  it is built again", error)
        return False
    _deeply_verified.add(final)
    return True


def cached(final: Path, build: Callable[[Path], None], *, needed_bytes: int | None = None) -> Path:
    """Return the folder `final`, calling `build(partial)` first if it is absent or damaged.

    Of several processes that want the same folder one builds and the others wait for it.
    """
    if usable(final):
        return final
    with _locked(final):
        if usable(final):
            return final
        _set_aside(final)
        sweep_leftovers(final.parent)
        with partial_folder(final, keep_existing=True, needed_bytes=needed_bytes) as partial:
            build(partial)
        _deeply_verified.add(final)
    return final


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Lend a scratch folder on the cache's disk, removed afterwards, even after a crash."""
    parent = cache_root() / "scratch"
    sweep_leftovers(parent)
    folder = open_partial(parent / name)
    try:
        with disk_errors(folder):
            yield folder
    finally:
        discard(folder)


@contextmanager
def _locked(final: Path) -> Iterator[None]:
    """Hold the lock of one cached folder; the system drops it when the process dies."""
    path = cache_root() / "locks" / f"{final.parent.name}-{final.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")  # noqa: SIM115 - closed below, which also unlocks
    except OSError as error:
        raise StoreError(
            f"cannot write to the cache {cache_root()}: {error.strerror}",
            hint=f"{CACHE_ENV}=<a folder you may write to>",
        ) from error
    with stream:
        # A filesystem without locks (some network ones) costs a second download, nothing else:
        # the commit keeps whichever folder came first.
        with suppress(OSError):
            _lock(stream.fileno(), final)
        yield


def _lock(descriptor: int, final: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _log.info("another process is building %s; waiting for it", final.name)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _set_aside(final: Path) -> None:
    """Move a damaged folder out of the way in one step, then delete it."""
    if final.exists():
        trash = final.with_name(f".{final.name}.damaged-{uuid.uuid4().hex[:8]}")
        final.rename(trash)
        discard(trash)
