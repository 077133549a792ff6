"""Compress transformer encoders in every published way, and compare the results honestly.

The public names live in `compressor.api` and are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `from compressor import families` asks here before it imports the submodule; the door would be a circle then.
    if not name.startswith("_") and find_spec(f"compressor.{name}") is None:
        api = import_module("compressor.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'compressor' has no attribute '{name}'; its public names are in compressor.api")
