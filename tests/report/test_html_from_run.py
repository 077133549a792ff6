"""From a result to what the page shows: who leads a row, what is placed where, what making a model took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_results import make_result

from compressor.compare.ranking import Mark, by_records
from compressor.compare.rows import making_seconds
from compressor.report.html.from_run import from_run, read_calls
from compressor.report.html.run_rows import duration
from compressor.results import Comparison, RunResult


def row(result: RunResult, label: str) -> list[str]:
    return [c.mark or "" for c in next(r for r in from_run(result).rows if r.label == label).cells]


def judged(verdict: str, **changes: object) -> RunResult:
    """The sample with teacher and result alone, and one verdict on torch and on accuracy."""
    result = make_result()
    return replace(
        result,
        candidates=(result.candidates[0], result.candidates[2]),
        comparisons=tuple(replace(c, verdict=verdict, **changes) for c in result.comparisons),
    )


@pytest.mark.parametrize(
    ("verdict", "accuracy", "speed"),
    [
        ("better", ["best", ""], None),  # the value is the teacher's, the word alone decides that they differ
        ("worse", ["best", ""], None),
        ("equivalent", ["tied", "tied"], ["tied", "tied"]),
        ("inconclusive", ["tied", "tied"], ["tied", "tied"]),
        ("faster", None, ["", "best"]),
    ],
)
def test_a_winner_is_marked_only_where_the_verdict_allows(verdict: str, accuracy: list[str], speed: list[str]) -> None:
    p_value = 0.01 if verdict in ("better", "worse") else 0.4
    if accuracy is not None:
        assert row(judged(verdict, p_value=p_value), "accuracy") == accuracy
    if speed is not None:
        assert row(judged(verdict), "torch") == speed


def test_an_equivalent_model_that_is_still_different_is_no_tie() -> None:
    result = judged("equivalent", p_value=1e-7)  # a small loss, within the margin and beyond doubt
    values = {"teacher": 0.90, "distill": 0.89}
    candidates = tuple(
        replace(c, metrics={n: replace(m, value=values[c.name]) for n, m in c.metrics.items()})
        for c in result.candidates
    )
    assert row(replace(result, candidates=candidates), "accuracy") == ["best", ""]


def test_equal_counts_have_no_winner_and_fewer_bytes_win() -> None:
    result = judged("faster")
    assert row(result, "size on disk") == ["", "best"]
    same = replace(result, candidates=tuple(replace(c, size_bytes=1000) for c in result.candidates))
    assert row(same, "size on disk") == ["tied", "tied"]
    assert row(result, "peak memory") == ["", ""], "measured once: there is no interval to judge by"


def test_models_that_never_met_are_told_apart_by_disjoint_intervals_only() -> None:
    def against(name: str, low: float, high: float) -> Comparison:
        return Comparison(
            candidate=name, baseline="teacher", runtime="torch", ratio=(low + high) / 2, ci95=(low, high), verdict="faster",
            sentence="", detectable_difference=0.0, null_ratio=1.0,
        )  # fmt: skip

    found = [against("a", 1.9, 2.0), against("b", 2.01, 2.1), against("c", 2.2, 2.3)]
    values = {"teacher": 10.0, "a": 5.1, "b": 4.9, "c": 4.4}

    def marks(*names: str, noise: float = 0.01) -> dict[str, Mark]:
        return by_records({n: values[n] for n in names}, found, "teacher", higher=False, noise=noise)

    assert marks("teacher", "a", "b", "c") == {"c": Mark.best}
    assert marks("teacher", "a", "b") == dict.fromkeys("ab", Mark.tied), "the gap is within the noise of one per cent"
    assert marks("teacher", "a", "b", noise=0.0) == {"b": Mark.best}
    assert marks("b", "c", noise=0.12) == dict.fromkeys("bc", Mark.tied), "the null arm widens the noise"
    values["unknown"] = 4.0
    assert marks("a", "unknown") == {"a": Mark.tied, "unknown": Mark.tied}, "nothing tells it from others"
    assert marks("a") == {}, "one alone is no winner"


def test_recorded_tests_are_one_family_and_a_verdict_stands_in_where_no_test_was_kept() -> None:
    def against(name: str, verdict: str, p_value: float | None) -> Comparison:
        return Comparison(
            candidate=name, baseline="teacher", metric="accuracy", difference=-0.02, ci95=(-0.03, -0.01), verdict=verdict,
            sentence="", detectable_difference=0.0, p_value=p_value,
        )  # fmt: skip

    found = [against("a", "worse", 0.03), against("b", "worse", 0.04), against("c", "worse", None)]
    values = {"teacher": 0.9, "a": 0.88, "b": 0.88, "c": 0.88}
    assert by_records(values, found, "teacher", higher=True) == dict.fromkeys(["teacher", "a", "b"], Mark.tied)
    del values["b"]
    assert by_records({"teacher": 0.9, "a": 0.88}, found, "teacher", higher=True) == {"teacher": Mark.best}


def test_the_plane_holds_who_was_timed_and_names_who_was_not() -> None:
    torch, bytes_ = from_run(make_result()).tradeoffs
    assert (torch.key, bytes_.key) == ("torch", "bytes")
    teacher, distill = torch.points
    assert teacher.reference and teacher.x == 1.0 and teacher.x_ci95 is None
    assert distill.x == 1.98 and distill.x_ci95 == (1.95, 2.01)
    assert distill.y_ci95 == pytest.approx((88.0, 89.7)), "the paired interval, around the teacher's value"
    assert "Not timed on torch: finetune." in torch.caption
    assert len(bytes_.points) == 3 and not bytes_.x_higher_is_better


def test_a_stage_that_was_reused_counts_as_when_it_was_trained() -> None:
    distill = make_result().candidates[2]
    assert making_seconds(distill.lineage) == 61.5
    step = replace(distill.lineage[0], notes={"stages": [{"training_seconds": 300.0}, {"training_seconds": 40.0}]})
    assert making_seconds([step]) == 340.0
    assert making_seconds(()) is None


def test_cost_is_seconds_times_price() -> None:
    costs = next(r for r in from_run(make_result(), price_per_hour=36.0).rows if r.label == "cost to make")
    assert [c.value for c in costs.cells] == [None, pytest.approx(0.615), pytest.approx(0.615)]
    assert costs.unit == "at 36 an hour"


def test_calls_are_read_from_the_run_folder(tmp_path: Path) -> None:
    assert read_calls(tmp_path) == {}
    (tmp_path / "timings").mkdir()
    table = {
        "candidate": ["a", "b", "a"],
        "block": [0, 0, 1],
        "text": [0, 0, 0],
        "ns": [1_500_000, 2_000_000, 2_500_000],
    }
    pq.write_table(pa.table(table), tmp_path / "timings" / "torch.parquet")
    assert read_calls(tmp_path) == {"torch": {"a": [1.5, 2.5], "b": [2.0]}}
    timing = from_run(
        make_result(), calls_ms={"torch": {"distill": [1.0, 2.0], "(first, loaded again)": [1.0]}}
    ).timings[0]
    assert [s.model.name for s in timing.strips] == ["distill"], "the null arm is no model"


def test_the_tasks_that_a_chain_takes_are_a_row_where_they_are_known() -> None:
    result = make_result()
    assert "supported tasks" not in {r.label for r in from_run(result).rows}
    teacher, *others = result.candidates
    known = replace(teacher, supported_tasks=("classification", "masked_lm")), replace(others[0], supported_tasks=())
    found = from_run(replace(result, candidates=(*known, *others[1:]))).rows
    cells = next(r for r in found if r.label == "supported tasks").cells
    assert sorted(c.text for c in cells) == ["-", "classification, masked lm", "none"]


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.04, 59.9, 61, 3725)] == ["0.0 s", "59.9 s", "1 min 1 s", "1 h 2 min"]
