"""report.html: one self-contained page, and its plots as files of their own.

`view` is what a page shows, `from_run` fills it from a run and `from_table` from a comparison of many; `page` and what it draws
with know nothing of results.
"""

from __future__ import annotations

import re
from pathlib import Path

from compressor import commit
from compressor.report.html import pareto, strips, waterfall
from compressor.report.html.page import WIDE, to_html
from compressor.report.html.png import to_png
from compressor.report.html.svg import standalone
from compressor.report.html.view import Report

PAGE = "report.html"


def write_html(report: Report, folder: Path) -> Path:
    """Write the page and, under `plots/`, its plots; return the path of the page."""
    page = folder / PAGE
    commit.write_text(page, to_html(report))
    write_plots(report, folder / "plots")
    return page


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Write each plot of a page as SVG and, if it can be, as PNG; return the paths."""
    drawn = {f"tradeoff-{plane.key}": pareto.draw(plane, WIDE, legend=True) for plane in report.tradeoffs}
    drawn |= {f"latency-{timing.key}": strips.draw(timing, WIDE) for timing in report.timings}
    if report.stairs is not None:
        drawn["speed-up"] = waterfall.draw(report.stairs, WIDE)
    written = []
    for name, plot in drawn.items():
        path, text = folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', name)}.svg", standalone(plot)
        folder.mkdir(parents=True, exist_ok=True)
        commit.write_text(path, text)
        written.append(path)
        if (image := to_png(text)) is not None:
            path = path.with_suffix(".png")
            with commit.disk_errors(path, len(image)):
                path.write_bytes(image)
            written.append(path)
    return written


__all__ = ["PAGE", "Report", "to_html", "write_html", "write_plots"]
