"""Which cells one command has begun and ended, and how: files beside the run folders.

Hydra's launchers may run a cell in this process, in another, or on another machine; a return value or a variable does not
always come back, a file in the sweep's folder does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from compressor import commit
from compressor.errors import CompressorError

TOKEN: Final = "COMPRESSOR_SWEEP"  # environment variable that names the command; Hydra sets it wherever a cell runs
PLACE: Final = ".cells"
_BEGUN: Final = "begun"
_EXPECTED: Final = "expected"
SHARED: Final = "shared"  # folder in it, of what the cells need not compute twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A cell that has begun or ended.

    Attributes:
        number: Of the cell, in the command.
        folder: Where its run folder stands.
        status: How it ended; from its beginning on, how it will have ended if nobody says more.
        code: What it adds to the command's exit code.
        overrides: As typed, until it has ended.
        job: What is needed to run it after all (its overrides and settings), where another command was at it.
    """

    number: int
    folder: Path
    status: str
    code: int
    overrides: list[str] = field(default_factory=list)
    job: Mapping[str, Any] | None = None


def token() -> str:
    """Return the name of the command that a cell runs for."""
    return os.environ.get(TOKEN, "unnamed")


def begin(sweep: Path, token: str) -> float:
    """Note that a command is at work, if that was not noted yet; return since when, by the clock of the sweep's disk."""
    path = sweep / PLACE / token / _BEGUN
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.open("x").close()
    return path.stat().st_mtime


def floors(sweep: Path, token: str) -> Path:
    """Return the file where a command that searches writes what its trainings must reach."""
    return sweep / PLACE / token / "floors"


def expect(sweep: Path, token: str, lines: Mapping[int, Sequence[str]]) -> None:
    """Note what is typed for cells that a launcher is about to be given, by number; cells noted before are forgotten."""
    path = sweep / PLACE / token / _EXPECTED
    path.parent.mkdir(parents=True, exist_ok=True)
    commit.write_json_atomic(path, {str(number): list(line) for number, line in lines.items()})


def expected(sweep: Path, token: str) -> dict[int, list[str]]:
    """Return what `expect` noted last."""
    try:
        return {int(number): line for number, line in commit.read_json(sweep / PLACE / token / _EXPECTED).items()}
    except CompressorError:
        return {}


def write(sweep: Path, token: str, entry: Entry) -> None:
    """Note that a cell has ended."""
    place = sweep / PLACE / token
    place.mkdir(parents=True, exist_ok=True)
    values = {**asdict(entry), "folder": str(entry.folder)}
    commit.write_json_atomic(place / f"{entry.number}.json", values)


def tidy(sweep: Path) -> None:
    """Remove what dead cells left, and what all shared unless another command is at one of them; the notes stay."""
    commit.sweep_leftovers(sweep / PLACE)  # of a cell that was killed when its run was whole, nobody else would
    if commit.any_held(sweep / PLACE):
        return
    shutil.rmtree(sweep / PLACE / SHARED, ignore_errors=True)


def read(sweep: Path, token: str) -> list[Entry]:
    """Return what a command's cells have noted, by number."""
    return sorted(_entries(sweep / PLACE / token), key=lambda entry: entry.number)


def code(sweep: Path, folder: Path, status: str) -> int:
    """Return what a cell adds to the exit code by what any command, on any machine, noted of it; 1 where none did."""
    place = folder.relative_to(sweep).parts
    noted = (entry for token in (sweep / PLACE).glob("sweep-*") for entry in _entries(token))
    return next((e.code for e in noted if e.status == status and e.folder.parts[-len(place) :] == place), 1)


def _entries(place: Path) -> list[Entry]:
    found = []
    for path in place.glob("*.json"):
        try:
            values: Any = commit.read_json(path)
            found.append(Entry(**{**values, "folder": Path(values["folder"])}))
        except (CompressorError, TypeError, KeyError):
            continue  # no note of ours; the cell is missing in the table then, and its folder is not
    return found
