"""Small copies of run folders: what a table needs, without models, predictions and timings, so that tables can be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compressor import commit
from compressor.compare.runs import RESULT, SETTINGS, Run
from compressor.errors import StoreError
from compressor.results import RunResult


def keep_results(runs: Sequence[Run], place: Path) -> list[Path]:
    """Write a run folder of `result.json` and `run.yaml` for each run, under its own name; return those that are new.

    Where the models lie, which names folders of this machine, is left out of the result. Such a folder is whole by its own
    manifest, and `load_runs` reads it. Candidates of two of them cannot be paired by example, since predictions are left
    behind. A folder that holds another run of the name is replaced once the new one is whole; a run that was read from
    `place` itself stays as it is.

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
                commit.write_json_atomic(partial / RESULT, _without_places(run.result).to_json())
                (partial / SETTINGS).write_bytes((run.folder / SETTINGS).read_bytes())
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
    try:  # read, not compared as text: a field that came later is in the new text alone
        kept = RunResult.from_json(commit.read_json(final / RESULT))
    except StoreError:
        return False
    return (
        kept == _without_places(run.result) and (final / SETTINGS).read_bytes() == (run.folder / SETTINGS).read_bytes()
    )


def _without_places(result: RunResult) -> RunResult:
    return replace(result, candidates=tuple(replace(c, path=None) for c in result.candidates))
