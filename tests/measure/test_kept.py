"""A committed model is scored once on equal examples, and again as soon as anything differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.config import BenchConfig
from compressor.measure import accuracy
from compressor.measure.accuracy import measure_accuracy
from compressor.measure.candidate import Candidate
from compressor.measure.examples import write_examples
from compressor.testing.tiny import tiny_examples


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count the scoring processes."""
    started: list[str] = []
    real = accuracy.run_worker

    def counted(*args, **kwargs):
        started.append(kwargs["name"])
        return real(*args, **kwargs)

    monkeypatch.setattr(accuracy, "run_worker", counted)
    return started


def score(house, place: Path, splits, bench: BenchConfig):
    return measure_accuracy(
        Candidate("teacher", house.folder / "teacher"),
        splits,
        house.task,
        place / "jobs",
        bench=bench,
        workload=house.workload,
        kept=place / "kept",
    )


def test_equal_work_is_done_once(house, work, tmp_path: Path) -> None:
    first = score(house, tmp_path, house.splits, house.bench)
    second = score(house, tmp_path, house.splits, house.bench)
    assert len(work) == 1
    assert second.splits["test"].predictions == first.splits["test"].predictions
    assert second.replay is not None and second.replay.is_file()
    assert second.splits["test"].file.is_file()


def test_other_examples_are_scored(house, work, tmp_path: Path) -> None:
    score(house, tmp_path, house.splits, house.bench)
    others = {"test": write_examples(tmp_path / "test.jsonl", [*tiny_examples(39), tiny_examples(41)[-1]])}
    score(house, tmp_path, others, house.bench)
    assert len(work) == 2


def test_a_damaged_entry_is_not_believed(house, work, tmp_path: Path) -> None:
    first = score(house, tmp_path, house.splits, house.bench)
    file = first.splits["test"].file
    file.write_bytes(file.read_bytes()[:-7] + b"garbage")
    again = score(house, tmp_path, house.splits, house.bench)
    assert len(work) == 2
    assert again.splits["test"].predictions == first.splits["test"].predictions
