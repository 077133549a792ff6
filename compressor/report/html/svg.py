"""The few shapes that the plots need, as SVG text that stands in the page and, with its own style, alone in a file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from compressor.report import cells
from compressor.report.html.styling import plot_style, style_values

CHARACTER = 7.0  # estimated width of one at the size of labels, in a wide face, so that nothing runs into anything


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values to pixels, linearly or by the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Return about `count` round values within."""
        if self.log:
            steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 1.5, 2, 3, 5, 7)]
            inside = [v for v in steps if self.low <= v <= self.high]
            return inside[:: max(1, math.ceil(len(inside) / count))] if len(inside) > count else inside
        return round_values(self.low, self.high, count)


def round_values(low: float, high: float, count: int) -> list[float]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten between two values."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def clean(text: str) -> str:
    """Make text safe inside markup: no control characters, no markup of its own."""
    return escape(cells.printable(text, ascii_only=False).replace("\n", " "), quote=True)


def breakable(text: str) -> str:
    """Make a name safe, with places where a line of the page may break."""
    return re.sub(r"([_+@/])", r"\1<wbr>", clean(text))


def n(value: float) -> str:
    """Write a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def figure(value: float) -> str:
    """Write three figures: 4.99, 10.9, 5.00."""
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    return f"{value:#.3g}".removesuffix(".") if abs(value) >= 1e-3 else f"{value:.3g}"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Draw a line."""
    return f'<line class="{kind}" x1="{n(x1)}" y1="{n(y1)}" x2="{n(x2)}" y2="{n(y2)}"/>'


def path(d: str, kind: str) -> str:
    """Draw a path."""
    return f'<path class="{kind}" d="{d}"/>'


def dot(x: float, y: float, kind: str, radius: float = 4.5) -> str:
    """Draw a filled circle."""
    return f'<circle class="{kind}" cx="{n(x)}" cy="{n(y)}" r="{n(radius)}"/>'


def diamond(x: float, y: float, kind: str, radius: float = 6) -> str:
    """Draw a square on its tip."""
    return path(
        f"M{n(x)} {n(y - radius)}l{n(radius)} {n(radius)}l{n(-radius)} {n(radius)}l{n(-radius)} {n(-radius)}z", kind
    )


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    """Write a line of text; `anchor` is start, middle or end."""
    return f'<text class="{kind}" x="{n(x)}" y="{n(y)}" text-anchor="{anchor}">{clean(words)}</text>'


def group(parts: Sequence[str], title: str, number: int) -> str:
    """Put together what belongs to one model; the title is shown on hover."""
    return f'<g class="of" data-n="{number}"><title>{clean(title)}</title>{"".join(parts)}</g>'


def shortened(words: str, width: float) -> str:
    """Cut a name in its middle so that it fits into a width."""
    kept = int(width / CHARACTER)
    if len(words) <= kept:
        return words
    tail = max(1, (kept - 1) // 2)
    return f"{words[: max(1, kept - 1 - tail)]}\u2026{words[-tail:]}"


def svg(width: float, height: float, label: str, parts: Sequence[str], kind: str = "") -> str:
    """Put the parts of a plot together, for the page."""
    body = "".join(parts)
    return f'<svg class="plot {kind}" viewBox="0 0 {n(width)} {n(height)}" role="img" aria-label="{clean(label)}">{body}</svg>'


def standalone(plot: str) -> str:
    """Return a plot as a file of its own: with a style without variables, on white, in the light colours."""
    light = style_values("light") | {"paper": "#ffffff"}
    style = re.sub(r"var\(--([a-z-]+)\)", lambda m: light[m.group(1)], plot_style())
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', plot)
    assert box is not None
    size = f'xmlns="http://www.w3.org/2000/svg" width="{box.group(1)}" height="{box.group(2)}" '
    ground = f'<rect width="100%" height="100%" fill="{light["paper"]}"/>'
    opened = plot.replace("<svg ", f"<svg {size}", 1)
    head, _, body = opened.partition(">")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}><style>{style}</style>{ground}{body}\n'
