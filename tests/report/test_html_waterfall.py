"""Staircases: every step starts where the one before it ended, and the last ends at the total."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from html_samples import HOSTILE

from compressor.report.html import to_html, waterfall
from compressor.report.html.view import Model, Report, Stair, Staircase, Stairs


def stair(name: str, ratio: float) -> Stair:
    return Stair(name=name, ratio=ratio, ci95=(ratio * 0.99, ratio * 1.01))


def stairs(*ratios: float, name: str = "distill+int8_onnx") -> Stairs:
    total = 1.0
    for ratio in ratios:
        total *= ratio
    parts = tuple(stair(f"step {i}", ratio) for i, ratio in enumerate(ratios))
    one = Staircase(model=Model(number=1, name=name), runtime="onnxruntime", total=stair("total", total), parts=parts)
    return Stairs(reference="teacher in eager torch", staircases=(one,), caption="From one run.")


def boxes(plot: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r'class="part[^"]*" d="M([\d.]+) [\d.]+H([\d.]+)', plot)]


@pytest.mark.parametrize("width", [358, 760])
def test_steps_follow_each_other_and_their_widths_are_their_logarithms(width: int) -> None:
    plot = waterfall.draw(stairs(2.0, 4.0), width)
    (a, b), (c, d) = boxes(plot)
    assert b == pytest.approx(c, abs=0.2)
    assert (d - c) / (b - a) == pytest.approx(2.0, rel=0.02)  # twice the logarithm
    assert a >= 0 and d <= width
    ET.fromstring(plot)


def test_a_step_that_costs_time_goes_back() -> None:
    plot = waterfall.draw(stairs(2.0, 0.5), 760)
    (a, b), (c, d) = boxes(plot)
    assert (a, b) == pytest.approx((c, d), abs=0.2)
    assert 'class="part back"' in plot


@pytest.mark.parametrize("ratios", [(1.0,), (0.1,), (1000.0, 0.001), (1.0001, 0.9999)])
def test_odd_ratios_are_drawn(ratios: tuple[float, ...]) -> None:
    plot = waterfall.draw(stairs(*ratios), 358)
    ET.fromstring(plot)
    assert "nan" not in plot and "inf" not in plot.replace("inference", "")


def test_the_page_names_every_part_with_its_interval_and_hostile_names_are_harmless() -> None:
    text = to_html(Report(title="t", verdict=("v",), stairs=stairs(1.9, 2.0, name=HOSTILE)))
    assert 'id="speed"' in text and "Where the speed-up comes from" in text
    assert "step 0 \u00d71.90 (1.88 to 1.92), step 1 \u00d72.00 (1.98 to 2.02)" in text
    assert HOSTILE not in text
    assert 'id="speed"' not in to_html(Report(title="t", verdict=("v",)))
