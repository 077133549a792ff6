"""The cache: built once whoever asks, verified on reading, mended when damaged."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compressor
from compressor import commit
from compressor.assets import CACHE_ENV, cache, cache_root
from compressor.errors import StoreError

ROOT = Path(compressor.__path__[0]).parent

_BUILD = """
import sys, time
from pathlib import Path
from compressor.assets.cache import cached, cache_root
log = Path(sys.argv[1])

def build(partial):
    with open(log, "a") as stream:
        stream.write("built\\n")
    time.sleep(float(sys.argv[2]))
    (partial / "file").write_text("content")

print(cached(cache_root() / "assets" / "thing", build) / "file")
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_deeply_verified", set())
    return tmp_path / "cache"


def _start(log: Path, sleep_s: float, failpoint: str = "") -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), commit.FAILPOINT_ENV: failpoint}
    command = [sys.executable, "-c", _BUILD, str(log), str(sleep_s)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def _build(partial: Path) -> None:
    (partial / "file").write_text("content")


def test_processes_that_want_the_same_build_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [_start(log, 0.5) for _ in range(3)]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert Path(out.strip()).read_text() == "content"
    assert log.read_text() == "built\n"


@pytest.mark.parametrize("point", ["commit.opened", "commit.before_rename", "commit.after_rename"])
def test_a_crash_while_building_is_made_good_by_the_next(tmp_path: Path, own_cache: Path, point: str) -> None:
    crashed = _start(tmp_path / "log", 0, f"{point}:1")
    crashed.communicate(timeout=60)
    assert crashed.returncode == 137
    folder = own_cache / "assets" / "thing"
    assert not folder.exists() or commit.is_complete(folder)
    again = _start(tmp_path / "log", 0)
    assert again.communicate(timeout=60)[0].strip() == str(folder / "file")
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_folder_is_reported_and_built_again(
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    folder = cache.cached(own_cache / "assets" / "thing", _build)
    path = folder / "file"
    if damage == "flip":
        path.write_text("cOntent")
    elif damage == "truncate":
        path.write_text("cont")
    else:
        path.unlink()
    monkeypatch.setattr(cache, "_deeply_verified", set())  # as in the next process
    with caplog.at_level(logging.WARNING):
        cache.cached(folder, _build)
    assert "file" in caplog.text
    assert path.read_text() == "content"
    assert [path.name for path in folder.parent.iterdir()] == ["thing"]


def test_hashes_are_compared_once_a_process_and_sizes_always(own_cache: Path) -> None:
    folder = cache.cached(own_cache / "assets" / "thing", _build)
    (folder / "file").write_text("cOntent")
    assert cache.usable(folder)
    (folder / "file").write_text("short")
    assert not cache.usable(folder)


def test_a_failing_build_leaves_nothing(own_cache: Path) -> None:
    def fail(partial: Path) -> None:
        _build(partial)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.cached(own_cache / "assets" / "thing", fail)
    assert list((own_cache / "assets").iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot write to the cache") as caught:
        cache.cached(cache_root() / "assets" / "thing", _build)
    assert CACHE_ENV in caught.value.hint


def test_the_default_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_ENV)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "compressor"
