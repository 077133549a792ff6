"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys

# Before torch is imported, here and in the processes that tests start: tiny matrices gain nothing from threads, and threads
# that spin while they wait take the cores from everybody else.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Iterator
from pathlib import Path

import pytest

from compressor.assets import CACHE_ENV

sys.path.insert(0, str(Path(__file__).parent))  # what tests share lies beside them


@pytest.fixture(scope="session")
def asset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of fetched assets: the user's if COMPRESSOR_CACHE is set, else one a session."""
    configured = os.environ.get(CACHE_ENV)
    folder = Path(configured) if configured else tmp_path_factory.mktemp("asset-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_ENV, str(folder))
        yield folder
