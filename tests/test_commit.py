"""The commit protocol: what it writes, what it refuses, and the damage it detects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import compressor.commit as c
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


def test_a_file_is_added_to_a_finished_folder_together_with_its_hash(finished: Path) -> None:
    c.add_file(finished, "README.md", "a card, \u00b1\n")
    c.verify(finished)
    assert (finished / "README.md").read_text(encoding="utf-8") == "a card, \u00b1\n"
    assert set(c.read_json(finished / c.MANIFEST)["files"]) == {"weights.bin", "deep/config.json", "README.md"}
    with pytest.raises(StoreError, match="already exists"):
        c.add_file(finished, "README.md", "another")
    (finished / "stray").write_text("x")
    with pytest.raises(StoreError, match="stray is not in the manifest"):
        c.add_file(finished, "more.md", "to a folder that is damaged")
    assert not (finished / "more.md").exists()


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


def test_a_folder_is_set_aside_in_one_step_and_gone(finished: Path) -> None:
    c.set_aside(finished)
    assert _entries(finished.parent) == []
    c.set_aside(finished)


# Locks ----------------------------------------------------------------------------------------


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    with c.FolderLock(tmp_path / "made") as ours, c.FolderLock(tmp_path / "made") as theirs:
        assert ours.acquire() and ours.acquire()
        assert not theirs.acquire()
        with c.FolderLock(tmp_path / "other") as another:
            assert another.acquire()
        ours.__exit__(None, None, None)
        assert theirs.acquire()


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from compressor.commit import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); sys.stdin.read()"
    )
    env = os.environ | {"PYTHONPATH": str(SOURCE.parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "made")]
    with (
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder,
        c.FolderLock(tmp_path / "made") as lock,
    ):
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        assert not lock.acquire()
        holder.kill()
        holder.wait(timeout=60)
        assert lock.acquire()


def test_a_place_that_cannot_be_written_to_has_no_locks(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with c.FolderLock(tmp_path / "file" / "made") as lock:
        assert lock.acquire()


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


def test_importing_the_protocol_is_light() -> None:
    heavy = "{'torch', 'numpy', 'transformers'} & set(sys.modules)"
    code = f"import sys, compressor.commit; sys.exit(bool({heavy}))"
    env = os.environ | {"PYTHONPATH": str(SOURCE.parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
