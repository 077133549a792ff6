"""A cell that several commands want, on one machine or on many that share the sweep's folder: one runs it, the others go on.

The same command started twice so splits a sweep: each takes the cells that nobody holds, and waits at its end for those that
the other still runs. The lock is the system's own and goes with its holder, so that the cells of a command that died are free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from compressor import commit
from compressor.cells import ledger
from compressor.cells.cell import Cell, Composed, Outcome, run_cell
from compressor.compare.runs import is_tabled
from compressor.errors import CompressorError
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import RunResult

BUSY: Final = "skipped(another command is running it)"  # until the end; it is in no result
_FAILED: Final = ("failed", "timeout", "oom", "killed")
_LOOK_S: Final = 1.0
_LOG: Final = logging.getLogger("compressor")

Compose = Callable[[], Composed]


def run_free_cell(cell: Cell, compose: Compose, registry: Registry, screen: Screen, *, token: str) -> Outcome:
    """Run a cell as `run_cell` does, unless another command is at it: its status is `BUSY` then.

    A cell that failed before this command began is tried again; one that failed since then is another command's failure.

    Args:
        cell: The cell.
        compose: Returns what its process is told.
        registry: The methods.
        screen: Gets what the cell prints.
        token: Names this command.
    """
    begun = ledger.begin(cell.sweep, token)
    with _lock(cell) as lock:
        if lock.acquire():
            told = _failure(cell, since=begun)
            return run_cell(cell, compose, registry, screen) if told is None else told
    screen.line("cell", "another command is running it; this one goes on with the next")
    return Outcome(result=RunResult(status=BUSY, run_key="", task="", seed=0, seconds_total=0.0), code=0)


def run_busy_cell(cell: Cell, compose: Compose, registry: Registry, screen: Screen) -> Outcome:
    """Wait for the command that runs a cell, and take over what it found; run the cell if it died over it."""
    waiting = commit.Waiting(_LOG, f"another command to end cell {cell.folder.name}", look_s=_LOOK_S)
    with _lock(cell) as lock:
        while not lock.acquire():
            waiting.sleep()
        told = _failure(cell)
        return run_cell(cell, compose, registry, screen) if told is None else told


def _lock(cell: Cell) -> commit.FolderLock:
    return commit.FolderLock(cell.desk)


def _failure(cell: Cell, since: float = 0.0) -> Outcome | None:
    """Return what another command recorded of a cell that failed: it is not to be tried again at once.

    One that was interrupted has not been tried, and whose duplicate a cell is `run_cell` says as quickly, as it does what is
    wrong with a folder.
    """
    path = cell.folder / "result.json"
    try:
        if not path.is_file() or path.stat().st_mtime < since or not commit.is_complete(cell.folder, deep=is_tabled):
            return None
        result = RunResult.from_json(commit.read_json(path))
    except (OSError, CompressorError):
        return None
    if result.status.partition("(")[0] not in _FAILED:
        return None
    return Outcome(result=result, code=ledger.code(cell.sweep, cell.folder, result.status))
