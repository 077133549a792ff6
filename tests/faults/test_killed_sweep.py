"""A sweep that is killed at any moment is finished by the same command, and no finished cell is computed twice.

`python tests/faults/killed_sweeps.py 50` does the same with fifty kills.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from killed_sweeps import kill  # noqa: E402 - found through the line above


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_sweep_runs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    found = kill(tmp_path, kills=5, seed=1)
    assert not found.failures, "\n".join(found.failures)
    assert found.tried == found.kept == 5
