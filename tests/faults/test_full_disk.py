"""A full disk costs the write that met it and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import full_disk  # noqa: E402 - found through the line above


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if full_disk.namespace() is None:
        pytest.skip("this system lets nobody mount a small disk of its own (unshare --mount)")
    return {one.promise.partition(": ")[2]: one for one in full_disk.fill(tmp_path_factory.mktemp("full"))}


@pytest.mark.parametrize("work", ["checkpoint", "export", "result and report", "comparison"])
def test_a_full_disk_is_a_store_error_with_numbers_and_the_version_before_stands(outcomes, work: str) -> None:
    found = outcomes[work]
    assert not found.failures, "\n".join(found.failures)
    assert found.kept == found.tried == 2 * len(full_disk.SHARES)


def test_a_write_that_ends_well_is_no_full_disk(tmp_path: Path) -> None:
    work = full_disk.Work(
        promise="nothing", write=lambda n: None, stands=lambda n: None, path=lambda n: tmp_path / "x", replaces=True
    )
    (tmp_path / "x").write_text("version 1")
    wrong = full_disk._once(work, _Roomy(), 1, 0, before=True)
    assert wrong == ["a write beyond the disk ended well"]


class _Roomy:
    def crowded(self, room: int, *, before: bool):
        from contextlib import nullcontext

        return nullcontext()
