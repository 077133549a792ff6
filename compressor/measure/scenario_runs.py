"""Run the experiment once more for each further scenario, in processes of its own: none can disturb the single calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compressor.measure.accuracy import AccuracyResult
from compressor.measure.cuda_energy import with_cuda_energy
from compressor.measure.energy import Meter
from compressor.measure.latency import Judge, LatencyRun, measure_latency
from compressor.measure.raw_texts import write_raw_texts
from compressor.measure.scenarios import Plan, Scenario
from compressor.measure.workload import Workload

if TYPE_CHECKING:
    from compressor.config import BenchConfig
    from compressor.tasks.base import Task

# A block of the whole surface takes minutes, and its large cells hardly scatter: six blocks are the fewest of which a median
# has a 95 % interval, and one round must do.
_SURFACE_LOADS: Final = 3
_SURFACE_BLOCKS: Final = 6
_THROUGHPUT_LOADS: Final = 6  # of a whole batch a call is long and scatters less


def measure_scenarios(
    scored: Sequence[AccuracyResult],
    plan: Plan,
    task: Task,
    splits: Mapping[str, Path],
    workload: Workload,
    bench: BenchConfig,
    workdir: Path,
    *,
    seed: int,
    judge: Judge = lambda samples: [],
    meter: Meter | None = None,
) -> dict[Scenario, LatencyRun]:
    """Time every scenario of a plan, each interleaved over all candidates and runtimes, with the null arms.

    Args:
        scored: Candidates that were scored with this plan, the one to compare with first.
        plan: The scenarios.
        task: Tokenises texts.
        splits: Files of the examples by split.
        workload: What single calls replayed; `end_to_end` replays it too.
        bench: As in `measure_latency`.
        workdir: Folder for the jobs.
        seed: Seed of the random orders.
        judge: Tells by its samples whether a round is to be trusted.
        meter: Counts the energy of the throughput's calls, which are long enough for it; with one, the counter of a CUDA
            device is read too.
    """
    runs = {}
    if plan.end_to_end:
        place = workdir / Scenario.end_to_end.value
        texts = {
            name: write_raw_texts(place / f"{name}.json", one.candidate.folder, task, splits[workload.split], workload)
            for one in scored
            for name in [one.candidate.name]
        }
        runs[Scenario.end_to_end] = measure_latency(scored, bench, place, seed=seed, judge=judge, texts=texts)
    for scenario in plan.replayed:
        settings = replace(bench, warmup_calls=1)  # every shape is warmed up once at least
        if scenario is Scenario.surface:
            settings = replace(settings, rounds=1, loads=_SURFACE_LOADS, blocks=_SURFACE_BLOCKS)
        elif plan.throughput is not None:
            loads = _THROUGHPUT_LOADS if bench.loads % _THROUGHPUT_LOADS == 0 else bench.loads
            settings = replace(settings, batch_size=len(plan.throughput.batches[0]), loads=loads)
        replayed = [replace(one, replay=one.replays.get(scenario)) for one in scored]
        place, counts = workdir / scenario.value, meter if scenario is Scenario.throughput else None
        run = measure_latency(replayed, settings, place, seed=seed, judge=judge, meter=counts)
        runs[scenario] = run if counts is None else with_cuda_energy(run, replayed, settings, place)
    return runs
