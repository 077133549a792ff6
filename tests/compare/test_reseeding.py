"""Flips between seeds: counted where there is a second seed with predictions, and not spoken of elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import TEACHER, Model, write_run

from compressor.compare import compare, load_runs
from compressor.report.comparison import comparison, seed_lines

MODEL = Model(changed=(6, 31))


def test_another_seed_stands_beside_the_teacher(tmp_path: Path) -> None:
    write_run(tmp_path / "a", MODEL, seed=0)
    write_run(tmp_path / "b", replace(MODEL, shift=10), teacher=replace(TEACHER, shift=4), seed=1)
    write_run(tmp_path / "c", Model(changed=(1, 3)), settings={"student.layers": 3})
    table = compare(load_runs([tmp_path]))
    teacher, distill, three = table.flips
    assert teacher.between is not None and teacher.between.value == 8 / 400, "four at either end of what is right"
    assert teacher.against is None and teacher.seeds == (0, 1)
    assert distill.between is not None and distill.between.value == 20 / 400
    assert distill.against is not None and distill.against.value == pytest.approx(37 / 400)
    assert three.between is None and three.against is not None and three.against.value == 4 / 400
    said = seed_lines(table)
    assert len(said) == 2, "who has one seed has no line"
    assert said[1].startswith("distill: ") and "another seed of the same recipe changes 5.0% (3.3..7.6)" in said[1]
    assert said[1].endswith("; 9.2% (6.8..12.5) differ from its teacher's")
    assert set(said) <= set(comparison(table).lines)
    assert comparison(table).values["flips"][0]["between"]["n"] == 400


def test_nothing_is_said_without_a_second_seed_or_without_predictions(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "a", MODEL)
    write_run(tmp_path / "one" / "b", MODEL, settings={"train.epochs": 9})
    assert compare(load_runs([tmp_path / "one"])).flips == ()
    for seed in (0, 1):
        write_run(tmp_path / "bare" / str(seed), MODEL, seed=seed, predictions=False)
    assert compare(load_runs([tmp_path / "bare"])).flips == ()


def test_a_repeat_of_one_seed_is_no_second_one(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, MODEL, seed=3)
    assert compare(load_runs([tmp_path])).flips == ()


def test_scores_and_other_examples_have_no_flips(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "scores" / str(seed), MODEL, seed=seed, changes={"label_names": ()})
        write_run(tmp_path / "other" / str(seed), MODEL, seed=seed, ids=range(seed, 400 + seed))
    assert compare(load_runs([tmp_path / "scores"])).flips == ()
    assert compare(load_runs([tmp_path / "other"])).flips == ()
