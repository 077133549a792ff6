"""Finish a run that was measured but found no room for its manifest: `python -m compressor.finish RUN.unfinished-...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compressor import commit
from compressor.cells.cell import clear_failed
from compressor.errors import CompressorError, StoreError
from compressor.results import OK, RunResult
from compressor.runfolder import UNFINISHED


def finish(folder: Path) -> Path:
    """Commit a run folder that was set apart, under the name that it was made for; return its path.

    Everything in it was written before it was set apart, the manifest alone is missing. Where it was a cell of a sweep, the
    record of its failure gives way.

    Raises:
        StoreError: It is no such folder, its result cannot be read, its name is taken, or there is still no room.
    """
    name, mark, _ = folder.name.rpartition(UNFINISHED)
    if not mark or not name or not folder.is_dir():
        raise StoreError(f"{folder} is no run that was set apart", allowed=f"a folder RUN{UNFINISHED}...")
    result = RunResult.from_json(commit.read_json(folder / "result.json"))
    if result.status != OK:
        raise StoreError(f"{folder} holds no result: {result.status}")
    final = folder.with_name(name)
    clear_failed(final)
    try:
        commit.commit(folder, final)
    except OSError as error:
        raise StoreError(f"{folder} could not become {final}: {error}") from error
    return final


def main(arguments: Sequence[str] | None = None) -> None:
    """Finish every folder that is given; the exit code is that of the last that could not be."""
    parser = argparse.ArgumentParser(prog="python -m compressor.finish", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("folders", nargs="+", type=Path, help=f"RUN{UNFINISHED}...")
    code = 0
    for folder in parser.parse_args(arguments).folders:
        try:
            print(finish(folder.absolute()))
        except CompressorError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            code = error.exit_code
    raise SystemExit(code)


if __name__ == "__main__":
    main()
