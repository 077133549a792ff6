"""Distributions of latency: one strip a model, with the shape of its calls, the median and the slow tail."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compressor.report.html import svg
from compressor.report.html.svg import CHARACTER, Scale, n
from compressor.report.html.view import Strip, Timing

BINS = 90
TAIL_DOTS = 40  # of one strip; more are thinned, the slowest kept
FIGURES = ("p50", "p90", "p99", "max")
ROW, NARROW_ROW, COLUMN = 30.0, 44.0, 44.0


def draw(timing: Timing, width: float = 720, *, kind: str = "") -> str:
    """Return the strips as SVG, in the order given.

    Args:
        timing: What is drawn.
        width: In pixels of the plot's own; below 500 the names stand above their strips.
        kind: A class for the style sheet.
    """
    narrow = width < 500
    calls = [np.asarray(s.calls_ms, np.float64) for s in timing.strips]
    row, head = (NARROW_ROW, 0.0) if narrow else (ROW, 16.0)
    names = min(260.0, max(len(s.model.name) for s in timing.strips) * CHARACTER + 12)
    columns = [name for name in FIGURES if any(name in figures(strip) for strip in timing.strips)]
    beside = 0.0 if narrow else COLUMN * len(columns) + 10
    left, right = (6.0, width - 12) if narrow else (names, width - beside)
    edge = max(float(np.quantile(ms, 0.99)) for ms in calls) * 1.06 or 1.0
    x = Scale(low=0.0, high=edge, start=left, end=right)
    bottom = head + row * len(calls) + 8
    parts = _axis(x, head + 4, bottom, narrow)
    for i, (strip, ms) in enumerate(zip(timing.strips, calls, strict=True)):
        middle = head + row * i + (row - 11 if narrow else row / 2 + 4)
        parts.append(_strip(strip, ms, x, middle, 10.0))
        if narrow:
            words = _figures(strip, short=True)
            said = svg.shortened(strip.model.name, width - 20 - len(words) * CHARACTER)
            parts.append(svg.text(left, middle - 16, said, "label"))
            parts.append(svg.text(right, middle - 16, words, "tick", "end"))
        else:
            said = svg.shortened(strip.model.name, names - 10)
            parts.append(svg.text(left - 10, middle + 4, said, "label", "end"))
            values = figures(strip)
            for k, name in enumerate(reversed(columns)):
                if name in values:
                    parts.append(svg.text(width - 4 - k * COLUMN, middle + 4, svg.figure(values[name]), "tick", "end"))
    if not narrow:
        parts += [svg.text(width - 4 - k * COLUMN, 11, name, "name", "end") for k, name in enumerate(reversed(columns))]
    return svg.svg(width, bottom + 40, f"milliseconds a call on {timing.key}", parts, kind)


def figures(strip: Strip) -> dict[str, float]:
    """Return the median, the bounds of higher percentiles, and the slowest call, by name."""
    return {"p50": float(np.median(strip.calls_ms)), **strip.bounds_ms, "max": max(strip.calls_ms)}


def _figures(strip: Strip, *, short: bool) -> str:
    values = {name: value for name, value in figures(strip).items() if name in ("p50", "p90", "max") or not short}
    return "  ".join(f"{name} {svg.figure(value)}" for name, value in values.items())


def _axis(x: Scale, top: float, bottom: float, narrow: bool) -> list[str]:
    parts = []
    for value in x.ticks(4 if narrow else 6):
        parts.append(svg.line(x(value), top, x(value), bottom, "grid"))
        parts.append(svg.text(x(value), bottom + 16, f"{value:g}", "tick", "middle"))
    parts.append(svg.line(x.start, bottom, x.end, bottom, "axis"))
    parts.append(svg.text(x.end, bottom + 33, "ms a call", "name", "end"))
    return parts


def _strip(strip: Strip, ms: NDArray[np.float64], x: Scale, middle: float, half: float) -> str:
    parts = [svg.path(_shape(ms, x, middle, half), "shape")] if len(ms) > 2 else []
    median = x(float(np.median(ms)))
    late = np.sort(ms[ms > np.quantile(ms, 0.95)])
    if len(late) > TAIL_DOTS:
        late = late[np.unique(np.linspace(0, len(late) - 1, TAIL_DOTS).astype(int))]
    seen = late[late <= x.high]
    if len(seen):
        parts.append(svg.path("".join(f"M{n(x(float(v)))} {n(middle)}h0" for v in seen), "late"))
    if beyond := int((ms > x.high).sum()):
        parts.append(svg.path(f"M{n(x.end + 3)} {n(middle - 4)}l4 4l-4 4", "beyond"))
    parts.append(svg.line(median, middle - half, median, middle + half, "median"))
    title = f"{strip.model.name}: {_figures(strip, short=False)} ms, {len(ms):,} calls"
    if beyond:
        title += f", {beyond} of them beyond the right edge"
    return svg.group(parts, title, strip.model.number)


def _shape(ms: NDArray[np.float64], x: Scale, middle: float, half: float) -> str:
    """Return the outline of the density: a histogram, smoothed by a Gaussian of one and a half bins."""
    counts, edges = np.histogram(ms[ms <= x.high], bins=BINS, range=(0.0, x.high))
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    density = np.convolve(counts, kernel / kernel.sum(), mode="same")
    if not density.max():
        return f"M{n(x.end)} {n(middle)}h0"
    tall = density / density.max() * half
    inside = np.flatnonzero(tall > 0.05)
    places = (edges[:-1] + edges[1:]) / 2
    chosen = range(inside[0], inside[-1] + 1)
    over = [f"{n(x(float(places[i])))} {n(middle - tall[i])}" for i in chosen]
    under = [f"{n(x(float(places[i])))} {n(middle + tall[i])}" for i in reversed(chosen)]
    return f"M{'L'.join([*over, *under])}z"
