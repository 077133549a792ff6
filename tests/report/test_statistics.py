"""The sections on tests, agreement and calibration, from a result alone."""

from __future__ import annotations

from dataclasses import replace

from test_results import make_result

from compressor.report.statistics import statistics
from compressor.results import RunResult


def rows(text: list[str], title: str) -> list[dict[str, str]]:
    """Return the table under a heading, each row by its header."""
    start = text.index(f"## {title}") + 2
    lines = []
    for line in text[start:]:
        if not line.startswith("|"):
            break
        lines.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *body = lines
    return [dict(zip(header, cells, strict=True)) for cells in body]


def several() -> RunResult:
    """Return the sample with three accuracy comparisons."""
    result = make_result()
    first, timed = result.comparisons
    more = [
        replace(first, candidate="finetune", p_value=0.04, keeps_99=True),
        replace(first, baseline="finetune", p_value=0.0001, keeps_99=True, keeps_999=True),
    ]
    return replace(result, comparisons=(first, *more, timed))


def test_each_comparison_of_a_metric_has_a_row_and_holm_counts_them_all() -> None:
    found = rows(statistics(several()), "Differences")
    assert [(r["model"], r["against"]) for r in found] == [
        ("distill", "teacher"),
        ("finetune", "teacher"),
        ("distill", "finetune"),
    ]
    assert [r["p"] for r in found] == ["0.011", "0.040", "below 0.001"]
    assert [r["p (Holm, 3 tests)"] for r in found] == ["0.022", "0.040", "below 0.001"]
    assert [(r["keeps 99 %"], r["keeps 99.9 %"]) for r in found] == [("no", "no"), ("yes", "no"), ("yes", "yes")]
    assert found[0]["difference"] == "-1.2" and found[0]["95 % CI"] == "(-2.0..-0.3)"
    assert found[0]["finds from"] == "1.3" and found[0]["margin"] == "0.9" and found[0]["verdict"] == "inconclusive"


def test_a_comparison_without_a_p_value_says_nothing() -> None:
    result = several()
    first, *others = result.comparisons
    blank = replace(first, p_value=None, margin=None, keeps_99=None, keeps_999=None)
    found = rows(statistics(replace(result, comparisons=(blank, *others))), "Differences")
    assert [found[0][k] for k in ("p", "p (Holm, 2 tests)", "margin", "keeps 99 %")] == ["-"] * 4
    assert found[1]["p (Holm, 2 tests)"] == "0.040"


def test_agreement_is_told_for_all_but_the_teacher() -> None:
    found = rows(statistics(make_result()), "Agreement with the teacher")
    assert [r["model"] for r in found] == ["distill", "finetune"]
    assert found[0] == {
        "model": "distill",
        "split": "test",
        "same answer": "94.0% (92.9..94.9)",
        "n": "2,136",
        "wrong to right": "51",
        "right to wrong": "77",
        "wrong to another wrong": "0",
    }


def test_calibration_is_told_for_the_teacher_too() -> None:
    found = rows(statistics(make_result()), "Calibration")
    assert [r["model"] for r in found] == ["teacher", "distill", "finetune"]
    assert found[0]["expected calibration error"] == "5.8% (3.9..7.3)"
    assert found[0]["negative log-likelihood"] == "0.367 (0.326..0.413)"


def test_a_section_without_anything_to_say_is_left_out() -> None:
    bare = [replace(c, calibration={}, agreement={}) for c in make_result().candidates]
    assert statistics(make_result(candidates=tuple(bare), comparisons=())) == []
