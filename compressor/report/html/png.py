"""Plots as PNG too, for papers and slides that take no SVG: where the extra `png` is installed."""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

_ZOOM: Final = 3.0  # pixels of a plot's unit: 2,280 across, which is 300 an inch on a page of paper
_PROBE: Final = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="15">{}</text></svg>'
_LOG: Final = logging.getLogger("compressor")


def to_png(svg: str) -> bytes | None:
    """Return a plot as PNG; None without the extra, on a machine without a font to write with, or if it cannot be drawn."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        return None
    try:
        return svg_to_bytes(svg_string=svg, zoom=_ZOOM) if _writes() else None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # a panic in Rust is no Exception, and no picture is worth a run
        _LOG.exception("a plot could not be drawn as PNG; its SVG is whole")
        return None


@cache
def _writes() -> bool:
    """Tell whether there is a font: without one the names and numbers of a plot would be missing in silence."""
    from resvg_py import svg_to_bytes

    found = svg_to_bytes(svg_string=_PROBE.format("8")) != svg_to_bytes(svg_string=_PROBE.format(""))
    if not found:
        _LOG.warning("no plots as PNG: this machine has no font")
    return found
