"""Prediction tables: read as they were written, and refused where they are damaged or of other examples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prediction_tables import classes, write
from scipy.special import softmax as reference_softmax

from compressor.compare.predictions import (
    PredictionTable,
    prediction_file,
    read_predictions,
    read_tables,
    require_same_examples,
    softmax,
)
from compressor.errors import StoreError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    table = classes([1, 0, 1], [1, 1, 0], tokens=[5, 6, 7])
    write(table, prediction_file(tmp_path, "teacher", "test"))
    assert (tmp_path / "predictions" / "teacher-test.parquet").is_file()
    assert read_predictions(prediction_file(tmp_path, "teacher", "test")) == table


def test_logits_are_a_matrix_only_where_each_class_has_one() -> None:
    table = classes([1, 0], [1, 1])
    found = table.class_logits(2)
    assert found is not None and found.shape == (2, 2)
    assert table.class_logits(3) is None
    assert replace(table, logits=((), ())).class_logits(2) is None


def test_softmax_equals_scipy() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 4)) * 300
    np.testing.assert_allclose(softmax(logits), reference_softmax(logits, axis=1), atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ids": (0, 1)}, "columns of"),
        ({"ids": (0, 1, 1)}, "stands twice"),
        ({"predictions": (1, 0, float("nan"))}, "predictions that are not finite"),
        ({"references": (1.0, float("inf"), 0.0)}, "references that are not finite"),
        ({"logits": ((0.0, 1.0), (0.0, float("nan")), (0.0, 1.0))}, "logits that are not finite"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=why):
        replace(classes([1, 0, 1], [1, 1, 0]), **changes)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(StoreError, match="columns of"):
        PredictionTable(ids=(), predictions=(), references=(), logits=(), tokens=())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    with pytest.raises(StoreError, match=r"broken\.parquet"):
        read_predictions(path)
    path.write_bytes(b"PAR1 no such thing PAR1")
    with pytest.raises(StoreError, match=r"broken\.parquet cannot be read"):
        read_predictions(path)
    pq.write_table(pa.table({"id": [0], "prediction": ["1"]}), path)
    with pytest.raises(StoreError, match=r"broken\.parquet.* lacks the columns label, logits, tokens"):
        read_predictions(path)
    row = {"id": [0], "prediction": ["{"], "label": ["1"], "logits": [[0.0, 1.0]], "tokens": [3]}
    pq.write_table(pa.table(row), path)
    with pytest.raises(StoreError, match="cannot be read as predictions"):
        read_predictions(path)
    pq.write_table(pa.table(row | {"prediction": [json.dumps(float("nan"))]}), path)
    with pytest.raises(StoreError, match=r"broken\.parquet: predictions that are not finite"):
        read_predictions(path)


def test_tables_of_other_examples_are_never_paired(tmp_path: Path) -> None:
    table = classes([1, 0, 1], [1, 1, 0])
    require_same_examples(table, classes([0, 0, 0], [1, 1, 0]))
    for other in (replace(table, ids=(0, 2, 1)), replace(table, references=(1, 1, 1))):
        with pytest.raises(StoreError, match="different examples"):
            require_same_examples(other, table)
    write(table, tmp_path / "a.parquet")
    write(replace(table, ids=(7, 8, 9)), tmp_path / "b.parquet")
    assert read_tables({"a": {"test": tmp_path / "a.parquet"}})["a"]["test"] == table
    with pytest.raises(StoreError, match="different examples"):
        read_tables({"a": {"test": tmp_path / "a.parquet"}, "b": {"test": tmp_path / "b.parquet"}})
