"""A mirror that is lost in whatever way costs the run nothing, and the user one line.

`python tests/faults/lost_tracking.py` prints the same as a row; what a mirror holds is tested in `tests/test_tracking.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lost_tracking  # noqa: E402 - found through the line above

pytest.importorskip("wandb")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    lost_tracking.prepare(folder)
    plain = lost_tracking.run(folder, "plain")
    assert plain.returncode == 0, plain.stdout + plain.stderr
    return folder


@pytest.mark.parametrize("name", lost_tracking.LOSSES)
def test_a_lost_mirror_changes_no_result_and_is_told_in_a_line(place: Path, name: str) -> None:
    assert lost_tracking.lost(place, name, lost_tracking.LOSSES[name]) == []


def test_a_mirror_that_nobody_installed_is_refused_before_work(place: Path) -> None:
    assert lost_tracking.not_installed(place) == []
