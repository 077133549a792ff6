"""The page of many runs: the marks, fronts and remarks of the comparison, and every folder that has no part in it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from html_samples import HOSTILE, read
from run_folders import MACHINE, OTHER_MACHINE, TEACHER, Model, write_run, write_status

from compressor.compare import compare, load_runs
from compressor.compare.ranking import Mark
from compressor.report.html import to_html
from compressor.report.html.from_table import from_table
from compressor.report.html.view import Report, Row

MINUS, TIMES = "\u2212", "\u00d7"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five models: one good and big, two alike, one fast and poor, one that a runtime refuses."""
    folder = tmp_path_factory.mktemp("gallery")
    models = {
        "good": Model(right=343, size_bytes=120_000_000, speeds={"torch": 1.1}),
        "twin_a": Model(right=320, speeds={"torch": 2.0}),
        "twin_b": Model(right=321, speeds={"torch": 2.01}),
        "fast": Model(right=250, size_bytes=40_000_000, speeds={"torch": 5.0, "onnxruntime": 6.0}),
        "shy": Model(right=318, speeds={"torch": 0.0}),
    }
    for i, (name, model) in enumerate(models.items()):
        write_run(folder / name, model, settings={"student.layers": i}, overrides=[f"experiment={name}"])
    write_status(folder / "broken", "failed(MeasureError: it crashed)")
    write_status(folder / "same", "skipped(duplicate of 3)")
    return folder


def page_of(place: Path, **options: str) -> Report:
    return from_table(compare(load_runs([place])), **options)


def row(report: Report, label: str) -> Row:
    return next(r for r in report.rows if r.label == label)


def marks(report: Report, label: str) -> dict[str, Mark]:
    return {m.name: c.mark for m, c in zip(report.models, row(report, label).cells, strict=True) if c.mark}


def test_winners_are_those_of_the_comparison(place: Path) -> None:
    table = compare(load_runs([place]))
    report = from_table(table)
    assert [m.name for m in report.models] == ["teacher", *(r.label for r in table.rows[1:])]
    assert marks(report, "accuracy") == {r.label: m for r in table.rows if (m := r.quality["rotten_tomatoes"].mark)}
    assert marks(report, "accuracy") == {"good": Mark.best}
    assert marks(report, "torch") == {"fast": Mark.best} and marks(report, "onnxruntime") == {}, (
        "one alone wins nothing"
    )
    assert marks(report, "size on disk") == {"fast": Mark.best}
    assert set(marks(report, "parameters").values()) == {Mark.tied}, "equal counts are ties"


def test_speeds_whose_intervals_meet_are_ties(tmp_path: Path) -> None:
    for i, speed in enumerate((2.0, 2.05, 1.5)):
        write_run(tmp_path / str(i), Model(speeds={"torch": speed}, spread=0.01), settings={"student.layers": i})
    found = marks(page_of(tmp_path), "torch")
    assert len(found) == 2 and set(found.values()) == {Mark.tied}


@pytest.mark.parametrize(("gap", "tied"), [(1.005, 2), (1.03, 0)])
def test_intervals_that_do_not_meet_must_also_lie_further_apart_than_the_noise(
    tmp_path: Path, gap: float, tied: int
) -> None:
    for i, speed in enumerate((2.0, 2.0 * gap)):
        model = Model(speeds={"torch": speed}, spread=0.001)
        write_run(tmp_path / str(i), model, settings={"student.layers": i})
    assert list(marks(page_of(tmp_path), "torch").values()).count(Mark.tied) == tied


def test_cells_say_what_is_known(place: Path) -> None:
    report = page_of(place)
    at = {m.name: i for i, m in enumerate(report.models)}
    quality = row(report, "accuracy").cells[at["fast"]]
    assert quality.text == "62.5" and quality.verdict == "worse" and quality.against.startswith(f"{MINUS}23.5 ({MINUS}")
    assert "keeps 72.7%" in quality.note
    speed = row(report, "torch").cells[at["fast"]]
    assert (speed.text, speed.against, speed.verdict, speed.note) == (
        f"{TIMES}5.00",
        "(4.95 to 5.05)",
        "faster",
        "2.00 ms",
    )
    refused = row(report, "torch").cells[at["shy"]]
    assert refused.text == "refused" and refused.title == "no such operation" and refused.value is None
    assert row(report, "onnxruntime").cells[at["shy"]].text == "-", "not tried is no refusal"
    teacher = row(report, "torch").cells[0]
    assert teacher.text == f"{TIMES}1" and teacher.note == "10.00 ms" and teacher.mark is None
    assert "supported tasks" not in {r.label for r in report.rows}, "what no run recorded is no row"


def test_tasks_that_were_recorded_are_a_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    table = compare(load_runs([tmp_path]))
    candidate = table.rows[1].candidate
    arm = candidate.arms[0]
    known = replace(arm, result=replace(arm.result, supported_tasks=("classification", "token_classification")))
    rows = (table.rows[0], replace(table.rows[1], candidate=replace(candidate, arms=(known,))))
    cells = row(from_table(replace(table, rows=rows)), "supported tasks").cells
    assert [c.text for c in cells] == ["-", "classification, token classification"]


def test_cost_is_seconds_times_the_runs_own_price(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(), settings={"bench.price_per_hour": 36.0})
    assert [c.text for c in row(page_of(tmp_path), "cost to make").cells] == ["-", "0.6"]
    write_run(tmp_path / "b", Model(), settings={"bench.price_per_hour": 72.0}, seed=1)
    assert [c.value for c in row(page_of(tmp_path), "cost to make").cells] == [None, pytest.approx(0.9)]
    endless = write_run(tmp_path / "c", Model(), settings={"bench.price_per_hour": float("inf")}, seed=2)
    assert "cost to make" not in {found.label for found in page_of(tmp_path).rows}, "that is no price"
    shutil.rmtree(endless)
    write_run(tmp_path / "d", Model(), seed=2)  # nobody said what its machine costs
    assert "cost to make" not in {found.label for found in page_of(tmp_path).rows}


def test_the_planes_are_the_fronts(place: Path) -> None:
    torch, onnx, bytes_ = page_of(place).tradeoffs
    assert (torch.key, onnx.key, bytes_.key) == ("torch", "onnxruntime", "bytes")
    points = {p.model.name: p for p in torch.points}
    assert points["teacher"].reference and points["teacher"].x == 1.0 and points["teacher"].y_ci95 is None
    assert points["fast"].x == 5.0 and points["fast"].x_ci95 == pytest.approx((4.95, 5.05))
    low, high = points["fast"].y_ci95 or (0, 0)
    assert low < points["fast"].y < high and "on the front" in points["fast"].title
    assert "dominated by" in points["twin_a"].title
    assert "Left out, not timed here: shy." in torch.caption
    assert len(bytes_.points) == 6 and bytes_.points[0].x_ci95 is None and not bytes_.x_higher_is_better


def test_nothing_is_dropped_in_silence(place: Path) -> None:
    report = page_of(place, command="python -m compressor.compare gallery")
    text = read(to_html(report)).text
    for told in (
        "5 runs compared on rotten_tomatoes", "7 folders, 5 compared", "broken: failed(MeasureError: it crashed)",
        "same: skipped(duplicate of 3)", "shy on torch: no such operation", "Some CPU, 2 of 2 cores, 8 GB",
        "Take good as the smallest within 1 point of the teacher", "torch 2.13.0, onnxruntime 1.22.0", '"cpu": "Some CPU"',
        "python -m compressor.compare gallery", "best: told from every other", "Environment",
    ):  # fmt: skip
        assert told.lower() in text.lower(), told


def test_machines_are_columns_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(), environment=MACHINE)
    write_run(tmp_path / "b", Model(speeds={"torch": 3.0}), environment=OTHER_MACHINE, settings={"student.layers": 3})
    report = page_of(tmp_path)
    assert {"torch@A", "torch@B"} <= {r.label for r in report.rows}
    assert any(c.startswith("torch@A") and "Some CPU" in c for c in report.conditions)
    assert any(c.startswith("torch@B") and "Other CPU" in c for c in report.conditions)
    assert "2 machines" in report.facts and set(report.environment) == {"a", "b"}
    assert marks(report, "torch@A") == {}, "each is alone on its machine"


def test_several_tasks_and_seeds(tmp_path: Path) -> None:
    for task in ("rotten_tomatoes", "imdb"):
        for seed in (0, 1):
            model = Model(shift=seed * 10, changed=(3, 27))
            write_run(tmp_path / f"{task}-{seed}", model, task=task, seed=seed, teacher=replace(TEACHER, shift=seed))
        write_run(tmp_path / f"{task}-other", Model(right=300), task=task, settings={"student.layers": 3})
    report = page_of(tmp_path)
    assert {"rotten_tomatoes: accuracy", "imdb: accuracy", "imdb: torch", "kept", "seeds"} <= {
        r.label for r in report.rows
    }
    assert len({plane.key for plane in report.tradeoffs}) == len(report.tradeoffs) == 4
    assert len(report.flips) == 2 and report.flips[0].rows[1][1:3] == ("7.5% (5.3..10.5)", "5.0% (3.3..7.6)")
    assert any("over 2 seeds" in said or "wider than over the seeds" in said for said in report.sentences)
    assert any("changes 5.0% (3.3 to 7.6) of the answers" in said for said in report.sentences)
    text = read(to_html(report)).text
    assert "imdb: Nothing is the smallest within 1 point" in text and "another seed of the same recipe changes" in text


def test_one_seed_says_nothing_of_seeds(place: Path) -> None:
    report = page_of(place)
    assert report.flips == () and "seeds" not in {r.label for r in report.rows} and report.facts[-1] == "seed 0"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    write_run(
        tmp_path / "a",
        Model(name="distill"),
        environment=MACHINE | {"cpu": HOSTILE},
        overrides=[f"experiment={HOSTILE}"],
    )
    write_status(tmp_path / "b", f"failed({HOSTILE})")
    page = read(to_html(page_of(tmp_path, command=HOSTILE)))
    assert page.tags.count("script") == 1 and not any("\x1b" in text for text in page.texts)
    assert page.text.count("<script>alert(1)</script>") >= 4


def test_a_single_folder_is_a_page_too(tmp_path: Path) -> None:
    write_run(tmp_path / "a", predictions=False)
    report = page_of(tmp_path)
    assert report.verdict == ("0 models beside their teacher.",) and report.tradeoffs == ()
    read(to_html(report))
