"""The commit protocol: a folder counts once its manifest of hashes verifies, and not before.

Everything is written into a sibling `.<name>.partial-...` folder on the same filesystem. Then, in
this order: fsync the files, write `manifest.json` (size and sha256 of each file) last, fsync the
folders, rename to the final name, fsync the parent. A crash at any point leaves either no folder
under the final name or a complete one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from compressor.commit.files import (
    disk_errors,
    failpoint,
    free_bytes,
    fsync,
    sha256_file,
    write_json_atomic,
    write_text,
)
from compressor.commit.manifest import MANIFEST, SCHEMA_VERSION, is_complete, regular_files, verified_entries
from compressor.commit.owner import PARTIAL, is_abandoned, partial_name
from compressor.errors import StoreError


@contextmanager
def partial_folder(final: Path, *, keep_existing: bool = False, needed_bytes: int | None = None) -> Iterator[Path]:
    """Lend a folder to write into; it becomes `final` when the body ends without an exception.

    Args:
        final: May be absent or an empty directory; anything else is a `StoreError`.
        keep_existing: For caches: if a complete `final` has appeared meanwhile, ours is dropped.
        needed_bytes: Estimate of what will be written, refused at once if the disk lacks it.
    """
    partial = open_partial(final, keep_existing=keep_existing, needed_bytes=needed_bytes)
    try:
        with disk_errors(partial, needed_bytes):
            yield partial
        commit(partial, final, keep_existing=keep_existing)
    except BaseException:
        discard(partial)
        raise


def open_partial(final: Path, *, keep_existing: bool = False, needed_bytes: int | None = None) -> Path:
    """Create the partial folder for `final`; end it with `commit` or `discard`."""
    if not keep_existing:
        _refuse_taken(final)
    partial = final.parent / partial_name(final.name)
    try:
        with disk_errors(partial, needed_bytes):
            final.parent.mkdir(parents=True, exist_ok=True)
            if needed_bytes is not None and needed_bytes > free_bytes(final.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            partial.mkdir()
    except OSError as error:
        raise StoreError(
            f"cannot create a folder in {final.parent}: {error.strerror}",
            allowed="a folder that this user may write to",
        ) from error
    failpoint("commit.opened")
    return partial


def commit(partial: Path, final: Path, *, keep_existing: bool = False, replace: bool = False) -> None:
    """Make `partial` durable and give it its name; on an error `partial` is left as it is.

    Args:
        partial: What `open_partial` gave.
        final: Its name.
        keep_existing: If a complete `final` has appeared meanwhile, ours is dropped.
        replace: What has the name gives way, but not before ours is durable, and has it again if ours cannot take it.
    """
    failpoint("commit.before_fsync")
    files = regular_files(partial)
    files.pop(MANIFEST, None)
    for path in files.values():
        with disk_errors(path, path.stat().st_size):
            fsync(path)
    failpoint("commit.after_fsync")
    entries = {name: {"size": path.stat().st_size, "sha256": sha256_file(path)} for name, path in files.items()}
    failpoint("commit.before_manifest")
    write_json_atomic(partial / MANIFEST, {"schema_version": SCHEMA_VERSION, "files": entries})
    failpoint("commit.after_manifest")
    with disk_errors(partial):
        for folder in {partial, *(path.parent for path in files.values())}:
            fsync(folder)
        failpoint("commit.before_rename")
        with _out_of_the_way(final) if replace else nullcontext():
            _rename(partial, final, keep_existing=keep_existing)
        failpoint("commit.after_rename")
        fsync(final.parent)


def add_file(folder: Path, name: str, text: str) -> None:
    """Add a text file to a committed folder that lies inside one still in the making.

    In between the folder does not verify, so this is nothing for a folder that others may be reading.

    Raises:
        StoreError: The folder is damaged, or already holds a file of that name.
    """
    entries = verified_entries(folder)
    if name in entries:
        raise StoreError(f"{folder / name} already exists", allowed="a file that is not there yet")
    path = folder / name
    write_text(path, text)
    with disk_errors(path, path.stat().st_size):
        fsync(path)
    entries[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    write_json_atomic(folder / MANIFEST, {"schema_version": SCHEMA_VERSION, "files": entries})


def discard(partial: Path) -> None:
    """Remove a partial folder or file; one that is already gone is fine."""
    if partial.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
    else:
        with suppress(OSError):
            partial.unlink()


def set_aside(final: Path) -> None:
    """Move a damaged folder out of the way in one step, then delete it; one that is not there is fine.

    A process that dies in between leaves what `sweep_leftovers` removes.
    """
    trash = final.with_name(partial_name(final.name))
    with suppress(FileNotFoundError):
        final.rename(trash)
    discard(trash)


def sweep_leftovers(parent: Path) -> list[Path]:
    """Remove the partial folders and files in `parent` whose process is dead, and return them.

    Those of a live process stay, and so do recent ones of another machine or container, where
    the process cannot be looked up.
    """
    removed = []
    for path in sorted(parent.glob(f".*{PARTIAL}*")):
        if not path.is_symlink() and is_abandoned(path):
            discard(path)
            removed.append(path)
    return removed


@contextmanager
def _out_of_the_way(final: Path) -> Iterator[None]:
    aside = final.with_name(partial_name(final.name))
    final.rename(aside)
    try:
        yield
    except BaseException:
        aside.rename(final)
        raise
    discard(aside)


def _rename(partial: Path, final: Path, *, keep_existing: bool) -> None:
    try:
        partial.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        if not (keep_existing and is_complete(final)):
            raise _taken(final) from error
        discard(partial)


def _refuse_taken(final: Path) -> None:
    if final.is_symlink() or (final.exists() and (not final.is_dir() or any(final.iterdir()))):
        raise _taken(final)


def _taken(final: Path) -> StoreError:
    return StoreError(
        f"{final} already exists and is not an empty folder",
        allowed="a folder that does not exist yet; a finished one is never changed",
        hint="choose another folder, or move that one away",
    )
