"""Finish a run that was measured but found no room for its manifest: `python -m compressor.finish RUN.unfinished-...`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compressor import commit
from compressor.cells import ledger
from compressor.cells.cell import Cell, holds_failure
from compressor.compare import runs
from compressor.errors import CompressorError, StoreError
from compressor.runfolder import UNFINISHED


def finish(folder: Path) -> Path:
    """Commit a run folder that was set apart, under the name that it was made for; return its path.

    Everything in it was written before it was set apart, the manifest alone is missing. What can be parsed is, before a
    manifest vouches for it. Where it was a cell of a sweep, the record of its failure gives way once the run is durable.

    Raises:
        StoreError: It is no such folder, a file of it cannot be read, its name is taken, a command is at the cell, or there is
            still no room.
    """
    name, mark, _ = folder.name.rpartition(UNFINISHED)
    if not mark or not name or not folder.is_dir():
        raise StoreError(f"{folder} is no run that was set apart", allowed=f"a folder RUN{UNFINISHED}...")
    final = folder.with_name(name)
    try:
        commit.sweep_leftovers(folder)  # of a manifest that was half-written
        _require_readable(folder)
        with _cell_lock(final):
            commit.commit(folder, final, replace=holds_failure(final))
    except OSError as error:
        raise StoreError(f"{folder} could not become {final}: {error}") from error
    return final


def _require_readable(folder: Path) -> None:
    """Refuse a run of which a file is not what its name says; pages, plots and logs are taken as they are.

    Raises:
        StoreError: A file cannot be read, or there is no result.
    """
    found = runs.parse(folder, folder.name)
    if isinstance(found, runs.Rejected):
        raise StoreError(f"{folder} holds no result: {found.reason}")
    for path in sorted(folder.rglob("*")):
        if path.name == commit.MANIFEST and path.parent != folder:
            commit.verify(path.parent)  # a model
        elif path.suffix == ".json":
            commit.read_json(path)
        elif path.suffix in (".jsonl", ".parquet"):
            _require_rows(path)


def _require_rows(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".parquet":
            pq.read_table(path)
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            json.loads(line)
    except (pa.ArrowException, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


@contextmanager
def _cell_lock(final: Path) -> Iterator[None]:
    """Keep the commands of a sweep from a cell, if the run is one.

    Raises:
        StoreError: One of them is running it.
    """
    sweep = next((place for place in final.parents if (place / ledger.PLACE).is_dir()), None)
    if sweep is None:
        yield
        return
    with commit.FolderLock(Cell(overrides=(), folder=final, sweep=sweep).desk) as lock:
        if not lock.acquire():
            raise StoreError(f"a command is running the cell {final}", hint="the same again when it has ended")
        yield


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
