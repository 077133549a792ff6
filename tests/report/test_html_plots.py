"""The plots: the front is the front, labels do not collide, tails are not hidden, and every file is well-formed."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from compressor.report.html import pareto, strips, svg
from compressor.report.html.view import Model, Point, Strip, Timing, Tradeoff


def point(i: int, x: float, y: float, **more: object) -> Point:
    return Point(model=Model(number=i, name=f"model_{i}"), x=x, y=y, **more)


def plane(count: int, **more: object) -> Tradeoff:
    draw = np.random.default_rng(count)
    points = [point(1, 1.0, 86.0, reference=True)]
    for i in range(2, count + 1):
        x, y = float(draw.choice([1.3, 1.9, 2.0, 2.1, 4.0])) + draw.normal(0, 0.02), 86 - abs(draw.normal(0, 1))
        points.append(point(i, x, y, x_ci95=(x - 0.02, x + 0.02), y_ci95=(y - 1.2, y + 1.2)))
    return Tradeoff(key="torch", x_label="speed-up", y_label="accuracy", points=tuple(points), **more)


def test_the_front_is_what_nothing_beats() -> None:
    points = [point(1, 1, 86), point(2, 2, 85), point(3, 1.5, 84), point(4, 3, 85), point(5, 1, 80)]
    assert [p.model.number for p in pareto.front(points, x_higher_is_better=True)] == [1, 4]
    assert [p.model.number for p in pareto.front(points, x_higher_is_better=False)] == [1]
    twins = [point(1, 1, 86), point(2, 1, 86)]
    assert len(pareto.front(twins, x_higher_is_better=True)) == 2, "equal points both stand on it"


@pytest.mark.parametrize("count", [2, 8, 9, 30])
@pytest.mark.parametrize("width", [358, 760])
def test_labels_do_not_collide_and_stay_inside(count: int, width: float) -> None:
    shown = plane(count)
    height = width * (0.56 if width >= 500 else 0.95)
    frame = (52.0, 14.0, width - 16, height - 46)
    x, y = pareto._scales(shown, (frame[0], frame[2]), (frame[3], frame[1]))
    boxes = [box for _, box in pareto._labels(shown, x, y, frame)]
    assert len(boxes) == count
    for a, b in itertools.combinations(boxes, 2):
        across, along = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        assert across <= 0.5 or along <= 0.5, (a, b)
    for box in boxes:
        assert frame[0] <= box[0] and box[2] <= frame[2] and frame[1] <= box[1] and box[3] <= frame[3]


@pytest.mark.parametrize("count", [2, 30])
def test_a_plane_is_well_formed_and_names_everybody(count: int) -> None:
    shown = plane(count)
    alone = svg.standalone(pareto.draw(shown, legend=True))
    words = {e.text for e in ET.fromstring(alone).iter("{http://www.w3.org/2000/svg}text")}
    if count == 2:
        assert {"model_1", "model_2"} <= words
    else:
        assert {f"{i}  model_{i}" for i in range(1, 31)} <= words and {str(i) for i in range(1, 31)} <= words


@pytest.mark.parametrize(
    "points",
    [
        [point(1, 1.0, 86.0)],
        [point(1, 1.0, 86.0), point(2, 1.0, 86.0)],
        [point(1, 0.0, 0.0), point(2, 0.0, 0.0)],
        [point(1, 1.0, 86.0, reference=True), point(2, 40.0, 20.0, x_ci95=(39.0, 41.0))],
        [point(1, 1e-3, 86.0), point(2, 2e-3, 86.0)],
    ],
)
def test_degenerate_planes_are_drawn(points: list[Point]) -> None:
    shown = Tradeoff(key="k", x_label="x", y_label="y", points=tuple(points))
    text = pareto.draw(shown)
    assert "nan" not in text and "inf" not in text
    ET.fromstring(svg.standalone(text))


def test_no_axis_promises_more_than_there_can_be() -> None:
    points = (point(1, 1.0, 100.0, reference=True), point(2, 2.0, 100.0, y_ci95=(91.0, 109.0)))
    shown = Tradeoff(key="k", x_label="x", y_label="y", points=points, y_most=100.0)
    root = ET.fromstring(svg.standalone(pareto.draw(shown)))
    names = [float(e.text) for e in root.iter("{http://www.w3.org/2000/svg}text") if e.text and e.text.isdigit()]
    assert max(names) == 100
    bars = [e for e in root.iter("{http://www.w3.org/2000/svg}line") if e.get("class") == "bar"]
    assert bars and all(float(e.get(k, "")) >= 0 for e in bars for k in ("y1", "y2"))


def test_figures_have_three_digits() -> None:
    assert [svg.figure(v) for v in (5, 4.994, 10.94, 600, 12345, 0.0647, 0)] == [
        "5.00", "4.99", "10.9", "600", "12345", "0.0647", "0",
    ]  # fmt: skip


def test_ticks_are_round_and_inside() -> None:
    assert svg.round_values(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert svg.round_values(84.2, 86.4, 5) == pytest.approx([84.5, 85, 85.5, 86])
    scale = svg.Scale(low=0.9, high=8.0, start=0, end=100, log=True)
    assert all(0.9 <= t <= 8 for t in scale.ticks(6)) and len(scale.ticks(6)) >= 3
    assert scale(0.9) == 0 and scale(8.0) == pytest.approx(100)


def timing(*calls: list[float]) -> Timing:
    return Timing(
        key="torch",
        strips=tuple(Strip(model=Model(number=i, name=f"m{i}"), calls_ms=tuple(ms)) for i, ms in enumerate(calls, 1)),
    )


def test_percentiles_are_the_bounds_that_the_result_holds() -> None:
    strip = Strip(model=Model(number=1, name="m"), calls_ms=(5.0, 6.0, 9.0), bounds_ms={"p90": 8.5})
    assert strips.figures(strip) == {"p50": 6.0, "p90": 8.5, "max": 9.0}
    assert "p90 8.50" in strips.draw(Timing(key="torch", strips=(strip,)))
    assert "p90" not in strips.draw(timing([5.0, 6.0, 9.0]))


@pytest.mark.parametrize("calls", [[5.0], [5.0, 5.0, 5.0], [5.0] * 240, [0.0, 0.0, 0.0], [1.0, 2.0, 1e6]])
@pytest.mark.parametrize("width", [358, 760])
def test_degenerate_strips_are_drawn(calls: list[float], width: float) -> None:
    text = strips.draw(timing(calls, [3.0, 4.0, 5.0]), width)
    assert "nan" not in text and "inf" not in text
    ET.fromstring(svg.standalone(text))


def test_calls_beyond_the_edge_are_counted() -> None:
    ms = [*np.random.default_rng(0).normal(10, 0.5, 300).tolist(), 500.0, 600.0]
    text = strips.draw(timing(ms))
    assert "2 of them beyond the right edge" in text and 'class="beyond"' in text
    assert "max 600" in text
    assert "beyond" not in strips.draw(timing([10.0, 10.1, 10.2]))


def test_long_names_are_cut_in_their_middle() -> None:
    assert svg.shortened("short", 200) == "short"
    cut = svg.shortened("drop_layers+distill+prune_heads+int8_dynamic", 120)
    assert len(cut) * svg.CHARACTER <= 120 and cut.startswith("drop_") and cut.endswith("dynamic")
