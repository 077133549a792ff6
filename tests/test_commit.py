"""The commit protocol under damage, crashes at every failpoint, and full disks."""

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
    (partial / "deep").mkdir()
    (partial / "deep" / "config.json").write_text("{}")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    final = tmp_path / "run"
    with c.partial_folder(final) as partial:
        _write(partial)
    return final


def _entries(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_a_finished_folder_verifies_and_the_manifest_excludes_itself(finished: Path) -> None:
    c.verify(finished)
    manifest = c.read_json(finished / c.MANIFEST)
    assert manifest["schema_version"] == c.SCHEMA_VERSION
    assert set(manifest["files"]) == {"weights.bin", "deep/config.json"}
    weights = manifest["files"]["weights.bin"]
    assert weights == {"size": 16384, "sha256": c.sha256_file(finished / "weights.bin")}
    assert _entries(finished.parent) == ["run"]


def test_an_empty_folder_may_be_replaced_but_nothing_else(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with c.partial_folder(empty) as partial:
        _write(partial)
    c.verify(empty)
    taken = tmp_path / "file"
    taken.write_text("mine")
    for final in (empty, taken):
        with pytest.raises(StoreError, match="already exists"), c.partial_folder(final):
            pytest.fail("the body must not run")
    assert taken.read_text() == "mine"


def test_a_folder_filled_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    final = tmp_path / "run"
    with pytest.raises(StoreError, match="already exists"), c.partial_folder(final) as partial:
        _write(partial)
        final.mkdir()
        (final / "theirs").write_text("theirs")
    assert _entries(tmp_path) == ["run"]
    assert _entries(final) == ["theirs"]


def test_keep_existing_keeps_the_first_complete_folder_only(finished: Path) -> None:
    before = (finished / c.MANIFEST).read_bytes()
    with c.partial_folder(finished, keep_existing=True) as partial:
        (partial / "other").write_text("ours")
    assert (finished / c.MANIFEST).read_bytes() == before
    (finished / "weights.bin").write_bytes(b"damaged")
    with (
        pytest.raises(StoreError, match="already exists"),
        c.partial_folder(finished, keep_existing=True) as partial,
    ):
        (partial / "other").write_text("ours")
    assert _entries(finished.parent) == ["run"]


@pytest.mark.parametrize("error", [RuntimeError("body"), KeyboardInterrupt()])
def test_an_exception_removes_the_partial(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), c.partial_folder(tmp_path / "run") as partial:
        _write(partial)
        raise error
    assert _entries(tmp_path) == []


def test_open_commit_discard_work_without_the_context(tmp_path: Path) -> None:
    final = tmp_path / "runs" / ("n" * 200)  # so long that the partial's name must be cut
    partial = c.open_partial(final)
    assert partial.parent == final.parent
    _write(partial)
    c.commit(partial, final)
    c.verify(final)
    other = c.open_partial(tmp_path / "other")
    c.discard(other)
    c.discard(other)
    assert not other.exists()


# Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 4095, 8192, 16383])
def test_truncation_and_bit_flips_are_detected(finished: Path, offset: int) -> None:
    path = finished / "weights.bin"
    good = path.read_bytes()
    path.write_bytes(good[:offset])
    with pytest.raises(StoreError, match=r"weights\.bin has .* bytes"):
        c.verify(finished, deep=False)
    flipped = bytearray(good)
    flipped[offset] ^= 1 << (offset % 8)
    path.write_bytes(flipped)
    with pytest.raises(StoreError, match=r"weights\.bin has sha256"):
        c.verify(finished)
    assert c.is_complete(finished, deep=False)
    assert not c.is_complete(finished)


def test_missing_and_extra_files_are_named(finished: Path) -> None:
    (finished / "deep" / "config.json").rename(finished / "elsewhere.json")
    with pytest.raises(StoreError, match=r"deep/config\.json is missing"):
        c.verify(finished, deep=False)
    (finished / "elsewhere.json").rename(finished / "deep" / "config.json")
    (finished / "deep" / "extra").write_text("x")
    with pytest.raises(StoreError, match="deep/extra is not in the manifest"):
        c.verify(finished, deep=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 99, "files": {}}',
        '{"schema_version": 1, "files": []}',
        '{"schema_version": 1, "files": {"../weights.bin": {"size": 1, "sha256": ""}}}',
        '{"schema_version": 1, "files": {"/etc/passwd": {"size": 1, "sha256": ""}}}',
        '{"schema_version": 1, "files": {"weights.bin": {"size": true, "sha256": ""}}}',
        '{"schema_version": 1, "files": {"weights.bin": 3}}',
        "[" * 100_000,
    ],
)
def test_a_malformed_manifest_is_refused(finished: Path, text: str) -> None:
    (finished / c.MANIFEST).write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json"):
        c.verify(finished)


def test_folders_that_were_never_finished_are_refused(finished: Path, tmp_path: Path) -> None:
    (finished / c.MANIFEST).unlink()
    with pytest.raises(StoreError, match="never finished"):
        c.verify(finished)
    with pytest.raises(StoreError, match="does not exist"):
        c.verify(tmp_path / "nowhere")


def test_links_are_refused(finished: Path, tmp_path: Path) -> None:
    (finished / "link").symlink_to(finished / "weights.bin")
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        c.verify(finished)
    with (
        pytest.raises(StoreError, match="neither a file nor a folder"),
        c.partial_folder(tmp_path / "other") as partial,
    ):
        (partial / "link").symlink_to(finished)


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
    return subprocess.run(
        [sys.executable, "-c", _CRASH, str(parent)], env=env, check=False
    ).returncode


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("point", c.FAILPOINTS)
def test_a_crash_leaves_the_old_or_the_new_and_never_half(
    tmp_path: Path, point: str, hit: int
) -> None:
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
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(
    tmp_path: Path, value: object
) -> None:
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


def test_importing_the_protocol_is_light() -> None:
    heavy = "{'torch', 'numpy', 'transformers'} & set(sys.modules)"
    code = f"import sys, compressor.commit; sys.exit(bool({heavy}))"
    env = os.environ | {"PYTHONPATH": str(SOURCE.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


def test_the_counter_of_failpoints_is_per_name(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[int] = []
    monkeypatch.setattr(os, "_exit", died.append)
    monkeypatch.setattr(files, "_hits", type(files._hits)())
    monkeypatch.setenv(c.FAILPOINT_ENV, "b:2")
    for name in ("a", "b", "a", "b", "b"):
        c.failpoint(name)
    assert died == [137]
