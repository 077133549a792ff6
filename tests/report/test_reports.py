"""Views of a result: complete, within 100 columns, plain ASCII where they must be, and safe against odd names."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_tables import assert_tables_are_whole
from rich.console import Console
from run_folders import MACHINE, Model, write_run, write_status
from test_results import make_result

from compressor.compare import compare, load_runs
from compressor.report.comparison import comparison
from compressor.report.drawn import drawn
from compressor.report.markdown import to_markdown, write_markdown
from compressor.report.screen import Screen
from compressor.report.terminal import print_result
from compressor.report.terminal import render as render_result
from compressor.report.views import Format, render
from compressor.report.views import to_markdown as to_markdown_view
from compressor.results import Percentile


def test_three_runtimes_fit_into_100_columns_of_ascii() -> None:
    text = render_result(make_result())
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    for found in (
        "33.4",
        "134",
        "297",
        "90.0 +-2.0",
        "10.00 +-0.10",
        "x1.98",
        "(1.95..2.01)",
        "faster",
        "refused",
        "(-2.0..-0.3)",
    ):
        assert found in text, found


def test_no_number_of_a_run_is_broken_over_two_lines_in_a_file() -> None:
    result = make_result()
    names = ["matthews_correlation@another_test_set", "expected_calibration_error@another_test_set"]
    gap = next(c for c in result.comparisons if c.metric is not None)
    gaps = [replace(gap, metric=name, difference=-0.136, ci95=(-0.161, -0.111)) for name in names]
    value = next(iter(result.teacher.metrics.values()))
    candidates = tuple(replace(c, metrics=dict.fromkeys(names, value)) for c in result.candidates)
    ratios = [c for c in result.comparisons if c.metric is None]
    text = render_result(replace(result, candidates=candidates, comparisons=(*gaps, *ratios)))
    for found in ("(-16.1..-11.1)", "90.0 +-2.0", "(1.95..2.01)", "| distill "):
        assert found in text, text


@pytest.mark.parametrize(
    ("width", "whole", "folded"),
    [
        (80, ["model of a long name", "a column's long name", "(-16.1..-11.1)"], []),
        (36, ["(-16.1..-11.1)"], ["model of a long name", "a column's long name"]),
        (26, ["(-16.1..-11.1)", "mode"], ["model of a"]),
        (12, [], ["(-16.1..-11.1)"]),
    ],
)
def test_on_a_narrow_terminal_names_are_folded_before_numbers(width: int, whole: list[str], folded: list[str]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    console.print(drawn(console, ["model", "a column's long name"], [[["model of a long name"], ["(-16.1..-11.1)"]]]))
    text = out.getvalue()
    assert [found for found in whole if found not in text] == [found for found in folded if found in text] == []


def test_wide_letters_are_counted_as_they_are_shown() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    console.print(
        drawn(console, ["model", "\u51c6\u786e\u7387" * 3], [[["\u6a21\u578b" * 7], ["1.0"]], [["b"], ["2.0"]]])
    )
    assert "\u6a21\u578b" * 7 in out.getvalue() and "\u51c6\u786e\u7387" * 3 in out.getvalue()


def test_teacher_first_then_the_result_then_baselines() -> None:
    text = render_result(make_result())
    assert text.index("| teacher") < text.index("| distill") < text.index("| finetune")


def test_one_plain_statement_for_each_candidate() -> None:
    lines = render_result(make_result()).splitlines()
    said = [line for line in lines if line.startswith("Whether distill keeps")]
    assert len(said) == 1
    assert any("note: distill on openvino: RuntimeError" in line for line in lines)


def test_a_terminal_gets_the_same_numbers() -> None:
    out = io.StringIO()
    print_result(make_result(), Console(file=out, force_terminal=True, width=100))
    assert "x1.98" in out.getvalue()


@pytest.mark.parametrize("status", ["failed(MeasureError: it crashed)", "skipped(duplicate of 2)"])
def test_a_run_without_candidates_shows_its_status(status: str) -> None:
    result = make_result(status=status, candidates=(), comparisons=())
    assert status in render_result(result)
    assert status in to_markdown(result)


def test_the_least_difference_stands_beside_each_difference() -> None:
    text = to_markdown(make_result())
    header = next(line for line in text.splitlines() if line.startswith("| model | chain"))
    row = next(line for line in text.splitlines() if line.startswith("| distill | distill"))
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert found["accuracy vs teacher"] == "-1.2 (-2.0..-0.3) inconclusive, finds from 1.3"
    assert found["accuracy@counterfactual vs teacher"] == "-", "it was not compared"


def test_the_terminal_tells_how_many_answers_changed() -> None:
    text = " ".join(render_result(make_result()).split())
    said = "distill and teacher give the same answer on 94.0% (92.9..94.9) of test (n=2,136): 51 gained, 77 lost, 0 otherwise"
    assert said in text


def test_markdown_holds_everything(tmp_path: Path) -> None:
    write_markdown(make_result(), tmp_path / "report.md", overrides=["method=distill", "student.init=[1,3]"])
    text = (tmp_path / "report.md").read_text()
    for found in (
        "## Verdicts", "## Notes", "## How it was measured", "## Lineage", "## Environment", '"cpu": "some cpu"',
        "python -m compressor method=distill 'student.init=[1,3]'", "encoder-compressor 0.1.0", "x1.98",
    ):  # fmt: skip
        assert found in text, found
    assert_tables_are_whole(text)


def test_odd_names_break_no_table() -> None:
    result = make_result(task="a|b<script>\x1b[31m")
    odd = replace(result.candidates[2], name="x|y\n`z`")
    result = replace(result, candidates=(*result.candidates[:2], odd))
    text = to_markdown(result)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "x\\|y \\`z\\`" in text
    assert "\x1b" not in render_result(result)


def many(place: Path):
    write_run(
        place / "0", Model(speeds={"torch": 2.0, "onnxruntime": 1.9, "openvino": 0.0}), overrides=["seed=0", "a=1"]
    )
    write_status(place / "1", "failed(TrainingError: the loss is not finite)", ["seed=0", "a=2"])
    write_status(place / "2", "skipped(duplicate of 0)", ["seed=0", "a=3"])
    return comparison(compare(load_runs([place])))


def test_many_runs_one_table(tmp_path: Path) -> None:
    text = render(many(tmp_path), Format.terminal)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    assert "3 folders: 1 ok, 1 failed, 1 skipped" in text
    joined = " ".join(text.split())
    for found in ("refused", "1: failed(TrainingError: the loss is not finite)", "| 1: a=2", "worse", "x2.00",
                  "(1.98..2.02)", "note: distill on openvino: no such operation"):  # fmt: skip
        assert found in joined, found
    assert "seed=0" not in text, "what every cell has in common tells nothing"


def test_no_number_is_broken_over_two_lines_in_a_file(tmp_path: Path) -> None:
    for i in range(4):
        machine = MACHINE | {"cpu": f"CPU {i}"}
        model = Model(speeds={"torch": 1.87, "onnxruntime": 1.91})
        write_run(tmp_path / str(i), model, environment=machine, settings={"student.layers": i + 1})
    text = render(comparison(compare(load_runs(tmp_path))), Format.terminal)
    assert text.count("(1.85..1.89)") == text.count("(1.89..1.93)") == 4


def test_many_runs_as_markdown(tmp_path: Path) -> None:
    text = to_markdown_view(many(tmp_path))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4, "teacher, distill, failed, skipped"
    assert "skipped(duplicate of 0)" in text
    assert "kept 93.0%" in rows[3]


def test_seeds_are_averaged_and_all_shown(tmp_path: Path) -> None:
    rights = {0: 300, 1: 330, 2: 318}
    for seed, right in rights.items():
        write_run(tmp_path / str(seed), Model(right=right), seed=seed)
    shares = [right / 344 for right in rights.values()]
    mean, half = sum(shares) / 3, 4.302653 * np.std(shares, ddof=1) / 3**0.5  # t with 2 degrees of freedom
    text = to_markdown_view(comparison(compare(load_runs([tmp_path]))))
    each = ", ".join(f"seed {seed} {right / 344:.1%}" for seed, right in rights.items())
    assert (
        f"- distill keeps {mean:.1%} of the teacher's accuracy (95 % CI over 3 seeds {mean - half:.1%} to {mean + half:.1%}; "
        f"{each})\n"
    ) in text


def test_a_cell_without_a_record_is_named_all_the_same(tmp_path: Path) -> None:
    out = io.StringIO()
    done, lost = write_run(tmp_path / "0", Model()), tmp_path / "1"
    slow = write_status(tmp_path / "2", "timeout(not finished after 9 s: cell.timeout_s)")
    ended = {done: "ok", lost: "failed(StoreError: disk full)", slow: "timeout(not finished after 9 s: cell.timeout_s)"}
    Screen(Console(file=out, width=100)).cells(ended, tmp_path)
    for text in (out.getvalue(), (tmp_path / "comparison.md").read_text()):
        assert "disk full" in text and "distill" in text
        assert (
            "1 ok, 1 timeout, 1 failed" in text and "not finished after 9 s" in text and "failed (timeout" not in text
        )


def test_the_table_that_is_kept_covers_the_whole_sweep(tmp_path: Path) -> None:
    first = write_run(tmp_path / "r1", Model(name="distill", methods=[("distill", {})]))
    second = write_run(tmp_path / "r2", Model(name="half", methods=[("half", {})]))
    slow = write_status(tmp_path / "deep" / "r3", "timeout(not finished after 9 s: cell.timeout_s)")
    (tmp_path / ".cells" / "sweep-1").mkdir(parents=True)
    for ended, told, untold in (
        ({second: "ok"}, ["half"], ["distill", "9 s", ".cells"]),
        ({first: "ok", tmp_path / "r4": "failed(StoreError: disk full)"}, ["distill", "disk full"], ["half", "9 s"]),
        ({first: "ok", second: "ok", slow: "timeout(not finished)"}, ["distill", "half", "9 s"], ["disk full"]),
    ):
        out = io.StringIO()
        Screen(Console(file=out, width=100)).cells(ended, tmp_path)
        printed, kept = out.getvalue(), (tmp_path / "comparison.md").read_text()
        assert all(word in printed for word in told) and not any(word in printed for word in untold)
        assert all(word in kept for word in [*told, "| distill", "| half", "9 s"]) and ".cells" not in kept
        assert "2 ok, 1 timeout" in kept


def test_no_finished_cell_at_all_is_a_table_of_failures(tmp_path: Path) -> None:
    write_status(tmp_path / "1", "failed(TrainingError: the loss is not finite)")
    text = render(comparison(compare(load_runs([tmp_path], needs_one=False))), Format.terminal)
    assert "1 folder: 0 ok, 1 failed" in text


def test_formulas_and_markup_in_names_are_disarmed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(methods=(("=cmd|'x'!A1", {}), ("<b>`|", {}))))
    write_run(tmp_path / "b", Model(methods=(("+sum", {"x": -1.5}),)))
    view = comparison(compare(load_runs([tmp_path])))
    rows = list(csv.reader(io.StringIO(render(view, Format.csv))))
    names = [row[0] for row in rows[1:]]
    assert names == ["teacher", "'=cmd|'x'!A1+<b>`|", "'+sum"]
    assert len({len(row) for row in rows}) == 1
    difference = rows[0].index("rotten_tomatoes accuracy difference")
    assert float(rows[2][difference]) == pytest.approx(-0.06), "a number is none"
    text = render(view, Format.markdown)
    assert "<b>" not in text and "\\|" in text
    assert len({line.count("|") - line.count("\\|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_json_says_null_where_nothing_is_known(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(memory=None, speeds={"torch": 0.0}))
    write_status(tmp_path / "b", "failed(x)")
    values = json.loads(render(comparison(compare(load_runs([tmp_path]))), Format.json))
    ours = values["candidates"][1]
    assert ours["peak_memory_bytes"] is None and ours["macro_kept"] is None
    assert ours["speed"][0]["p50_ms"] is None and ours["speed"][0]["refusals"] == ["no such operation"]
    assert ours["quality"]["rotten_tomatoes"]["score"]["value"] == 0.8
    assert ours["options"]["method.distill.temperature"] == 2.0
    assert values["rejected"][0]["why"] == "failed"


def sparse(**changes: object) -> object:
    """The sample result, whose model has zeros."""
    result = make_result()
    teacher, finetune, distill = result.candidates
    return replace(result, candidates=(teacher, finetune, replace(distill, **changes)))


def test_many_zeros_are_said_to_have_changed_nothing() -> None:
    told = (
        "distill: 61% of the encoder's weights are zero; that alone changed neither the bytes nor the time; "
        "deflated it would take 43.3 MB"
    )
    result = sparse(encoder_zero_share=0.6123, zipped_bytes=43_330_667)
    assert f"note: {told}" in " ".join(render_result(result).split())
    text = to_markdown(result)
    assert f"- {told}" in text
    header = next(line for line in text.splitlines() if line.startswith("| model"))
    row = next(line for line in text.splitlines() if line.startswith("| distill"))
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (found["weights deflated MB"], found["non-zero M"]) == ("43.3", "22.7")


def test_many_zeros_are_told_of_in_the_table_of_many_runs(tmp_path: Path) -> None:
    candidates = sparse(encoder_zero_share=0.6123, zipped_bytes=43_330_667).candidates
    write_run(tmp_path / "a", Model(), changes={"candidates": candidates})
    text = to_markdown_view(comparison(compare(load_runs([tmp_path]))))
    assert text.count("- note: distill: 61% of the encoder's weights are zero") == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder_zero_share": 0.2}, False),
        ({"encoder_zero_share": None}, False),
        ({"encoder_zero_share": None, "non_zeros": 7_000_000}, True),
        ({"encoder_zero_share": None, "non_zeros": None}, False),
    ],
)
def test_few_or_unknown_zeros_need_no_word(changes: dict[str, object], told: bool) -> None:
    text = " ".join(render_result(sparse(**changes)).split())
    assert ("69% of its weights are zero" in text) == told
    assert ("are zero" in text) == told


def test_a_noisy_machine_and_the_percentiles_are_told() -> None:
    result = make_result()
    known = Percentile(level=0.9, bound_ms=12.5, needs=64)
    unknown = Percentile(level=0.99, bound_ms=None, needs=662)
    noisy = replace(result.candidates[0].latency[0], percentiles=(known, unknown), unstable=("the host took 5% away",))
    teacher = replace(result.candidates[0], latency=(noisy, *result.candidates[0].latency[1:]))
    result = replace(result, candidates=(teacher, *result.candidates[1:]))
    told = f"timing on {noisy.runtime}: the host took 5% away"
    assert told in " ".join(render_result(result).split())
    text = to_markdown(result)
    assert told in text and "p90 12.50, p99 needs 662 calls" in text
    assert "doubtful" not in render_result(make_result())


def test_attempts_at_a_round_are_told_whether_they_count_or_not() -> None:
    def printed(*rounds: tuple[bool, list[str]]) -> str:
        told = [{"round": 0, "attempt": i, "kept": kept, "complaints": said} for i, (kept, said) in enumerate(rounds)]
        result = make_result()
        return " ".join(render_result(replace(result, environment=result.environment | {"rounds": told})).split())

    assert "run again" not in printed((True, [])) + printed((True, ["the host took 5% away"]))
    assert "run again: the host took 5% away" in printed((False, ["the host took 5% away"]), (True, []))
    assert "every attempt" not in printed((False, ["the host took 5% away"]), (True, ["the host took 6% away"]))
    text = printed((True, ["the host took 5% away"]), (True, ["the host took 6% away"]))
    assert "run again and disturbed again: every attempt at it counts" in text
