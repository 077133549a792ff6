"""One cell of a multirun: looked up, run in a process of its own, and recorded however it ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compressor import commit, tracking
from compressor.cells import ledger
from compressor.cells.child import INTERRUPTED, OUTCOME
from compressor.cells.supervisor import Ending, Stop, supervise
from compressor.compare.runs import is_tabled
from compressor.config import CellConfig, RunConfig, TrackingConfig
from compressor.errors import CompressorError, Hopeless, StoreError
from compressor.machine import module_paths
from compressor.registry import Registry
from compressor.report.screen import Screen
from compressor.results import OK, RunResult
from compressor.runfolder import RunFolder
from compressor.runkey import run_key
from compressor.training.shared_outputs import FOLDER as SHARED_OUTPUTS

ENDED: Final = 11  # exit code of a cell that was ended from outside: time, memory, a signal
OUTPUT: Final = "output.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell as it was asked for.

    Attributes:
        overrides: As typed, for the reproduction line.
        folder: Where its run folder shall stand.
        sweep: The folder of the whole sweep, somewhere above it.
    """

    overrides: tuple[str, ...]
    folder: Path
    sweep: Path

    @property
    def desk(self) -> Path:
        """What it needs while it runs stands beside this."""
        return self.sweep / ledger.PLACE / "%".join(self.folder.relative_to(self.sweep).parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """What a cell's process is told.

    Attributes:
        config: The typed config.
        values: The same as JSON values.
        limits: Of the process.
        tracking: Where a cell that was finished elsewhere or before is mirrored to; a run mirrors itself.
    """

    config: RunConfig
    values: Mapping[str, Any]
    limits: CellConfig
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a cell ended; `code` is 0 where it stands, as a result or as another's duplicate."""

    result: RunResult
    code: int


def run_cell(cell: Cell, compose: Callable[[], Composed], registry: Registry, screen: Screen) -> Outcome:
    """Run a cell, unless its folder holds its result already; a cell whose key a finished sibling has is its duplicate.

    Args:
        cell: The cell.
        compose: Returns what its process is told; what it raises is the cell's failure.
        registry: The methods.
        screen: Gets what the cell prints.

    Raises:
        KeyboardInterrupt: We were interrupted; the cell is recorded as such.
    """
    start = time.perf_counter()
    key = ""

    def ended(status: str, code: int, output: Path | None = None) -> Outcome:
        result = RunResult(status=status, run_key=key, task="", seed=0, seconds_total=time.perf_counter() - start)
        try:
            record(result, cell, output)
        except CompressorError as error:  # the folder is taken, or the disk is full: the table still names the cell
            screen.failure(error)
        return Outcome(result=result, code=code)

    try:
        clear_failed(cell.folder)
        composed = compose()
        key = run_key(composed.config, registry)
        if (before := _finished(cell.folder)) is not None and before.run_key == key:
            screen.line("finished", f"before, in {cell.folder}")
            _catch_up(cell.folder, composed, screen)
            return Outcome(result=before, code=0)
        if before is not None:
            error = StoreError(
                f"{cell.folder} holds a finished run of other settings, code, libraries or data",
                hint="another hydra.sweep.dir, or move the folder away",
            )
            screen.failure(error)  # not recorded: what is finished stays
            status = f"failed({type(error).__name__}: {error.got})"
            return Outcome(
                result=RunResult(status=status, run_key=key, task="", seed=0, seconds_total=0.0), code=error.exit_code
            )
        if (twin := _finished_twin(cell, key)) is not None:
            _catch_up(cell.sweep / twin, composed, screen)
            return ended(f"skipped(duplicate of {twin})", 0)
    except CompressorError as error:
        screen.failure(error)
        return ended(f"failed({type(error).__name__}: {error.got})", error.exit_code)
    try:
        with _desk(cell) as place, commit.disk_errors(place):
            output = place / OUTPUT
            try:
                ending = _run(cell, composed, place, output)
            except KeyboardInterrupt:
                ended("interrupted", INTERRUPTED, output)
                raise
            if (result := _finished(cell.folder)) is not None and result.run_key == key:
                if ending.code != 0 and ending.stop is None:  # it died after its run, and may have sent nothing
                    _catch_up(cell.folder, composed, screen)
                return Outcome(result=result, code=0)
            if ending.survivors:
                screen.line("warning", f"processes of the cell could not be ended: {ending.survivors}")
            status, code = describe(ending, _told(place), composed.limits)
            screen.line("cell", status)
            return ended(status, code, output)
    except CompressorError as error:  # the disk is full: the other cells may need less
        screen.failure(error)
        return ended(f"failed({type(error).__name__}: {error.got})", error.exit_code)


def _catch_up(folder: Path, composed: Composed, screen: Screen) -> None:
    """Mirror a run that stands already, where a mirror is wanted and its copy is not made."""
    if (said := tracking.catch_up(folder, composed.tracking)) is not None:
        screen.line("tracking", said)


@contextmanager
def _desk(cell: Cell) -> Iterator[Path]:
    """Lend a folder for what the cell's process is told and prints; those of killed sweeps are removed."""
    commit.sweep_leftovers(cell.desk.parent)
    desk = commit.open_partial(cell.desk, keep_existing=True)
    try:
        yield desk
    finally:
        commit.discard(desk)


def describe(ending: Ending, told: Mapping[str, Any] | None, limits: CellConfig) -> tuple[str, int]:
    """Return the status of a cell that left no result, and the exit code that it stands for.

    Args:
        ending: How its process ended.
        told: What it said of an error, if it could.
        limits: What it was allowed.
    """
    peak = f"{ending.peak_bytes / 1e9:.1f} GB"
    if ending.stop is Stop.wall:
        return f"timeout(not finished after {limits.timeout_s:g} s: cell.timeout_s)", ENDED
    if ending.stop is Stop.stall:
        return f"timeout(neither printed nor computed for {limits.stall_s:g} s: cell.stall_s)", ENDED
    if ending.stop is Stop.silence:
        return f"timeout(computed without printing for {limits.silent_s:g} s: cell.silent_s)", ENDED
    if ending.stop is Stop.memory:
        return f"oom(held {peak}, and cell.memory_gb={limits.memory_gb:g})", ENDED
    if told is not None and told.get("memory"):
        return f"oom({told['kind']}: {told['got']})", ENDED
    if told is not None and told["kind"] == Hopeless.__name__:
        return f"skipped(hopeless: {told['got']})", 0
    if told is not None:
        return f"failed({told['kind']}: {told['got']})", int(told["code"])
    if ending.code == -signal.SIGKILL and ending.out_of_memory:
        return f"oom(the system ended it; it was seen to hold {peak})", ENDED
    if ending.code < 0:
        return f"killed({signal.Signals(-ending.code).name})", ENDED
    if ending.code == INTERRUPTED:
        return "interrupted", INTERRUPTED
    return f"failed(its process ended with exit code {ending.code} and without a result)", 1


def _run(cell: Cell, composed: Composed, place: Path, output: Path) -> Ending:
    """Run the cell's process, its output shown as it comes."""
    job = place / "job.json"
    values = {
        "parent": os.getpid(),
        "overrides": list(cell.overrides),
        "folder": str(cell.folder.resolve()),
        "config": composed.values,
        "floors": str(ledger.floors(cell.sweep.resolve(), ledger.token())),
    }
    commit.write_text(job, json.dumps(values))
    # -P: the current folder must not shadow a module beyond what it did for us, and that is in PYTHONPATH.
    command = [sys.executable, "-P", "-m", "compressor.cells.child", str(job)]
    environment = _environment(shared=cell.sweep / ledger.PLACE / ledger.SHARED)
    return supervise(command, environment=environment, limits=composed.limits, log=output, show=_show)


def _environment(*, shared: Path) -> dict[str, str]:
    """Return our environment, with modules found where we find them and tables as wide as our terminal.

    Args:
        shared: Folder for what the cells share.
    """
    return {
        **os.environ,
        "PYTHONPATH": module_paths(),
        SHARED_OUTPUTS: str(shared.resolve()),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "COLUMNS": str(shutil.get_terminal_size((100, 24)).columns),
    }


def _show(chunk: bytes) -> None:
    sys.stdout.write(chunk.decode(errors="replace"))
    sys.stdout.flush()


def _told(place: Path) -> Mapping[str, Any] | None:
    try:
        told = commit.read_json(place / OUTCOME)
    except CompressorError:
        return None
    return told if isinstance(told, dict) and {"kind", "got", "code"} <= set(told) else None


def record(result: RunResult, cell: Cell, output: Path | None) -> None:
    """Write the run folder of a cell without a result: why, what was asked for, and what it printed."""
    with RunFolder(cell.folder) as place:
        place.write_yaml("run.yaml", {"overrides": list(cell.overrides)})
        if output is not None and output.is_file():
            with commit.disk_errors(place.path / OUTPUT):
                shutil.copyfile(output, place.path / OUTPUT)
        place.write_result(result, cell.overrides)
        place.commit()


def clear_failed(folder: Path) -> None:
    """Remove the record of a cell that failed or was skipped; it holds no result, and the cell is tried again."""
    if holds_failure(folder):
        commit.set_aside(folder)


def holds_failure(folder: Path) -> bool:
    """Tell whether a folder is the whole record of a cell that failed or was skipped."""
    recorded = (folder / "result.json").is_file() and commit.is_complete(folder, deep=is_tabled)
    return recorded and _finished(folder) is None


def _finished(folder: Path) -> RunResult | None:
    """Return the result of a run folder that is whole and went well."""
    if not (folder / "result.json").is_file() or not commit.is_complete(folder, deep=is_tabled):
        return None
    result = RunResult.from_json(commit.read_json(folder / "result.json"))
    return result if result.status == OK else None


def _finished_twin(cell: Cell, key: str) -> str | None:
    """Return the name of another run folder of the sweep with the same run key."""
    depth = len(cell.folder.relative_to(cell.sweep).parts)
    for path in sorted(cell.sweep.glob("*/" * depth + "result.json")):
        result = _finished(path.parent)
        if path.parent != cell.folder and result is not None and result.run_key == key:
            return str(path.parent.relative_to(cell.sweep))
    return None
