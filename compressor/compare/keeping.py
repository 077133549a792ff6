"""Small copies of run folders: what a table needs, without models, predictions and timings, so that tables can be kept."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from compressor import commit
from compressor.compare.runs import RESULT, SETTINGS, Run
from compressor.errors import StoreError


def keep_results(runs: Sequence[Run], place: Path) -> list[Path]:
    """Write a run folder of `result.json` and `run.yaml` for each run, under its own name; return those that are new.

    Such a folder is whole by its own manifest, and `load_runs` reads it. Candidates of two of them cannot be paired by
    example, since predictions are left behind. A folder that holds another run of the name is replaced once the new one
    is whole; the run that was read, itself in `place`, stays as it is.

    Raises:
        StoreError: Two runs have one name, something else stands where a folder shall be, or the disk is full.
    """
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StoreError(
            f"two runs are called {', '.join(twice[:3])}", hint="give the folder above both, so that their names differ"
        )
    new = []
    for run in runs:
        final = place / run.name
        if final.resolve() == run.folder.resolve() or _same(run, final):
            continue
        if final.exists() and not (final / commit.MANIFEST).is_file():
            raise StoreError(f"{final} is no run folder, and is not replaced", allowed="another folder")
        partial = commit.open_partial(final, keep_existing=True)
        try:
            with commit.disk_errors(partial):
                for name in (RESULT, SETTINGS):
                    shutil.copyfile(run.folder / name, partial / name)
                commit.set_aside(final)
            commit.commit(partial, final)
        except BaseException:
            commit.discard(partial)
            raise
        new.append(final)
    return new


def _same(run: Run, final: Path) -> bool:
    """Tell whether the copy is there already."""
    if not commit.is_complete(final):
        return False
    pairs = ((run.folder / name, final / name) for name in (RESULT, SETTINGS))
    return all(copy.is_file() and copy.read_bytes() == original.read_bytes() for original, copy in pairs)
