"""The commit protocol under crashes at every failpoint, full disks, and what dead owners left."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import compressor.commit as c
from compressor.commit import files, owner
from compressor.errors import StoreError

SOURCE = Path(c.__file__).parent


def _write(partial: Path) -> None:
    (partial / "weights.bin").write_bytes(bytes(range(256)) * 64)


def _entries(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


# Crashes --------------------------------------------------------------------------------------

_CRASH = """
import sys
from pathlib import Path
from compressor import commit as c
parent = Path(sys.argv[1])
c.write_json_atomic(parent / "value.json", {"value": "new"})
with c.partial_folder(parent / "run") as partial:
    (partial / "weights.bin").write_bytes(b"x" * 1000)
"""


def _run_crashing(parent: Path, point: str) -> int:
    env = os.environ | {c.FAILPOINT_ENV: point, "PYTHONPATH": str(SOURCE.parents[1])}
    return subprocess.run([sys.executable, "-c", _CRASH, str(parent)], env=env, check=False).returncode


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("point", c.FAILPOINTS)
def test_a_crash_leaves_the_old_or_the_new_and_never_half(tmp_path: Path, point: str, hit: int) -> None:
    c.write_json_atomic(tmp_path / "value.json", {"value": "old"})
    code = _run_crashing(tmp_path, f"{point}:{hit}")
    assert code == (137 if hit == 1 or point.startswith("json.") else 0)
    assert c.read_json(tmp_path / "value.json")["value"] in ("old", "new")
    final = tmp_path / "run"
    assert not final.exists() or c.is_complete(final)
    c.sweep_leftovers(tmp_path)
    assert not list(tmp_path.glob(".*"))
    if not final.exists():
        assert _run_crashing(tmp_path, "") == 0
    c.verify(final)


def test_every_failpoint_in_the_source_is_listed_and_the_reverse() -> None:
    text = "".join(path.read_text() for path in SOURCE.glob("*.py"))
    assert sorted(re.findall(r'failpoint\("([^"]+)"\)', text)) == sorted(c.FAILPOINTS)


# Disks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_fsync_is_a_store_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    value = tmp_path / "value.json"
    c.write_json_atomic(value, {"value": "old"})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError) as caught, c.partial_folder(tmp_path / "run") as partial:
        _write(partial)
    message = str(caught.value)
    assert os.strerror(code) in message
    assert re.search(r"needed: [\d,]+ bytes, free: [\d,]+ bytes", message)
    assert str(tmp_path) in message
    with pytest.raises(StoreError, match=r"value\.json"):
        c.write_json_atomic(value, {"value": "new"})
    assert _entries(tmp_path) == ["value.json"]
    assert c.read_json(value) == {"value": "old"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ],
)
def test_a_full_disk_in_the_body_is_a_store_error(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(StoreError, match="while writing"), c.partial_folder(tmp_path / "run"):
        raise error
    assert _entries(tmp_path) == []


def test_what_nobody_estimated_needed_more_than_is_there(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="needed: more than 16,384 bytes"),
        c.partial_folder(tmp_path / "run") as partial,
    ):
        _write(partial)
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_keep_their_type(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), c.partial_folder(tmp_path / "run"):
        (tmp_path / "absent").read_text()


def test_an_estimate_beyond_the_free_space_is_refused_before_any_work(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"needed: 1,000,000,000,000,000,000 bytes"),
        c.partial_folder(tmp_path / "run", needed_bytes=10**18),
    ):
        pytest.fail("the body must not run")
    assert _entries(tmp_path) == []


def test_a_parent_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot create a folder"):
        c.open_partial(tmp_path / "file" / "run")


@pytest.mark.parametrize("value", [float("nan"), {"x": float("inf")}, {1, 2}])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path: Path, value: object) -> None:
    path = tmp_path / "value.json"
    c.write_json_atomic(path, [1])
    with pytest.raises((ValueError, TypeError)):
        c.write_json_atomic(path, value)
    assert c.read_json(path) == [1]
    assert _entries(tmp_path) == ["value.json"]


# Leftovers ------------------------------------------------------------------------------------


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_leftovers_of_dead_owners_are_swept(tmp_path: Path) -> None:
    alive = c.open_partial(tmp_path / "run")
    host, boot, pid, start = owner.owner_tag().split("-")
    tags = {
        "dead": f"{host}-{boot}-{_dead_pid()}-{start}",
        "reused pid": f"{host}-{boot}-{pid}-1",
        "before reboot": f"{host}-00000000-{pid}-{start}",
    }
    foreign = tmp_path / f".a{owner.PARTIAL}00000000-{boot}-{pid}-{start}-0"
    foreign.mkdir()
    gone = [tmp_path / f".run{owner.PARTIAL}{tag}-0" for tag in tags.values()]
    for path in gone:
        path.mkdir()
        (path / "file").write_text("x")
    assert sorted(c.sweep_leftovers(tmp_path)) == sorted(gone)
    assert alive.is_dir()
    assert foreign.is_dir()
    long_ago = time.time() - owner.FOREIGN_AGE_S - 60
    os.utime(foreign, (long_ago, long_ago))
    assert c.sweep_leftovers(tmp_path) == [foreign]
    assert c.sweep_leftovers(tmp_path / "nowhere") == []


def test_the_counter_of_failpoints_is_per_name(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[int] = []
    monkeypatch.setattr(os, "_exit", died.append)
    monkeypatch.setattr(files, "_hits", type(files._hits)())
    monkeypatch.setenv(c.FAILPOINT_ENV, "b:2")
    for name in ("a", "b", "a", "b", "b"):
        c.failpoint(name)
    assert died == [137]
