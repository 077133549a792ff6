"""A package index of our own: tiny wheels and sdists in a folder, and no other index."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from compressor.assets import CACHE_ENV, cache
from compressor.assets.packages import Member, Package

CONTENT = b"text,label\nfine,1\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def member(path: str, data: bytes = CONTENT, inner: str = "") -> Member:
    return Member(path=path, inner=inner, size_bytes=len(data), sha256=sha256(data))


def package_of(path: Path, version: str = "1.0", **members: Member) -> Package:
    data = path.read_bytes()
    return Package(
        name="tiny-data",
        version=version,
        filename=path.name,
        size_bytes=len(data),
        sha256=sha256(data),
        members=members,
    )


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def content() -> bytes:
    """What each member of the tiny packages holds."""
    return CONTENT


@pytest.fixture
def index_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all pip can see, and an empty cache."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_deeply_verified", set())
    return folder


@pytest.fixture
def wheel(index_folder: Path) -> Package:
    path = index_folder / "tiny_data-1.0-py3-none-any.whl"
    info = "tiny_data-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_data/rows.csv", CONTENT)
        archive.writestr("tiny_data/nested.tar.gz", tar_gz({"inner/rows.csv": CONTENT}))
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
    return package_of(
        path,
        rows=member("tiny_data/rows.csv"),
        nested=member("tiny_data/nested.tar.gz", inner="inner/rows.csv"),
    )


@pytest.fixture
def sdist(index_folder: Path) -> Package:
    """An sdist whose build code would fail at once if anyone ran it."""
    nested = tar_gz({"inner/rows.csv": CONTENT})
    path = index_folder / "tiny_data-1.0.tar.gz"
    files = {
        "tiny_data-1.0/setup.py": b"raise SystemExit('build code was run')",
        "tiny_data-1.0/rows.csv": CONTENT,
        "tiny_data-1.0/nested.tar.gz": nested,
    }
    path.write_bytes(tar_gz(files))
    return package_of(
        path,
        rows=member("tiny_data-1.0/rows.csv"),
        nested=member("tiny_data-1.0/nested.tar.gz", inner="inner/rows.csv"),
    )
