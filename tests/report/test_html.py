"""report.html: whole, well-formed, self-contained, harmless whatever things are called, and legible in both schemes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from html_samples import HOSTILE, calls, many, read, renamed
from test_results import make_result

from compressor.report.html import page as pages
from compressor.report.html import png, to_html, write_html, write_plots
from compressor.report.html.from_run import from_run
from compressor.report.html.styling import style_values
from compressor.report.html.view import Report
from compressor.results import MetricValue, RunResult


def page(result: RunResult, **options: object) -> str:
    return to_html(from_run(result, calls_ms=calls(result), overrides=["method=distill"], **options))


def alone() -> RunResult:
    return replace(make_result(), candidates=make_result().candidates[:1], comparisons=())


def regression() -> RunResult:
    """Two metrics of scores, one of them not compared."""
    result = make_result()
    value = MetricValue(value=0.81, ci95=(0.78, 0.84), n=1379, higher_is_better=True)
    return replace(
        result,
        task="stsb",
        candidates=tuple(replace(c, metrics={"pearson": value, "spearman": value}) for c in result.candidates),
        comparisons=tuple(replace(c, metric="pearson") if c.metric else c for c in result.comparisons),
    )


def bare() -> RunResult:
    """One metric, no latency, no memory, no zeros counted."""
    result = make_result()
    value = MetricValue(value=0.9, ci95=(0.88, 0.92), n=14_041, higher_is_better=True)
    return replace(
        result,
        task="conll2003",
        environment={},
        comparisons=(),
        candidates=tuple(
            replace(
                c, metrics={"seqeval_f1": value}, latency=(), peak_memory_bytes=None, non_zeros=None, zipped_bytes=None,
                encoder_zero_share=None, lineage=(),
            )
            for c in result.candidates
        ),
    )  # fmt: skip


SHAPES = {
    "three": make_result,
    "two": lambda: many(2),
    "seven": lambda: many(7),
    "thirty": lambda: many(30),
    "alone": alone,
    "regression": regression,
    "bare": bare,
    "failed": lambda: make_result(status="failed(MeasureError: it crashed)", candidates=(), comparisons=()),
    "skipped": lambda: make_result(status="skipped(duplicate of 0)", candidates=(), comparisons=(), task=""),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_result_is_a_whole_page_that_needs_nothing_else(shape: str) -> None:
    text = page(SHAPES[shape]())
    found = read(text)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not [a for a in found.attributes if a[1] in ("src", "href", "srcset", "data", "action", "style")]
    assert not {"link", "img", "iframe", "object", "embed", "form"} & set(found.tags)
    assert found.tags.count("script") == 1 and found.tags.count("style") == 1
    assert found.tags.count("h1") == 1
    identities = [value for _, name, value in found.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    assert "nan" not in found.text.lower().split() and "inf" not in found.text.lower().split()


def test_the_parser_of_these_tests_sees_what_is_not_closed() -> None:
    with pytest.raises(AssertionError, match="left open"):
        read("<p><b>x</b>")
    with pytest.raises(AssertionError, match="closes"):
        read("<p><b>x</p>")


def test_the_page_says_everything() -> None:
    found = read(page(make_result(notes=("a note",)), price_per_hour=2.0))
    for told in (
        "\u00d71.98 (1.95 to 2.01)", "\u25b2 faster", "? inconclusive", "\u22121.2 (\u22122.0 to \u22120.3)",
        "finds 1.3 or more", "90.0 \u00b12.0", "10.00 \u00b10.10", "refused", "RuntimeError: no such operation", "1 min 2 s",
        "0.034", "a note",
        "Every model was saved, re-loaded in a fresh process", "encoder-compressor 0.1.0", '"alpha": 0.5',
        "python -m compressor method=distill", "some cpu", "Environment", "distill takes 68% of teacher's bytes",
        "108 zipped", "the instrument's own error",
    ):  # fmt: skip
        assert told in found.text, told
    titles = [i for i in ("Comparison", "Trade-offs", "Every call", "Verdicts", "Lineage") if i in found.text]
    assert len(titles) == 5
    assert "cost to make" not in read(page(make_result())).text


def test_a_refusal_is_quoted_in_its_cell_and_in_the_notes() -> None:
    text = read(page(make_result())).text
    assert text.count("RuntimeError: no such operation") >= 2
    assert "distill on openvino: RuntimeError: no such operation" in text


def test_what_was_not_measured_is_a_dash_and_never_zero() -> None:
    result = make_result()
    rows = {row.label: row for row in from_run(result).rows}
    memory = rows["peak memory"]
    assert [c.text for c in memory.cells] == ["297", "297", "-"] and memory.cells[2].value is None
    labels = {row.label for row in from_run(bare()).rows}
    assert labels == {"seqeval_f1", "size on disk", "parameters", "chain"}


@pytest.mark.parametrize("count", [3, 30])
def test_hostile_names_are_text(count: int) -> None:
    result = renamed(make_result() if count == 3 else many(count), HOSTILE)
    result = replace(
        result, task=HOSTILE, notes=(HOSTILE,), environment={HOSTILE: HOSTILE, "cpu": HOSTILE, "x": {"y": [HOSTILE]}}
    )
    result = replace(
        result,
        candidates=tuple(
            replace(
                c,
                metrics={f"{HOSTILE}{name}": v for name, v in c.metrics.items()},
                latency=tuple(
                    replace(e, runtime=HOSTILE + e.runtime, refusal=e.refusal and HOSTILE) for e in c.latency
                ),
                lineage=tuple(replace(s, method=HOSTILE, config={HOSTILE: HOSTILE}) for s in c.lineage),
            )
            for c in result.candidates
        ),
        comparisons=tuple(
            replace(
                c,
                verdict=HOSTILE,
                sentence=HOSTILE,
                metric=c.metric and HOSTILE + c.metric,
                runtime=c.runtime and HOSTILE + c.runtime,
            )
            for c in result.comparisons
        ),
    )
    report = from_run(result, calls_ms=calls(result), overrides=[HOSTILE])
    text = to_html(report)
    found = read(text)
    assert found.tags.count("script") == 1
    assert "<script>alert" not in text and "alert(1)" in found.text
    assert "\x1b" not in text and "\u202e" not in text
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_hostile_plots_stay_in_their_folder(tmp_path: Path) -> None:
    result = make_result()
    odd = replace(
        result,
        candidates=tuple(
            replace(c, latency=tuple(replace(e, runtime=f"../../{e.runtime}<") for e in c.latency))
            for c in result.candidates
        ),
        comparisons=tuple(replace(c, runtime=f"../../{c.runtime}<") if c.runtime else c for c in result.comparisons),
    )
    folder = tmp_path / "a" / "b" / "run"
    folder.mkdir(parents=True)
    write_html(from_run(odd, calls_ms=calls(odd)), folder)
    assert {p.parent for p in tmp_path.rglob("*.svg")} == {folder / "plots"}


def test_only_our_own_script_may_run() -> None:
    text = page(make_result())
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None and "default-src 'none'" in policy.group(1)
    import base64
    import hashlib

    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.group(1)


def test_thirty_models_and_many_calls_stay_light(tmp_path: Path) -> None:
    result = many(30)
    report = from_run(result, calls_ms=calls(result, count=6000))
    assert write_html(report, tmp_path).stat().st_size < 1_500_000
    assert sum(p.stat().st_size for p in (tmp_path / "plots").glob("*.svg")) < 1_500_000


def test_the_plots_are_files_of_their_own(tmp_path: Path) -> None:
    result = renamed(make_result(), HOSTILE)
    write_html(from_run(result, calls_ms=calls(result)), tmp_path)
    files = sorted((tmp_path / "plots").glob("*.svg"))
    assert {p.name for p in files} == {
        "latency-torch.svg", "latency-onnxruntime.svg", "latency-openvino.svg", "tradeoff-torch.svg", "tradeoff-bytes.svg",
    }  # fmt: skip
    for path in files:
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.attrib["width"]) > 0
        assert "var(" not in path.read_text(encoding="utf-8"), "a drawing program knows no variables"
        assert "alert(1)" not in {e.tag for e in root.iter()}


def test_the_plots_are_pictures_too_where_there_is_a_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    result = make_result()
    report = from_run(result, calls_ms=calls(result))
    monkeypatch.setattr(png, "_writes", lambda: True)
    written = write_plots(report, tmp_path / "with")
    pictures = [path for path in written if path.suffix == ".png"]
    assert len(pictures) == len(written) / 2
    for picture in pictures:
        head, width = picture.read_bytes()[:24], float(ET.parse(picture.with_suffix(".svg")).getroot().attrib["width"])
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(head[16:20]) == pytest.approx(3 * width, abs=2)
    monkeypatch.setattr(png, "_writes", lambda: False)  # names and numbers would be missing
    assert write_plots(report, tmp_path / "without") and not list((tmp_path / "without").glob("*.png"))


def test_a_machine_without_a_font_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    resvg = pytest.importorskip("resvg_py")
    drawn = resvg.svg_to_bytes
    monkeypatch.setattr(resvg, "svg_to_bytes", lambda **given: drawn(**given, skip_system_fonts=True))
    png._writes.cache_clear()
    try:
        assert png.to_png("<svg xmlns='http://www.w3.org/2000/svg' width='4' height='4'/>") is None
    finally:
        png._writes.cache_clear()
    assert "no font" in caplog.text


def test_the_page_knows_nothing_of_results() -> None:
    folder = Path(pages.__file__).parent
    for name in ("view", "page", "matrix", "pareto", "strips", "svg", "styling", "__init__"):
        assert "compressor.results" not in (folder / f"{name}.py").read_text(encoding="utf-8"), name


def test_a_section_is_added_by_adding_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pages, "SECTIONS", (*pages.SECTIONS, lambda report: pages.section("flips", "Flips", "<p>none</p>"))
    )
    found = read(to_html(Report(title="x", verdict=("y",))))
    assert ("section", "id", "flips") in found.attributes
    assert "Comparison" not in found.text, "an empty section is left out"


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_in_both_schemes(scheme: str) -> None:
    colours = style_values(scheme)
    for ground in ("paper", "raised"):
        for ink in ("ink", "muted", "accent", "good", "bad"):
            bright, dim = sorted((luminance(colours[ground]), luminance(colours[ink])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (scheme, ink, ground)
    assert style_values("light")["paper"] != style_values("dark")["paper"]
