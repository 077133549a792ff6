"""Peak memory of a candidate: a process that runs the workload, less one that only imports the runtime.

Resident memory right after loading is far too low, because safetensors are mapped and read in when first used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import MeasureError
from compressor.measure.accuracy import AccuracyResult
from compressor.measure.processes import run_worker, side_by_side
from compressor.runtimes import runtime_for

if TYPE_CHECKING:
    from compressor.config import BenchConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResult:
    """Peak resident memory of one candidate in the runtime that executes its own bytes."""

    candidate: str
    runtime: str
    peak_bytes: int
    control_bytes: int  # the same process without a model

    @property
    def model_bytes(self) -> int | None:
        """What the model adds; None when it is too small to be told from the runtime itself."""
        added = self.peak_bytes - self.control_bytes
        return added if added > 0 else None


def measure_memory(candidates: Sequence[AccuracyResult], bench: BenchConfig, workdir: Path) -> dict[str, MemoryResult]:
    """Measure the peak memory of each candidate in a process of its own; one control a runtime.

    Raises:
        MeasureError: A process failed, or a candidate has no replay.
    """
    jobs: dict[str, dict[str, Any]] = {}
    runtimes: dict[str, str] = {}
    for scored in candidates:
        candidate = scored.candidate
        runtimes[candidate.name] = runtime = runtime_for(candidate.form).name
        jobs[candidate.name] = job = replay_job(scored, runtime, bench) | {"kind": "memory"}
        jobs[f"control-{runtime}"] = job | {"folder": None}
    # Two at a time: a peak does not depend on its neighbours.
    found = side_by_side(lambda name: _peak(name, jobs[name], bench, workdir), list(jobs), 2)
    peaks = dict(zip(jobs, found, strict=True))
    return {
        name: MemoryResult(
            candidate=name, runtime=runtime, peak_bytes=peaks[name], control_bytes=peaks[f"control-{runtime}"]
        )
        for name, runtime in runtimes.items()
    }


def measure_cuda_memory(
    candidates: Sequence[AccuracyResult], timed: Collection[tuple[str, str]], bench: BenchConfig, workdir: Path
) -> dict[tuple[str, str], int]:
    """Measure what each candidate allocates on the CUDA device at most, in bytes, by candidate and runtime.

    Args:
        candidates: As in `measure_memory`.
        timed: (candidate, CUDA runtime) of everything that could be timed.
        bench: Threads and timeout.
        workdir: Folder for the jobs.
    """
    by_name = {scored.candidate.name: scored for scored in candidates}
    cells = list(timed)

    def peak(cell: tuple[str, str]) -> int:
        job = replay_job(by_name[cell[0]], cell[1], bench) | {"kind": "memory"}
        return _peak("-".join(cell), job, bench, workdir)

    return dict(zip(cells, side_by_side(peak, cells, 2), strict=True))


def replay_job(scored: AccuracyResult, runtime: str, bench: BenchConfig) -> dict[str, Any]:
    """Return what a process that runs a candidate's workload on one runtime has to know, but for its kind.

    Raises:
        MeasureError: The candidate has no workload.
    """
    candidate = scored.candidate
    if scored.replay is None:
        raise MeasureError(f"'{candidate.name}' was scored without a workload", allowed="workload=...")
    return {
        "runtime": runtime,
        "replay": str(scored.replay.resolve()),
        "threads": bench.threads,
        "form": candidate.form.value,
        "folder": str(candidate.folder.resolve()),
    }


def _peak(name: str, job: Mapping[str, Any], bench: BenchConfig, workdir: Path) -> int:
    what, folder = f"the memory process of '{name}'", workdir / f"memory-{name}"
    return int(run_worker(job, folder, name=what, threads=bench.threads, timeout_s=bench.timeout_s)["peak_bytes"])
