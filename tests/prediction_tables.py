"""Hand-made prediction tables, and the file that a scoring process would have written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from compressor.compare.predictions import PredictionTable


def classes(
    predictions: Sequence[int],
    references: Sequence[int],
    *,
    tokens: Sequence[int] | None = None,
    logits: Sequence[Sequence[float]] | None = None,
) -> PredictionTable:
    """Return a two-class table; without logits each answer has 2 to 0."""
    return PredictionTable(
        ids=tuple(range(len(predictions))),
        predictions=tuple(int(p) for p in predictions),
        references=tuple(int(r) for r in references),
        logits=tuple(tuple(row) for row in (logits or [(0.0, 2.0) if p else (2.0, 0.0) for p in predictions])),
        tokens=tuple(int(t) for t in (tokens if tokens is not None else [4] * len(predictions))),
    )


def answers(predictions: Sequence[Any], references: Sequence[Any]) -> PredictionTable:
    """Return a table of scores or tag lists, without logits."""
    return PredictionTable(
        ids=tuple(range(len(predictions))),
        predictions=tuple(predictions),
        references=tuple(references),
        logits=tuple(() for _ in predictions),
        tokens=tuple(3 + i for i in range(len(predictions))),
    )


def write(table: PredictionTable, path: Path) -> None:
    """Write it as the scoring process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": list(table.ids),
        "prediction": [json.dumps(p) for p in table.predictions],
        "label": [json.dumps(r) for r in table.references],
        "logits": pa.array([list(row) for row in table.logits], type=pa.list_(pa.float32())),
        "tokens": list(table.tokens),
    }
    pq.write_table(pa.table(columns), path)
