"""Predictions joined by id, and metrics whose difference no counting gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_folders import TEACHER, Model, correct, write_run

from compressor.compare import compare, load_runs
from compressor.compare.bootstrap import paired_difference
from compressor.compare.candidates import join
from compressor.compare.pairing import PredictionReader, paired, significance
from compressor.errors import Incompatible, StoreError
from compressor.results import MetricValue
from compressor.tasks.metrics import Accuracy, Pearson

TASK = "rotten_tomatoes"


def arms_of(place: Path, metric: str):
    first, second = (c for c in join(load_runs([place]).runs) if c.role == "result")
    return first.scored(TASK, metric), second.scored(TASK, metric)


def write_pair(place: Path, metric: str | None = None, rights: tuple[int, int] = (350, 300)) -> None:
    for i, right in enumerate(rights):
        folder = write_run(place / str(i), Model(right=right), settings={"student.layers": i + 1})
        if metric:
            result = load_runs([folder]).runs[0].result
            value = MetricValue(value=right / 400, ci95=(0.0, 1.0), n=400, higher_is_better=True)
            candidates = tuple(replace(c, metrics={metric: value}) for c in result.candidates)
            again = place / f"again-{i}"
            changes = {"candidates": candidates, "task_type": "regression", "label_names": ()}
            write_run(again, Model(right=right), settings={"student.layers": i + 1}, changes=changes)
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()


def test_accuracy_has_the_bootstraps_interval_and_mcnemars_p(tmp_path: Path) -> None:
    write_pair(tmp_path)
    first, second = arms_of(tmp_path, "accuracy")
    found = paired(first, second, "accuracy", PredictionReader())
    labels = [i % 2 for i in range(400)]
    sides = [[y if ok else 1 - y for y, ok in zip(labels, correct(Model(right=r)), strict=True)] for r in (350, 300)]
    expected = paired_difference(Accuracy(), sides[0], sides[1], labels, (), seed=0)
    assert found.ci95 == expected.ci95 and found.difference == pytest.approx(expected.value)
    assert significance(first, second, "accuracy", PredictionReader()) == (pytest.approx(0.125), found.p_value)


def test_other_metrics_are_paired_by_bootstrap_and_permutation(tmp_path: Path) -> None:
    write_pair(tmp_path, "pearson")
    first, second = arms_of(tmp_path, "pearson")
    found = paired(first, second, "pearson", PredictionReader())
    labels = [i % 2 for i in range(400)]
    sides = [[y if ok else 1 - y for y, ok in zip(labels, correct(Model(right=r)), strict=True)] for r in (350, 300)]
    expected = paired_difference(Pearson(), sides[0], sides[1], labels, (), seed=0)
    assert found.ci95 == expected.ci95 and found.test == "paired permutation" and found.p_value < 1e-3
    assert found.only_first is None, "being right means nothing here"
    assert [r.quality[TASK].mark for r in compare(load_runs([tmp_path])).rows][1:] == ["best", None]


def test_a_metric_that_nobody_knows_is_not_ranked_but_shown(tmp_path: Path) -> None:
    write_pair(tmp_path, "bleu")
    first, second = arms_of(tmp_path, "bleu")
    with pytest.raises(Incompatible, match="bleu"):
        paired(first, second, "bleu", PredictionReader())
    table = compare(load_runs([tmp_path]))
    assert [r.quality[TASK].mark for r in table.rows] == [None] * 3
    assert any("bleu" in note for note in table.notes)


def test_files_are_read_once_and_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path, **kw: opened.append(path) or real(path, **kw))
    write_run(tmp_path / "a" / "0", Model())
    compare(load_runs([tmp_path / "a"]))
    assert len(opened) == 2, "the candidate's and the teacher's, which must be of the same examples"
    opened.clear()
    load_runs([tmp_path])
    assert not opened


@pytest.mark.parametrize("damage", ["text", "columns", "twice", "none"])
def test_predictions_that_cannot_be_read_are_an_error(tmp_path: Path, damage: str) -> None:
    write_run(tmp_path / "a", Model(), teacher=TEACHER)
    path = tmp_path / "a" / "predictions" / "distill-test.parquet"
    table = pq.read_table(path)
    if damage == "text":
        path.write_text("no parquet")
    elif damage == "columns":
        pq.write_table(table.drop_columns(["label"]), path)
    elif damage == "twice":
        pq.write_table(table.take([0, 0, 1]), path)
    else:
        pq.write_table(table.slice(0, 0), path)
    run = load_runs([tmp_path], needs_one=False)
    assert run.rejected[0].why == "damaged", "the size is another"
    arm = join(load_runs([write_run(tmp_path / "good", Model())]).runs)[1].arms[0]
    with pytest.raises(StoreError, match=str(path)):
        PredictionReader().of(replace(arm, run=replace(arm.run, folder=tmp_path / "a")), "accuracy")
