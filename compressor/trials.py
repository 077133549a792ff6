"""What the run folders of a search's trials say."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

from compressor import commit
from compressor.compare.runs import RESULT, is_tabled
from compressor.errors import CompressorError, Hopeless, StoreError
from compressor.results import OK, RunResult

_DUPLICATE: Final = "skipped(duplicate of "
_HOPELESS: Final = "skipped(hopeless: "


class Objective(StrEnum):
    """What a trial is judged by."""

    accuracy = "accuracy"  # the task's first metric on test: up, or down where less is better
    latency = "latency"  # p50 over the teacher's on the runtime where that is least: down
    bytes = "bytes"  # of the artifact: down


def home(folder: Path) -> Path:
    """Return the folder that holds a trial's result: its own, or that of the cell it is a duplicate of.

    Raises:
        StoreError: There is no record of it, or it is damaged.
    """
    status = _recorded(folder).status
    twin = status.removeprefix(_DUPLICATE).removesuffix(")")
    return folder.parent / twin if status.startswith(_DUPLICATE) else folder


def outcome(folder: Path) -> RunResult:
    """Return what a trial came to.

    Raises:
        Hopeless: It was dropped.
        StoreError: There is no result, or it is damaged.
    """
    result = _recorded(home(folder))
    if result.status.startswith(_HOPELESS):
        raise Hopeless(result.status)
    if result.status != OK:
        raise StoreError(result.status)
    return result


def states(sweep: Path) -> dict[Path, str]:
    """Return how each trial ended whose record is whole, by folder."""
    found = {}
    for path in sorted(sweep.glob(f"*/{RESULT}")):
        with suppress(CompressorError):
            found[path.parent] = _recorded(path.parent).status
    return found


def _recorded(folder: Path) -> RunResult:
    commit.verify(folder, deep=is_tabled)
    return RunResult.from_json(commit.read_json(folder / RESULT))


def measured(result: RunResult, objective: Objective) -> float:
    """Return a trial's value.

    Raises:
        StoreError: It was not measured.
    """
    made = [c for c in result.candidates if c.role in ("teacher", "result")][-1]
    if objective is Objective.bytes:
        return float(made.size_bytes)
    if objective is Objective.accuracy:
        metric = next(iter(made.metrics.values()))
        return metric.value if metric.higher_is_better else -metric.value
    if made.role == "teacher":
        return 1.0
    ratios = [
        c.ratio
        for c in result.comparisons
        if c.candidate == made.name and c.baseline == result.teacher.name and c.ratio is not None
    ]
    if not ratios:
        raise StoreError(f"{made.name} was timed on no runtime")
    return 1 / max(ratios)


def lost_points(result: RunResult) -> float:
    """Return how many points of the teacher's first metric the result has lost."""
    made = [c for c in result.candidates if c.role in ("teacher", "result")][-1]
    name, ours = next(iter(made.metrics.items()))
    sign = 1 if ours.higher_is_better else -1
    return 100 * sign * (result.teacher.metrics[name].value - ours.value)
