"""Where speed-ups come from: one staircase a model and runtime, each step a part, on an axis of ratios."""

from __future__ import annotations

from compressor.report.html import svg
from compressor.report.html.svg import CHARACTER, Scale, n
from compressor.report.html.view import Staircase, Stairs

TIMES = "\u00d7"
ROW, HALF = 46.0, 9.0


def draw(stairs: Stairs, width: float = 720, *, kind: str = "") -> str:
    """Return the staircases as SVG, in the order given.

    Args:
        stairs: What is drawn.
        width: In pixels of the plot's own.
        kind: A class for the style sheet.
    """
    ends = [edge for one in stairs.staircases for edge in _edges(one)]
    low, high = min(1.0, *ends), max(*ends, 1.0)
    room = (high / low) ** 0.06
    x = Scale(low=low / room, high=max(high * room, low * 1.1), start=6.0, end=width - 12, log=True)
    bottom = ROW * len(stairs.staircases) + 10
    parts = [mark for value in x.ticks(4 if width < 500 else 8) for mark in _tick(x, value, bottom)]
    parts += [_staircase(one, x, ROW * i + 14, width) for i, one in enumerate(stairs.staircases)]
    parts.append(svg.line(x.start, bottom, x.end, bottom, "axis"))
    parts.append(svg.text(x.end, bottom + 33, f"times as fast as {stairs.reference}", "name", "end"))
    return svg.svg(width, bottom + 40, f"parts of the speed-ups over {stairs.reference}", parts, kind)


def _edges(one: Staircase) -> list[float]:
    """Return where each part ends, as a ratio over the reference."""
    edges, at = [], 1.0
    for part in one.parts:
        at *= part.ratio
        edges.append(at)
    return edges


def _tick(x: Scale, value: float, bottom: float) -> list[str]:
    return [
        svg.line(x(value), 4, x(value), bottom, "grid"),
        svg.text(x(value), bottom + 16, f"{TIMES}{value:g}", "tick", "middle"),
    ]


def _staircase(one: Staircase, x: Scale, top: float, width: float) -> str:
    total = f"{TIMES}{one.total.ratio:.2f}"
    named = svg.shortened(f"{one.model.name} on {one.runtime}", width - 30 - CHARACTER * len(total))
    parts = [svg.text(x.start, top, named, "label"), svg.text(x.end, top, total, "tick", "end")]
    middle, at = top + 16, 1.0
    for number, (part, end) in enumerate(zip(one.parts, _edges(one), strict=True)):
        left, right = sorted((x(at), x(end)))
        shape = "part back" if part.ratio < 1 else f"part of-{number % 3}"
        parts.append(
            svg.path(f"M{n(left)} {n(middle - HALF)}H{n(max(right, left + 1))}V{n(middle + HALF)}H{n(left)}z", shape)
        )
        ratio = f"{TIMES}{part.ratio:.2f}"
        fitting = [w for w in (f"{part.name} {ratio}", ratio) if len(w) * CHARACTER * 0.85 < right - left]
        if fitting:
            parts.append(svg.text((left + right) / 2, middle + 4, fitting[0], "inside", "middle"))
        at = end
    parts.append(svg.line(x(1.0), middle - HALF - 2, x(1.0), middle + HALF + 2, "axis"))
    said = ", ".join(f"{p.name} {TIMES}{p.ratio:.2f} ({p.ci95[0]:.2f} to {p.ci95[1]:.2f})" for p in one.parts)
    return svg.group(parts, f"{one.model.name} on {one.runtime}: {total} = {said}", one.model.number)
