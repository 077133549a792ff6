"""Speed beyond single calls and work on paper, as report.md, the terminal and a comparison show them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from markdown_tables import assert_tables_are_whole
from run_folders import TEACHER, Model, _candidate, correct, write_run
from test_results import make_result

from compressor.compare import compare, load_runs
from compressor.report.cells import doubts
from compressor.report.comparison import comparison
from compressor.report.markdown import to_markdown
from compressor.report.terminal import render
from compressor.report.views import Format
from compressor.report.views import render as render_view
from compressor.results import RunResult, ScenarioSpeed, Work


def speed(scenario: str, runtime: str = "torch", ratio: float | None = None, **values) -> ScenarioSpeed:
    compared = {"ratio": ratio, "ratio_ci95": (ratio - 0.1, ratio + 0.1), "verdict": "faster"} if ratio else {}
    values = {"threads": 1, "batch_size": 1} | compared | values
    return ScenarioSpeed(scenario=scenario, runtime=runtime, **values)


def with_scenarios(teacher: tuple[ScenarioSpeed, ...], student: tuple[ScenarioSpeed, ...]) -> RunResult:
    result = make_result()
    first, baseline, second = result.candidates
    changed = replace(first, scenarios=teacher), baseline, replace(second, scenarios=student)
    return replace(result, candidates=changed)


def rows_of(text: str, heading: str) -> list[dict[str, str]]:
    lines = text.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_a_default_run_has_no_section_of_what_was_not_measured() -> None:
    text = to_markdown(make_result())
    for heading in ("Cold start", "From raw text", "Throughput", "By batch size", "Work, theoretical"):
        assert f"## {heading}" not in text
    assert "from text" not in render(make_result())


def test_cold_start_is_shown_where_it_was_recorded() -> None:
    result = make_result()
    teacher = result.candidates[0]
    timed = replace(teacher.latency[0], load_seconds=0.514, first_call_seconds=0.0213)
    result = replace(result, candidates=(replace(teacher, latency=(timed,)), *result.candidates[1:]))
    rows = rows_of(to_markdown(result), "Cold start")
    assert rows == [{"model": "teacher", "runtime": "torch", "load s": "0.51", "first call ms": "21.3"}]


def test_memory_of_a_device_stands_beside_the_cold_start() -> None:
    result = make_result()
    teacher = result.candidates[0]
    timed = replace(teacher.latency[0], load_seconds=0.5, first_call_seconds=0.02, cuda_peak_bytes=134_000_000)
    result = replace(result, candidates=(replace(teacher, latency=(timed,)), *result.candidates[1:]))
    (row,) = rows_of(to_markdown(result), "Cold start")
    assert row["device MB"] == "134"


def test_calls_from_raw_text_stand_beside_p50() -> None:
    result = with_scenarios(
        (speed("end_to_end", latency_ms_p50=11.5, ci95=(11.4, 11.7)),),
        (
            speed("end_to_end", ratio=1.77, latency_ms_p50=6.5),
            speed("end_to_end", "openvino", refusal="RuntimeError: no"),
        ),
    )
    rows = rows_of(to_markdown(result), "From raw text, tokenizer included")
    assert [(r["model"], r["p50 ms"], r["speed-up"]) for r in rows] == [
        ("teacher", "11.50 +-0.20", "-"),
        ("distill", "6.50", "x1.77 (1.67..1.87) faster"),
        ("distill", "refused", "-"),
    ]
    assert rows[2]["remark"] == "RuntimeError: no"
    text = render(result)
    assert "from text ms" in text and "x1.77" in text
    assert max(map(len, text.splitlines())) <= 100


def test_throughput_says_why_there_is_no_energy() -> None:
    mine = speed("throughput", ratio=2.0, batch_size=32, texts_per_second=210.0, joules_per_text=0.0512)
    theirs = speed("throughput", batch_size=32, texts_per_second=105.0, energy_unavailable="no counters")
    text = to_markdown(with_scenarios((theirs,), (mine,)))
    assert "of the processors for a CPU's runtimes, of the graphics card alone for a card's" in text
    teacher, student = rows_of(text, "Throughput")
    assert (student["texts/s"], student["J/text"], student["batch"]) == ("210.00", "0.0512", "32")
    assert (teacher["J/text"], teacher["remark"]) == ("unavailable", "energy: no counters")


def test_the_surface_has_a_row_a_shape() -> None:
    def cells(ratio: float | None) -> tuple[ScenarioSpeed, ...]:
        return tuple(
            speed("surface", batch_size=b, length=n, latency_ms_p50=b * n / 10, ratio=ratio)
            for b in (1, 8)
            for n in (16, 64)
        )

    refused = speed("surface", "openvino", refusal="out of <memory>")
    text = to_markdown(with_scenarios(cells(None), (*cells(2.0), refused)))
    rows = rows_of(text, "By batch size and length")
    assert [(r["batch"], r["tokens"]) for r in rows] == [("1", "16"), ("1", "64"), ("8", "16"), ("8", "64")]
    assert rows[3]["teacher, torch: p50 ms"] == "51.20"
    assert rows[3]["distill, torch: p50 ms"] == "51.20, x2.00 (1.90..2.10) faster"
    assert "distill on openvino: out of" in text and "<memory>" not in text
    assert_tables_are_whole(text)


def test_work_is_labelled_theoretical_and_says_what_is_missing() -> None:
    result = make_result()
    found = (
        Work(macs_per_text=2.5e8, nominal_bits=32.0),
        Work(macs_unavailable="its graph holds Attention", nominal_bits=8.5),
        Work(macs_per_text=1.25e8, bits_unavailable="weights.bin"),
    )
    changed = tuple(replace(c, work=w) for c, w in zip(result.candidates, found, strict=True))
    text = to_markdown(replace(result, candidates=changed))
    teacher, distill, finetune = rows_of(text, "Work, theoretical")
    assert (teacher["MACs M"], teacher["nominal bits"]) == ("250.0", "32.00")
    assert (distill["of the teacher's"], distill["nominal bits"]) == ("50.0%", "unavailable")
    assert (finetune["MACs M"], finetune["nominal bits"]) == ("unavailable", "8.50")
    assert "MACs of finetune: its graph holds Attention" in text and "bits of distill: weights.bin" in text


@pytest.mark.parametrize("recorded", [True, False])
def test_a_comparison_shows_the_cold_start(tmp_path, recorded: bool) -> None:
    models = [_candidate(m, correct(m), 1, 10.0) for m in (TEACHER, Model())]
    cold = {"load_seconds": 0.5, "first_call_seconds": 0.02} if recorded else {}
    models = [replace(m, latency=tuple(replace(t, **cold) for t in m.latency)) for m in models]
    write_run(tmp_path / "0", Model(), changes={"candidates": tuple(models)})
    view = comparison(compare(load_runs([tmp_path])))
    assert ("cold 0.52 s" in render_view(view, Format.terminal)) is recorded
    speeds = [s for c in json.loads(render_view(view, Format.json))["candidates"] for s in c["speed"]]
    assert {s["load_seconds"] for s in speeds} == {0.5 if recorded else None}
    assert "torch first_call_seconds" in render_view(view, Format.csv).splitlines()[0]


@pytest.mark.parametrize(
    ("share", "bits", "zeros", "ratio", "half", "verdict", "words"),
    [
        (0.5, 32, 0.0, 2.0, 0.02, "faster", "as on paper"),
        (0.5, 32, 0.0, 1.999, 0.0005, "faster", "as on paper"),  # a per cent is noise, however narrow the interval
        # 1 / (0.25 + 0.75 / 2) = 1.6
        (0.5, 32, 0.0, 1.6, 0.0, "faster", "25% more; as if 25% to 25% of the teacher's call had stayed as it was"),
        (0.5, 32, 0.0, 2.5, 0.02, "faster", "20% less"),
        (0.5, 8.1, 0.0, 2.5, 0.02, "faster", "20% less; stored in 8 bits a parameter instead of 32"),
        (0.5, 32, 0.0, 0.8, 0.02, "slower", "150% more"),
        (2.0, 32, 0.0, 0.4, 0.02, "slower", "25% more"),
        (2.0, 32, 0.0, 0.8, 0.02, "slower", "38% less"),
        (0.95, 32, 0.0, 1.0, 0.005, "equivalent", "5% more"),
        (1.0, 32, 0.6, 1.0, 0.01, "equivalent", "as on paper; its zeros save no time"),
        (1.0, 32, 0.6, 1.4, 0.01, "faster", "29% less"),
        (1.0, 16, 0.0, 1.006, 0.004, "equivalent", "as on paper; stored in 16 bits a parameter instead of 32"),
        (1.0, 16, 0.0, 0.98, 0.02, "inconclusive", "not known, for the speed-up is not"),
    ],
)  # fmt: skip
def test_what_lies_between_paper_and_measurement(
    share: float, bits: float, zeros: float, ratio: float, half: float, verdict: str, words: str
) -> None:
    result = make_result()
    name = next(c.name for c in result.candidates if c.role == "result")
    works = {result.teacher.name: Work(macs_per_text=2e8, nominal_bits=32.0)}
    works[name] = Work(macs_per_text=2e8 * share, nominal_bits=bits)
    models = tuple(replace(c, work=works.get(c.name), encoder_zero_share=zeros) for c in result.candidates)
    speeds = tuple(
        replace(c, ratio=ratio, ci95=(ratio - half, ratio + half), verdict=verdict)
        if c.runtime and c.candidate == name
        else c
        for c in result.comparisons
    )
    text = to_markdown(replace(result, candidates=models, comparisons=speeds))
    (row,) = rows_of(text, "Speed-up on paper and measured")
    assert (row["model"], row["on paper"]) == (name, f"x{1 / share:.2f}") and row["measured"].startswith(
        f"x{ratio:.2f} ("
    )
    said = re.sub(r"a MAC takes (\d+% (more|less)) time than the teacher's", r"\1", row["between the two"])
    assert said == words


def test_a_note_on_doubt_keeps_the_reasons_of_every_model() -> None:
    result = make_result()
    models = tuple(
        replace(c, latency=tuple(replace(t, unstable=("shared", f"the ratio of {c.name}")) for t in c.latency))
        for c in result.candidates
    )
    runtime = models[0].latency[0].runtime
    timed = [c.name for c in models if any(t.runtime == runtime for t in c.latency)]
    assert len(timed) > 1
    (said,) = [line for line in doubts(replace(result, candidates=models)) if f"on {runtime}:" in line]
    assert said.count("shared") == 1 and all(f"the ratio of {name}" in said for name in timed)


def test_what_is_doubtful_on_the_surface_is_said_once() -> None:
    cells = tuple(
        speed("surface", "torch", batch_size=b, length=16, latency_ms_p50=1.0, unstable=("the host took 5 %",))
        for b in (1, 8)
    )
    text = to_markdown(with_scenarios(cells, cells))
    assert text.count("torch: the host took 5 %") == 1
