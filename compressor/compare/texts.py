"""What the examples of a run say, cut short, so that a reader sees which ones models answer differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from compressor.errors import StoreError
from compressor.tasks.base import Example

_LONGEST: Final = 240  # characters; who wants more has the data
_BETWEEN: Final = " | "  # the two sentences of a pair


def write_texts(folder: Path, split: str, examples: Sequence[Example]) -> None:
    """Write `texts/<split>.parquet` into a run folder: id, text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _file(folder, split)
    path.parent.mkdir(exist_ok=True)
    table = {"id": [e.id for e in examples], "text": [shortened(e) for e in examples]}
    pq.write_table(pa.table(table), path, compression="zstd")


def read_texts(folder: Path, split: str) -> Mapping[int, str]:
    """Return the texts of a split by the examples' ids; empty where the run kept none.

    Raises:
        StoreError: The file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = _file(folder, split)
    if not path.is_file():
        return {}
    try:
        columns = pq.read_table(path).to_pydict()
        return dict(zip(columns["id"], map(str, columns["text"]), strict=True))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def shortened(example: Example) -> str:
    """Return an example's words on one line, at most `_LONGEST` characters of them."""
    text = example.text if isinstance(example.text, str) else " ".join(example.text)
    whole = " ".join(_BETWEEN.join(filter(None, [text, example.text_pair])).split())
    return whole if len(whole) <= _LONGEST else f"{whole[: _LONGEST - 3]}..."


def _file(folder: Path, split: str) -> Path:
    return folder / "texts" / f"{split}.parquet"
