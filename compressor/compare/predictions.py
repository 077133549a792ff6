"""What one model answered on one split: read back from a run folder's Parquet, checked, and paired with another's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.errors import StoreError

_COLUMNS: Final = ("id", "prediction", "label", "logits", "tokens")

PREDICTIONS = "predictions"  # folder of a run's Parquet files; what is archived has none


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionTable:
    """A model's answers, in the order of the examples.

    Attributes:
        ids: One for each example, all different.
        predictions: A class, a number, or a list of tags.
        references: What the predictions are compared with.
        logits: Each example's, flat; empty where they were not kept.
        tokens: Length of each text in this model's tokens.
    """

    ids: tuple[int, ...]
    predictions: tuple[Any, ...]
    references: tuple[Any, ...]
    logits: tuple[tuple[float, ...], ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.ids, self.predictions, self.references, self.logits, self.tokens)}
        if len(lengths) != 1 or 0 in lengths:
            raise StoreError(f"predictions with columns of {sorted(lengths)} rows", allowed="columns of one length")
        if len(set(self.ids)) != len(self.ids):
            raise StoreError("predictions in which an example id stands twice", allowed="each example once")
        for name in ("predictions", "references", "logits"):
            if not all(np.isfinite(value).all() for value in getattr(self, name)):
                raise StoreError(f"{name} that are not finite", allowed="finite numbers")

    def class_logits(self, classes: int) -> NDArray[np.float64] | None:
        """Return [N, C] logits; None where an example has another number of them than there are classes."""
        if any(len(row) != classes for row in self.logits):
            return None
        return np.asarray(self.logits, np.float64).reshape(-1, classes)


Tables = Mapping[str, PredictionTable]  # one candidate's predictions, by split


def prediction_file(folder: Path, candidate: str, split: str) -> Path:
    """Return where a run folder keeps a candidate's predictions."""
    return folder / PREDICTIONS / f"{candidate}-{split}.parquet"


def read_predictions(path: Path) -> PredictionTable:
    """Read what the scoring process wrote.

    Raises:
        StoreError: The file is missing, damaged, lacks a column or holds numbers that are not finite.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path).to_pydict()
        missing = [name for name in _COLUMNS if name not in columns]
        if missing:
            raise StoreError(f"{path} lacks the columns {', '.join(missing)}", allowed=", ".join(_COLUMNS))
        return PredictionTable(
            ids=tuple(columns["id"]),
            predictions=tuple(json.loads(text) for text in columns["prediction"]),
            references=tuple(json.loads(text) for text in columns["label"]),
            logits=tuple(tuple(row) for row in columns["logits"]),
            tokens=tuple(columns["tokens"]),
        )
    except StoreError as error:
        raise StoreError(f"{path}: {error.got}", allowed=error.allowed) from error
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read as predictions: {error}") from error


def read_tables(files: Mapping[str, Mapping[str, Path]]) -> dict[str, Tables]:
    """Read the files of several candidates, by name and split, and hold their examples against the first candidate's.

    Raises:
        StoreError: A file cannot be read, or is of other examples.
    """
    tables: dict[str, Tables] = {
        name: {split: read_predictions(path) for split, path in found.items()} for name, found in files.items()
    }
    first = next(iter(tables.values()), {})
    for found in tables.values():
        for split, table in found.items():
            require_same_examples(table, first[split])
    return tables


def require_same_examples(candidate: PredictionTable, baseline: PredictionTable) -> None:
    """Refuse to pair tables of different examples.

    Raises:
        StoreError: Ids or references differ, or stand in another order.
    """
    if candidate.ids != baseline.ids or candidate.references != baseline.references:
        raise StoreError(
            "two models' predictions are of different examples, or of other labels",
            allowed="the same ids and labels in the same order",
        )


def softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [N, C] probabilities."""
    scaled = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))
