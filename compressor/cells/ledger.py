"""Which cells one command has ended, and how: files beside the run folders, so that any launcher's processes can write them.

Hydra's launchers may run a cell in this process, in another, or on another machine; a return value or a variable does not
always come back, a file in the sweep's folder does.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compressor import commit
from compressor.errors import CompressorError

TOKEN: Final = "COMPRESSOR_SWEEP"  # environment variable that names the command; Hydra sets it wherever a cell runs
PLACE: Final = ".cells"
SHARED: Final = "shared"  # folder in it, of what the cells need not compute twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A cell that has ended; `code` is what it adds to the command's exit code."""

    number: int
    folder: Path
    status: str
    code: int


def write(sweep: Path, token: str, entry: Entry) -> None:
    """Note that a cell has ended."""
    place = sweep / PLACE / token
    place.mkdir(parents=True, exist_ok=True)
    values = {"number": entry.number, "folder": str(entry.folder), "status": entry.status, "code": entry.code}
    commit.write_json_atomic(place / f"{entry.number}.json", values)


def tidy(sweep: Path) -> None:
    """Remove what the cells shared; the notes stay."""
    shutil.rmtree(sweep / PLACE / SHARED, ignore_errors=True)


def read(sweep: Path, token: str) -> list[Entry]:
    """Return what a command's cells have noted, by number."""
    found = []
    for path in (sweep / PLACE / token).glob("*.json"):
        try:
            values: Any = commit.read_json(path)
            found.append(Entry(**{**values, "folder": Path(values["folder"])}))
        except (CompressorError, TypeError, KeyError):
            continue  # no note of ours; the cell is missing in the table then, and its folder is not
    return sorted(found, key=lambda entry: entry.number)
