"""The page's style and script, read from the files beside this one."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def style() -> str:
    """Return the style sheet of the page, the plots' included."""
    return _read("style.css") + _read("plots.css")


@cache
def plot_style() -> str:
    """Return the part that draws the plots."""
    return re.sub(r"/\*.*?\*/\s*", "", _read("plots.css"), flags=re.DOTALL)


@cache
def script() -> str:
    """Return the script; the page is whole without it."""
    return _read("script.js")


@cache
def style_values(scheme: str) -> dict[str, str]:
    """Return the colours by name.

    Args:
        scheme: `light`, or `dark` for what the sheet sets where dark is preferred.
    """
    blocks = re.findall(r":root\s*\{(.*?)\}", _read("style.css"), flags=re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z-]+):\s*([^;]+);", block)) for block in blocks[:2])
    return light if scheme == "light" else light | dark


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
