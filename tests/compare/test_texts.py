"""Texts that are kept for a reader: short, on one line, and read back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.compare.texts import read_texts, shortened, write_texts
from compressor.errors import StoreError
from compressor.tasks.base import Example


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (Example(id=0, text="a film\n of\ttwo  lines"), "a film of two lines"),
        (Example(id=0, text="how?", text_pair="like this"), "how? | like this"),
        (Example(id=0, text=("Words", "in", "Bonn")), "Words in Bonn"),
        (Example(id=0, text="x" * 240), "x" * 240),
        (Example(id=0, text="x" * 241), "x" * 237 + "..."),
    ],
)
def test_a_text_stands_on_one_short_line(example: Example, text: str) -> None:
    assert shortened(example) == text


def test_texts_come_back_by_their_ids(tmp_path: Path) -> None:
    write_texts(tmp_path, "test", [Example(id=7, text="seven"), Example(id=3, text="\u00fcber")])
    assert read_texts(tmp_path, "test") == {7: "seven", 3: "\u00fcber"}
    assert read_texts(tmp_path, "other") == {}, "a run may have kept none"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_texts(tmp_path, "test", [Example(id=0, text="x")])
    path = tmp_path / "texts" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match="cannot be read"):
        read_texts(tmp_path, "test")
