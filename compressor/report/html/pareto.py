"""The plane of two things one wants: points with both intervals, the front, and labels that do not collide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from compressor.report.html import svg
from compressor.report.html.svg import CHARACTER, Scale, n
from compressor.report.html.view import Point, Tradeoff

NAMED = 8  # points up to which names stand in the plot; beyond, numbers do, and the names below it
LOG_FROM = 5.0  # ratio of the largest to the smallest x from which the axis is logarithmic

Box = tuple[float, float, float, float]  # left, top, right, bottom


def front(points: Sequence[Point], *, x_higher_is_better: bool) -> list[Point]:
    """Return the points that no other is at least as good as in both and better in one, by rising x."""
    sign = 1.0 if x_higher_is_better else -1.0

    def beats(a: Point, b: Point) -> bool:
        return a.x * sign >= b.x * sign and a.y >= b.y and (a.x != b.x or a.y != b.y)

    return sorted((p for p in points if not any(beats(q, p) for q in points)), key=lambda p: (p.x, p.y))


def numbered(plane: Tradeoff) -> bool:
    """Tell whether the points carry numbers instead of names."""
    return len(plane.points) > NAMED


def draw(plane: Tradeoff, width: float = 720, *, legend: bool = False, kind: str = "") -> str:
    """Return the plot as SVG.

    Args:
        plane: What is drawn.
        width: In pixels of the plot's own; below 500 it is made higher than wide.
        legend: Write the names that the numbers stand for below the plot; the page has a list of its own.
        kind: A class for the style sheet.
    """
    height = width * (0.56 if width >= 500 else 0.95)
    left, right, top, bottom = 52.0, 16.0, 14.0, 46.0
    x, y = _scales(plane, (left, width - right), (height - bottom, top))
    shown = front(plane.points, x_higher_is_better=plane.x_higher_is_better)
    parts = _axes(plane, x, y)
    parts += _front(shown, x, y, plane.x_higher_is_better)
    boxes = _labels(plane, x, y, (left, top, width - right, height - bottom))
    for point in sorted(plane.points, key=lambda p: (p in shown, p.reference)):
        parts.append(_point(point, x, y, on_front=point in shown))
    parts += [_label(p, x, y, box, numbered(plane)) for p, box in boxes]
    if legend and numbered(plane):
        lines, extra = _legend(plane, width, height)
        parts += lines
        height += extra
    label = f"{plane.y_label} against {plane.x_label}"
    return svg.svg(width, height, label, parts, kind)


def _scales(plane: Tradeoff, across: tuple[float, float], up: tuple[float, float]) -> tuple[Scale, Scale]:
    xs = [v for p in plane.points for v in (p.x, *(p.x_ci95 or ()))]
    ys = [v for p in plane.points for v in (p.y, *(p.y_ci95 or ()))]
    low, high = min(xs), max(xs)
    log = low > 0 and high / low >= LOG_FROM
    if log:
        x = Scale(low=low / 1.15, high=high * 1.15, start=across[0], end=across[1], log=True)
    else:
        pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        x = Scale(low=max(0.0, low - pad) if low >= 0 else low - pad, high=high + pad, start=across[0], end=across[1])
    low, high = min(ys), max(ys)
    pad = (high - low) * 0.1 or 1.0
    top = high + pad
    if plane.y_most is not None and max(p.y for p in plane.points) <= plane.y_most < top:
        top = plane.y_most + pad * 0.3  # room for a point that stands there
    return x, Scale(low=low - pad, high=top, start=up[0], end=up[1])


def _axes(plane: Tradeoff, x: Scale, y: Scale) -> list[str]:
    parts = []
    for value in (v for v in y.ticks(5) if plane.y_most is None or v <= plane.y_most):
        parts.append(svg.line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(svg.text(x.start - 8, y(value) + 4, f"{value:g}", "tick", "end"))
    mark = "\u00d7" if plane.x_higher_is_better else ""
    for value in x.ticks(6 if x.end - x.start > 400 else 4):
        parts.append(svg.line(x(value), y.start, x(value), y.start + 4, "axis"))
        parts.append(svg.text(x(value), y.start + 17, f"{mark}{value:g}", "tick", "middle"))
    parts.append(svg.line(x.start, y.start, x.end, y.start, "axis"))
    base = next((p for p in plane.points if p.reference), None)
    if base is not None:
        parts.append(svg.line(x.start, y(base.y), x.end, y(base.y), "base"))
        parts.append(svg.line(x(base.x), y.start, x(base.x), y.end, "base"))
    parts.append(svg.text(x.end, y.start + 36, svg.shortened(plane.x_label, x.end - x.start), "name", "end"))
    parts.append(svg.text(4, y.end - 2 + 2, svg.shortened(plane.y_label, x.end), "name"))
    return parts


def _front(shown: Sequence[Point], x: Scale, y: Scale, x_higher_is_better: bool) -> list[str]:
    """Draw the steps between what was measured: a model that is as good in one is no better in the other."""
    if len(shown) < 2:
        return []
    d = f"M{n(x(shown[0].x))} {n(y(shown[0].y))}"
    for point in shown[1:]:
        d += f"V{n(y(point.y))}H{n(x(point.x))}" if x_higher_is_better else f"H{n(x(point.x))}V{n(y(point.y))}"
    return [svg.path(d, "front")]


def _point(point: Point, x: Scale, y: Scale, *, on_front: bool) -> str:
    at_x, at_y = x(point.x), y(point.y)
    parts = []
    if point.x_ci95 is not None:
        parts.append(svg.line(x(point.x_ci95[0]), at_y, x(point.x_ci95[1]), at_y, "bar"))
    if point.y_ci95 is not None:
        ends = (y(min(max(end, y.low), y.high)) for end in point.y_ci95)
        parts.append(svg.line(at_x, next(ends), at_x, next(ends), "bar"))
    kind = "dot" if on_front else "dot behind"
    parts.append(svg.diamond(at_x, at_y, "dot teacher") if point.reference else svg.dot(at_x, at_y, kind))
    parts.append(svg.dot(at_x, at_y, "reach", 12))
    return svg.group(parts, point.title or point.model.name, point.model.number)


def _caption(point: Point, number: bool) -> str:
    return str(point.model.number) if number else point.model.name


def _labels(plane: Tradeoff, x: Scale, y: Scale, frame: Box) -> list[tuple[Point, Box]]:
    """Find a free place near each point, best points first; the least crowded one where none is free."""
    taken = [(x(p.x) - 7, y(p.y) - 7, x(p.x) + 7, y(p.y) + 7) for p in plane.points]
    taken += _lines(plane, x, y)
    placed = []
    for point in sorted(plane.points, key=lambda p: (-p.y, p.x)):
        words = svg.shortened(_caption(point, numbered(plane)), (frame[2] - frame[0]) * 0.5)
        wide = len(words) * CHARACTER + 4
        box = _best_place(_places(x(point.x), y(point.y), wide), taken, frame)
        taken.append(box)
        placed.append((point, box))
    return placed


def _lines(plane: Tradeoff, x: Scale, y: Scale) -> list[Box]:
    """Return thin boxes around the bars, the front and the reference lines, which labels had better not cross."""
    found = [(x(p.x_ci95[0]), y(p.y) - 1, x(p.x_ci95[1]), y(p.y) + 1) for p in plane.points if p.x_ci95]
    found += [(x(p.x) - 1, y(p.y_ci95[1]), x(p.x) + 1, y(p.y_ci95[0])) for p in plane.points if p.y_ci95]
    shown = front(plane.points, x_higher_is_better=plane.x_higher_is_better)
    for a, b in pairwise(shown):
        level, turn = (b.y, a.x) if plane.x_higher_is_better else (a.y, b.x)
        found.append((x(a.x), y(level) - 1, x(b.x), y(level) + 1))
        found.append((x(turn) - 1, min(y(a.y), y(b.y)), x(turn) + 1, max(y(a.y), y(b.y))))
    base = next((p for p in plane.points if p.reference), None)
    return found if base is None else [*found, (x.start, y(base.y) - 1, x.end, y(base.y) + 1)]


def _places(at_x: float, at_y: float, wide: float) -> list[Box]:
    """Return boxes around a point, the nearest first."""
    found = []
    for distance in (9.0, 16.0, 26.0, 38.0, 52.0, 68.0, 86.0, 110.0):
        for turn in (-0.125, 0.125, 0.375, -0.375, -0.25, 0.25, 0.0, 0.5, -0.06, 0.06, 0.44, -0.44):
            dx, dy = math.cos(turn * 2 * math.pi), math.sin(turn * 2 * math.pi)
            middle = at_x + dx * (distance + wide / 2 * abs(dx)), at_y + dy * (distance + 4)
            found.append((middle[0] - wide / 2, middle[1] - 7, middle[0] + wide / 2, middle[1] + 7))
    return found


def _best_place(places: Sequence[Box], taken: Sequence[Box], frame: Box) -> Box:
    """Return the first of the least crowded places: where as little as can be is taken by others, or lies outside.

    P places, M boxes that are taken.
    """
    ours_P1, theirs_1M = np.asarray(places)[:, None], np.asarray(taken)[None]
    low = np.maximum(ours_P1[..., :2], theirs_1M[..., :2])
    high = np.minimum(ours_P1[..., 2:], theirs_1M[..., 2:])
    covered_P = np.maximum(high - low, 0.0).prod(axis=-1).sum(axis=-1)
    beyond_P4 = (np.asarray(frame) - np.asarray(places)) * (1, 1, -1, -1)
    return places[int(np.argmin(covered_P + 1000 * np.maximum(beyond_P4, 0.0).sum(axis=-1)))]


def _label(point: Point, x: Scale, y: Scale, box: Box, number: bool) -> str:
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    words = svg.shortened(_caption(point, number), box[2] - box[0])
    parts = []
    reach = math.hypot(
        max(box[0] - x(point.x), 0, x(point.x) - box[2]), max(box[1] - y(point.y), 0, y(point.y) - box[3])
    )
    if reach > 14:
        end = min(max(x(point.x), box[0]), box[2]), min(max(y(point.y), box[1]), box[3])
        parts.append(svg.line(x(point.x), y(point.y), end[0], end[1], "lead"))
    parts.append(svg.text(middle[0], middle[1] + 4, words, "label", "middle"))
    return svg.group(parts, point.title or point.model.name, point.model.number)


def _legend(plane: Tradeoff, width: float, height: float) -> tuple[list[str], float]:
    longest = max(len(p.model.name) for p in plane.points) + 5
    columns = max(1, min(4, int((width - 20) / (longest * CHARACTER))))
    ordered = sorted(plane.points, key=lambda p: p.model.number)
    rows = math.ceil(len(ordered) / columns)
    wide = (width - 20) / columns
    lines = [
        svg.text(
            10 + wide * (i // rows), height + 16 * (i % rows) + 12, svg.shortened(f"{p.model.number}  {p.model.name}", wide),
            "tick",
        )
        for i, p in enumerate(ordered)
    ]  # fmt: skip
    return lines, rows * 16 + 10
