"""Views of a result: complete, within 100 columns, plain ASCII where they must be, and safe against odd names."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from markdown_tables import assert_tables_are_whole
from rich.console import Console
from test_results import make_result

from compressor.report.markdown import to_markdown, write_markdown
from compressor.report.multi import print_results, results_to_markdown
from compressor.report.terminal import print_result, render
from compressor.results import Percentile


def test_three_runtimes_fit_into_100_columns_of_ascii() -> None:
    text = render(make_result())
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


def test_teacher_first_then_the_result_then_baselines() -> None:
    text = render(make_result())
    assert text.index("| teacher") < text.index("| distill") < text.index("| finetune")


def test_one_plain_statement_for_each_candidate() -> None:
    lines = render(make_result()).splitlines()
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
    assert status in render(result)
    assert status in to_markdown(result)


def test_the_least_difference_stands_beside_each_difference() -> None:
    text = to_markdown(make_result())
    header = next(line for line in text.splitlines() if line.startswith("| model | chain"))
    row = next(line for line in text.splitlines() if line.startswith("| distill | distill"))
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert found["accuracy vs teacher"] == "-1.2 (-2.0..-0.3) inconclusive, finds from 1.3"
    assert found["accuracy@counterfactual vs teacher"] == "-", "it was not compared"


def test_the_terminal_tells_how_many_answers_changed() -> None:
    text = " ".join(render(make_result()).split())
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
    assert "\x1b" not in render(result)


def many() -> dict[str, object]:
    return {
        "student.layers=6": make_result(),
        "student.layers=3": make_result(status="failed(TrainingError: the loss is not finite)", candidates=()),
        "student.layers=6 seed=1": make_result(status="skipped(duplicate of 0)", candidates=()),
    }


def test_many_runs_one_table() -> None:
    out = io.StringIO()
    print_results(many(), Console(file=out, width=100))
    text = out.getvalue()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100
    assert "3 runs: 1 ok, 1 failed, 1 skipped" in text
    assert "inconclusive" in text
    joined = " ".join(text.split())
    assert "refused" in joined and "TrainingError" in joined


def test_many_runs_as_markdown() -> None:
    text = results_to_markdown(many())
    assert len(text.splitlines()) == 2 + 3
    assert "skipped(duplicate of 0)" in text
    header, first = (line.split(" | ") for line in (text.splitlines()[0], text.splitlines()[2]))
    finished = next(r for r in many().values() if r.status == "ok")
    ours = next(c for c in finished.candidates if c.role == "result").metrics["accuracy"].value
    assert first[header.index("kept")] == f"{ours / finished.teacher.metrics['accuracy'].value * 100:.1f}%"


def test_cells_that_differ_in_the_seed_alone_are_averaged() -> None:
    result = make_result()
    teacher, *others = result.candidates
    shares = {0: 0.97, 1: 0.99, 2: 0.98}
    runs = {}
    for seed, share in shares.items():
        value = replace(teacher.metrics["accuracy"], value=teacher.metrics["accuracy"].value * share)
        found = [replace(c, metrics={**c.metrics, "accuracy": value}) if c.role == "result" else c for c in others]
        runs[f"{seed}: tinybert_4l seed={seed}"] = replace(result, seed=seed, candidates=(teacher, *found))
    half = 4.302653 * 0.01 / 3**0.5  # t with 2 degrees of freedom
    expected = (
        f"tinybert_4l keeps 98.0% of the teacher's accuracy (95 % CI over 3 seeds {0.98 - half:.1%} to {0.98 + half:.1%}; "
        "seed 0 97.0%, seed 1 99.0%, seed 2 98.0%)"
    )
    assert f"- {expected}" in results_to_markdown(runs)
    assert "keeps" not in results_to_markdown({"only": result})


def test_no_run_at_all_is_an_empty_table() -> None:
    out = io.StringIO()
    print_results({}, Console(file=out, width=100))
    assert "0 runs" in out.getvalue()


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
    assert f"note: {told}" in " ".join(render(result).split())
    text = to_markdown(result)
    assert f"- {told}" in text
    header = next(line for line in text.splitlines() if line.startswith("| model"))
    row = next(line for line in text.splitlines() if line.startswith("| distill"))
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (found["weights deflated MB"], found["non-zero M"]) == ("43.3", "22.7")
    out = io.StringIO()
    print_results({"a cell": result}, Console(file=out, width=100))
    assert f"note: a cell: {told}" in " ".join(out.getvalue().split())
    assert f"\n- a cell: {told}\n" in results_to_markdown({"a cell": result})


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
    text = " ".join(render(sparse(**changes)).split())
    assert ("69% of its weights are zero" in text) == told
    assert ("are zero" in text) == told


def test_a_noisy_machine_and_the_percentiles_are_told() -> None:
    result = make_result()
    known = Percentile(level=0.9, bound_ms=12.5, needs=64)
    unknown = Percentile(level=0.99, bound_ms=None, needs=662)
    noisy = replace(result.candidates[0].latency[0], percentiles=(known, unknown), unstable=("the host took 5% away",))
    teacher = replace(result.candidates[0], latency=(noisy, *result.candidates[0].latency[1:]))
    result = replace(result, candidates=(teacher, *result.candidates[1:]))
    told = f"the timing on {noisy.runtime} is doubtful: the host took 5% away"
    assert told in " ".join(render(result).split())
    text = to_markdown(result)
    assert told in text and "p90 12.50, p99 needs 662 calls" in text
    assert "doubtful" not in render(make_result())
