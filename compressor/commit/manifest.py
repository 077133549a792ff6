"""Reading a committed folder: what its manifest says, and whether the files still say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Final

from compressor.commit.files import read_json, sha256_file
from compressor.errors import StoreError

MANIFEST: Final = "manifest.json"
SCHEMA_VERSION: Final = 1

Deep = bool | Callable[[str], bool]


def verify(folder: Path, *, deep: Deep = True) -> None:
    """Raise a `StoreError` naming the first missing, changed or extra file of a folder.

    Args:
        folder: A folder that `commit` has finished.
        deep: Compare the sha256 of every file, or of those whose names it takes; presence and sizes are compared of all.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} does not exist", allowed="a finished folder")
    entries = _read_manifest(folder)
    present = regular_files(folder)
    present.pop(MANIFEST, None)
    for name, entry in sorted(entries.items()):
        hashed = deep if isinstance(deep, bool) else deep(name)
        _verify_file(folder, name, present.pop(name, None), entry, hashed=hashed)
    if present:
        raise _damaged(folder, f"{min(present)} is not in the manifest")


def verified_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file, after comparing presence and sizes."""
    verify(folder, deep=False)
    return _read_manifest(folder)


def is_complete(folder: Path, *, deep: Deep = True) -> bool:
    """Tell whether `verify` accepts the folder."""
    try:
        verify(folder, deep=deep)
    except StoreError:
        return False
    return True


def _verify_file(folder: Path, name: str, path: Path | None, entry: dict[str, Any], *, hashed: bool) -> None:
    if path is None:
        raise _damaged(folder, f"{name} is missing")
    size = path.stat().st_size
    if size != entry["size"]:
        raise _damaged(folder, f"{name} has {size:,} bytes, the manifest says {entry['size']:,}")
    if hashed and (digest := sha256_file(path)) != entry["sha256"]:
        raise _damaged(folder, f"{name} has sha256 {digest}, the manifest says {entry['sha256']}")


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    if not path.is_file():
        raise _damaged(folder, f"{MANIFEST} is missing: the folder was never finished")
    manifest = read_json(path)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise _damaged(folder, f"{MANIFEST} has schema_version {version!r}, not {SCHEMA_VERSION}")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or not all(map(_valid_entry, entries.items())):
        raise _damaged(folder, f"{MANIFEST} is malformed")
    return entries


def _valid_entry(item: tuple[str, Any]) -> bool:
    name, entry = item
    pure = PurePosixPath(name)
    return (
        not pure.is_absolute()
        and ".." not in pure.parts
        and isinstance(entry, dict)
        and type(entry.get("size")) is int
        and isinstance(entry.get("sha256"), str)
    )


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"{folder} is damaged or incomplete: {what}")


def regular_files(folder: Path) -> dict[str, Path]:
    """Return every file below, by its relative name; a link or a device is a `StoreError`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise StoreError(
                f"{path} is neither a file nor a folder",
                allowed="regular files and folders, whose bytes a manifest can vouch for",
            )
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path
    return found
