"""Energy of models on a CUDA device, from the device's own counter (NVML).

It moves in steps of tens of milliseconds, so models that take turns call by call cannot be told apart by it. Instead each runs
the same batches by itself for some seconds, in processes one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import MeasureError
from compressor.measure.accuracy import AccuracyResult
from compressor.measure.energy import Energy
from compressor.measure.latency import LatencyResult, LatencyRun
from compressor.measure.memory import replay_job
from compressor.measure.processes import run_worker
from compressor.runtimes import get_runtime

if TYPE_CHECKING:
    from compressor.config import BenchConfig

_SECONDS = 30.0  # of calls


def with_cuda_energy(
    run: LatencyRun, candidates: Sequence[AccuracyResult], bench: BenchConfig, workdir: Path
) -> LatencyRun:
    """Return the run with the energy of what was timed on a CUDA device, or why it is not known.

    Args:
        run: Of the candidates' replays.
        candidates: As they were timed.
        bench: Threads and timeout.
        workdir: Folder for the jobs.
    """
    return replace(run, runtimes=tuple(_measured(timed, candidates, bench, workdir) for timed in run.runtimes))


def _measured(
    timed: LatencyResult, candidates: Sequence[AccuracyResult], bench: BenchConfig, workdir: Path
) -> LatencyResult:
    if get_runtime(timed.runtime).device != "cuda":
        return timed
    known = dict(timed.timed)
    for one in candidates:
        if (name := one.candidate.name) in known:
            known[name] = replace(known[name], energy=_energy(one, timed.runtime, bench, workdir))
    return replace(timed, timed=known)


def _energy(scored: AccuracyResult, runtime: str, bench: BenchConfig, workdir: Path) -> Energy:
    name = scored.candidate.name
    job = {**replay_job(scored, runtime, bench), "kind": "cuda_energy", "seconds": _SECONDS}
    what, folder = f"the process that counts the energy of '{name}' on {runtime}", workdir / f"energy-{name}-{runtime}"
    try:
        return Energy(**run_worker(job, folder, name=what, threads=bench.threads, timeout_s=bench.timeout_s))
    except MeasureError as error:  # all the timing is done, and stays
        reason = error.got.partition("\n")[0]
        return Energy(joules=None, seconds=0.0, calls=0, idle_watts=None, reason=reason)
