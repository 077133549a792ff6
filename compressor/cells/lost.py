"""Cells that a launcher lost: the process that ran one was killed, and nobody was left to say how the cell ended.

So the note of a cell says from its beginning what is true if no other note follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from compressor import commit
from compressor.cells import ledger
from compressor.cells.cell import ENDED, Cell, record
from compressor.errors import CompressorError
from compressor.results import OK, RunResult

LOST: Final = "killed(its launcher's process ended)"
NEVER_BEGUN: Final = "killed(its launcher ended before it began)"
_LOOK_S: Final = 1.0
_LOG: Final = logging.getLogger("compressor")


def begin(cell: Cell, number: int, token: str) -> None:
    """Note that a cell begins."""
    ledger.write(cell.sweep, token, _entry(cell.folder, number, LOST, cell.overrides))


def note(
    sweep: Path, token: str, expected: Mapping[int, Sequence[str]], place: Callable[[int, Sequence[str]], Path]
) -> bool:
    """Note how the cells ended that a launcher lost, once nobody is at one; tell whether there are any that had begun.

    Those get a record in their folder. One that had not begun may still be begun by a queue, and its folder is left to that.

    Args:
        sweep: The folder of the sweep.
        token: Names the command.
        expected: What was typed for each cell of the command, by number.
        place: Returns the folder of a cell that had not begun.
    """
    for entry in ledger.read(sweep, token):
        if entry.status == LOST:
            _wait(Cell(overrides=(), folder=entry.folder, sweep=sweep))
    noted = ledger.read(sweep, token)
    lost = [entry for entry in noted if entry.status == LOST]
    for entry in lost:
        found = _found(entry, sweep, since=ledger.begin(sweep, token))
        ledger.write(sweep, token, replace(entry, status=found.status, code=0 if found.status == OK else entry.code))
    for number in sorted(set(expected) - {entry.number for entry in noted}):
        line = expected[number]
        ledger.write(sweep, token, _entry(place(number, line), number, NEVER_BEGUN, line))
    return bool(lost)


def _entry(folder: Path, number: int, status: str, overrides: Sequence[str]) -> ledger.Entry:
    return ledger.Entry(number=number, folder=folder, status=status, code=ENDED, overrides=list(overrides))


def _wait(cell: Cell) -> None:
    """Wait for who is at a cell: another process of the launcher that lives on, or another command."""
    waiting = commit.Waiting(_LOG, f"cell {cell.folder.name}, which another process runs", look_s=_LOOK_S)
    with commit.FolderLock(cell.desk) as lock:
        while not lock.acquire():
            waiting.sleep()


def _found(entry: ledger.Entry, sweep: Path, *, since: float) -> RunResult:
    """Return what stands in the folder of a cell that nobody noted the end of; a record of its loss, where it was free."""
    result = RunResult(status=LOST, run_key="", task="", seed=0, seconds_total=0.0)
    path = entry.folder / "result.json"
    with suppress(OSError, CompressorError):
        if path.is_file() and path.stat().st_mtime >= since and commit.is_complete(entry.folder):
            return RunResult.from_json(commit.read_json(path))
    with suppress(CompressorError):  # the folder is taken, or the disk is full: the table still names the cell
        record(result, Cell(overrides=tuple(entry.overrides), folder=entry.folder, sweep=sweep), None)
    return result
