"""The page: sections one below the other, in one file that needs nothing else.

A section is a function from the report to HTML, or to nothing; adding one means adding it to `SECTIONS`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence

from compressor.report.html import grids, matrix, pareto, strips, styling, waterfall
from compressor.report.html.svg import breakable, clean
from compressor.report.html.view import Report, Tradeoff

WIDE, NARROW = 760, 358  # pixels of the two drawings of each plot, so that its text is never scaled to dust
SHOWN = 4  # sentences that stand open; more are folded


def to_html(report: Report) -> str:
    """Return the page as one self-contained document."""
    body = "\n".join(part for section in SECTIONS if (part := section(report)))
    digest = base64.b64encode(hashlib.sha256(styling.script().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{clean(report.title)}</title>\n<style>\n{styling.style()}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>{styling.script()}</script>\n</body>\n</html>\n"
    )


def section(key: str, title: str, body: str) -> str:
    """Return a section; nothing where there is nothing to show."""
    return f'<section id="{key}">\n<h2>{title}</h2>\n{body}\n</section>' if body else ""


def folded(title: str, body: str) -> str:
    """Return a part that opens on a click."""
    return f"<details><summary>{title}</summary>\n{body}\n</details>"


def unbroken(text: str) -> str:
    """Make a sentence safe, with its intervals kept on one line."""
    return clean(text).replace("95 % CI", "95&nbsp;%&nbsp;CI")


def items(texts: Sequence[str]) -> str:
    """Return a list; nothing for no text."""
    return f"<ul>{''.join(f'<li>{clean(text)}</li>' for text in texts)}</ul>" if texts else ""


def _header(report: Report) -> str:
    first, *others = report.verdict
    facts = "".join(f"<li>{clean(fact)}</li>" for fact in report.facts)
    rest = items(others)
    if len(others) > SHOWN:
        rest = folded(f"{len(others)} more verdicts", rest)
    return (
        f'<header>\n<p class="over">{clean(report.title)}</p>\n<h1>{unbroken(first)}</h1>\n'
        f'{rest}\n<ul class="facts">{facts}</ul>\n</header>'
    )


def _matrix(report: Report) -> str:
    return section("comparison", "Comparison", matrix.draw(report))


def _tradeoffs(report: Report) -> str:
    panels = [(plane.key, _plane(plane)) for plane in report.tradeoffs]
    return section("tradeoffs", "Trade-offs", _tabs("tradeoff", panels))


def _plane(plane: Tradeoff) -> str:
    names = ""
    if pareto.numbered(plane):
        models = sorted((p.model for p in plane.points), key=lambda m: m.number)
        listed = "".join(
            f'<li data-n="{m.number}"><b>{m.number}</b> <span>{breakable(m.name)}</span></li>' for m in models
        )
        names = f'<ol class="names">{listed}</ol>'
    return _figure(
        pareto.draw(plane, WIDE, kind="wide"), pareto.draw(plane, NARROW, kind="narrow"), plane.caption, names
    )


def _timings(report: Report) -> str:
    panels = [
        (t.key, _figure(strips.draw(t, WIDE, kind="wide"), strips.draw(t, NARROW, kind="narrow"), t.caption))
        for t in report.timings
    ]
    fullest = max(range(len(panels)), key=lambda i: len(report.timings[i].strips), default=0)
    return section("latency", "Every call", _tabs("timing", panels, fullest))


def _stairs(report: Report) -> str:
    found = report.stairs
    if found is None:
        return ""
    wide, narrow = (waterfall.draw(found, width, kind=kind) for width, kind in ((WIDE, "wide"), (NARROW, "narrow")))
    return section("speed", "Where the speed-up comes from", _figure(wide, narrow, found.caption))


def _speeds(report: Report) -> str:
    return section("speeds", "Beyond single calls, and on paper", grids.draw(report.speeds))


def _figure(wide: str, narrow: str, caption: str, names: str = "") -> str:
    said = f"<figcaption>{clean(caption)}</figcaption>" if caption else ""
    return f"<figure>{wide}{narrow}{names}{said}</figure>"


def _tabs(group: str, panels: Sequence[tuple[str, str]], shown: int = 0) -> str:
    """Return panels of which one is shown, chosen without a script; on paper all are."""
    parts = []
    for i, (title, body) in enumerate(panels):
        chosen, name = " checked" * (i == shown), f"{group}-{i}"
        parts.append(
            f'<input type="radio" name="{group}" id="{name}"{chosen}><label for="{name}">{clean(title)}</label>'
            f'<div class="panel"><h3>{clean(title)}</h3>{body}</div>'
        )
    return f'<div class="tabs">{"".join(parts)}</div>' if parts else ""


def _flips(report: Report) -> str:
    return section("flips", "Which answers changed", grids.draw(report.flips))


def _slices(report: Report) -> str:
    return section("slices", "By class and by length", grids.draw(report.slices, opened=True))


def _calibration(report: Report) -> str:
    return section(
        "calibration", "How far the probabilities can be believed", grids.draw(report.calibration, opened=True)
    )


def _sentences(report: Report) -> str:
    body = items(report.sentences)
    if len(report.sentences) > 3 * SHOWN:
        body = folded(f"{len(report.sentences)} comparisons, each in a sentence", body)
    return section("verdicts", "Verdicts", body)


def _notes(report: Report) -> str:
    body = items(report.notes)
    if len(report.notes) > 4 * SHOWN:
        body = folded(f"{len(report.notes)} refusals and notes", body)
    return section("notes", "Refusals and notes", body)


def _rejected(report: Report) -> str:
    return section("rejected", "Not compared", items(report.rejected))


def _conditions(report: Report) -> str:
    return section("conditions", "What the speed-ups were taken on", items(report.conditions))


def _method(report: Report) -> str:
    """Turn the little Markdown that the method is written in, a list with emphasis, into HTML."""
    found = re.split(r"^- ", report.method, flags=re.MULTILINE)
    plain = [clean(" ".join(text.split())) for text in found if text.strip()]
    lines = [re.sub(r"`([^`]+)`", r"<code>\1</code>", re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)) for text in plain]
    return section(
        "method", "How it was measured", f"<ul>{''.join(f'<li>{x}</li>' for x in lines)}</ul>" if lines else ""
    )


def _lineage(report: Report) -> str:
    lines = "".join(
        f"<li><b>{clean(s.model)}</b>: {clean(s.text)}<br><code>{clean(s.options)}</code></li>" for s in report.lineage
    )
    return section("lineage", "Lineage", f'<ul class="lineage">{lines}</ul>' if lines else "")


def _again(report: Report) -> str:
    body = f"<pre><code>{clean(report.command)}</code></pre>" if report.command else ""
    if report.environment:
        plain = json.dumps(dict(report.environment), indent=2, ensure_ascii=True)
        lines = "\n".join(clean(line) for line in plain.split("\n"))
        body += folded("Environment", f"<pre><code>{lines}</code></pre>")
    return section("again", "How to run it again" if report.command else "Environment", body)


SECTIONS: tuple[Callable[[Report], str], ...] = (
    _header,
    _matrix,
    _tradeoffs,
    _timings,
    _stairs,
    _speeds,
    _flips,
    _slices,
    _calibration,
    _sentences,
    _notes,
    _rejected,
    _conditions,
    _method,
    _lineage,
    _again,
)
