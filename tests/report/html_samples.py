"""Results and pages that the tests of the page share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
from test_results import make_result

from compressor.results import CandidateResult, Comparison, Latency, LineageStep, MetricValue, RunResult

HOSTILE = "<script>alert(1)</script>\x1b[31m\"'&\u202e|`"
RUNTIMES = ("torch", "onnxruntime", "openvino")
VOID = {"meta", "br", "wbr", "input", "hr", "img", "link"}


class Reader(HTMLParser):
    """Collects tags and visible text, and insists that what is opened is closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(page: str) -> Reader:
    """Parse a page strictly."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open, f"left open: {reader.open}"
    return reader


def calls(result: RunResult, count: int = 240) -> dict[str, dict[str, list[float]]]:
    """Return timed calls around each median, with a slow tail."""
    draw = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {}
    for candidate in result.candidates:
        for timed in candidate.latency:
            if timed.latency_ms_p50 is not None:
                ms = timed.latency_ms_p50 * draw.lognormal(0, 0.2, count)
                ms[:: max(1, count // 3)] *= 4
                found.setdefault(timed.runtime, {})[candidate.name] = ms.tolist()
    return found


def many(count: int, names: Sequence[str] = ()) -> RunResult:
    """Return a result of `count` models; some runtimes refuse some of them."""
    draw = np.random.default_rng(1)
    candidates, comparisons = [], []
    for i in range(count):
        name = "teacher" if i == 0 else names[i] if i < len(names) else f"prune_layers+distill_{i}+int8_dynamic"
        scale, score = (
            (1.0, 0.861)
            if i == 0
            else (float(draw.choice([1.0, 1.9, 2.1, 4.0, 7.0])), 0.861 - abs(draw.normal(0, 0.01)))
        )
        timed = []
        for runtime in RUNTIMES:
            if i and draw.random() < 0.2:
                timed.append(
                    Latency(runtime=runtime, threads=1, batch_size=1, refusal=f"{runtime} has no such operation")
                )
                continue
            p50 = 20 / scale
            timed.append(
                Latency(
                    runtime=runtime,
                    threads=1,
                    batch_size=1,
                    latency_ms_p50=p50,
                    ci95=(p50 * 0.9, p50 * 1.1),
                    samples=240,
                )
            )
            if i:
                comparisons.append(
                    Comparison(
                        candidate=name, baseline="teacher", runtime=runtime, ratio=scale, ci95=(scale * 0.98, scale * 1.02),
                        detectable_difference=0.02, verdict="faster" if scale > 1.5 else "equivalent", null_ratio=1.002,
                        sentence=f"{name} is x{scale:.2f} on {runtime}.",
                    )
                )  # fmt: skip
        value = MetricValue(value=score, ci95=(score - 0.02, score + 0.02), n=1284, higher_is_better=True)
        metrics = {"accuracy": value, "accuracy@vader": value}
        if i:
            gap = score - 0.861
            comparisons += [
                Comparison(
                    candidate=name, baseline="teacher", metric=m, difference=gap, ci95=(gap - 0.012, gap + 0.012),
                    detectable_difference=0.017, verdict="worse" if gap < -0.012 else "inconclusive",
                    sentence=f"{name}: {gap * 100:+.1f}.",
                )
                for m in metrics
            ]  # fmt: skip
        step = LineageStep(method=name, distribution="d", version="1", config={"alpha": 0.5}, seconds=12.5 * i)
        candidates.append(
            CandidateResult(
                name=name, role="teacher" if i == 0 else "result" if i == 1 else "baseline", lineage=(step,) if i else (),
                parameters=int(33e6 / scale), size_bytes=int(134e6 / scale), metrics=metrics, latency=tuple(timed),
                peak_memory_bytes=int(297e6 / scale), non_zeros=int(30e6 / scale), encoder_zero_share=0.1,
                zipped_bytes=int(100e6 / scale), path=f"candidates/{i}",
            )
        )  # fmt: skip
    return make_result(candidates=tuple(candidates), comparisons=tuple(comparisons))


def renamed(result: RunResult, name: str) -> RunResult:
    """Give the run's own result another name, everywhere."""
    old = next(c.name for c in result.candidates if c.role == "result")
    return replace(
        result,
        candidates=tuple(replace(c, name=name) if c.name == old else c for c in result.candidates),
        comparisons=tuple(
            replace(c, candidate=name, sentence=c.sentence.replace(old, name)) if c.candidate == old else c
            for c in result.comparisons
        ),
    )
