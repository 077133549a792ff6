"""From saved artifacts to results: measure every one the same way, compare each with the teacher."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import assets, registry
from compressor.artifact import CompressedModel
from compressor.compare.predictions import PREDICTIONS, Tables, prediction_file, read_tables
from compressor.compare.records import (
    accuracy_comparison,
    agreements,
    calibrations,
    latency_comparison,
    metric_name,
    metric_values,
)
from compressor.compare.texts import write_texts
from compressor.compare.verdicts import compare_accuracy
from compressor.config import RunConfig
from compressor.families import most_tokens
from compressor.measure.accuracy import AccuracyResult, measure_accuracies
from compressor.measure.candidate import Candidate
from compressor.measure.energy import Meter
from compressor.measure.environment import busy, environment
from compressor.measure.examples import write_examples
from compressor.measure.latency import LatencyRun, measure_latency
from compressor.measure.lone import alone_on_this_machine
from compressor.measure.memory import MemoryResult, measure_cuda_memory, measure_memory
from compressor.measure.samples import write_samples
from compressor.measure.saved import require_saved_is_what_was_made
from compressor.measure.scenario_runs import measure_scenarios
from compressor.measure.scenarios import NOTHING, Plan, Scenario, plan_scenarios
from compressor.measure.size import measure_size
from compressor.measure.workload import Replay, Workload, choose_workload, pad_replay
from compressor.results import OK, PADDED, CandidateResult, Comparison, LineageStep, RunResult, Work
from compressor.runtimes import get_runtime
from compressor.tasks import TASK_TYPES
from compressor.tasks.base import Padding, Task
from compressor.tasks.data import TaskData
from compressor.timing import compare_speeds, judge_rounds, latency_record, round_records, scenario_records

if TYPE_CHECKING:
    from compressor.training.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A saved artifact that shall have a row: `role` is teacher, result or baseline."""

    name: str
    role: str
    folder: Path
    artifact: CompressedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that the measuring processes found out. `tables` are the predictions, by candidate and split."""

    scored: Mapping[str, AccuracyResult]
    tables: Mapping[str, Tables]
    latency: LatencyRun
    memory: Mapping[str, MemoryResult]
    cuda_peaks: Mapping[tuple[str, str], int]  # bytes, by candidate and runtime
    workload: Workload
    plan: Plan
    scenarios: Mapping[Scenario, LatencyRun]


def assess(
    entries: Sequence[Entry],
    task: Task,
    data: TaskData,
    config: RunConfig,
    folder: Path,
    *,
    run_key: str,
    progress: Progress,
) -> RunResult:
    """Measure the entries, teacher first, and compare.

    Raw data (predictions, timings, texts) is left in `folder` as Parquet. Nothing here reads a model from memory: every
    quantity comes from the saved folder, in a fresh process.

    Raises:
        MeasureError: A measuring process failed.
        StoreError: What it wrote cannot be read, or is of other examples than the teacher's.
    """
    before = busy()
    measured = _measure(entries, task, data, config, folder, progress)
    for entry in entries:
        require_saved_is_what_was_made(entry.artifact, measured.scored[entry.name])
    _keep_raw(measured, folder)
    if config.bench.keep_texts:
        for split, rows in data.tests().items():
            write_texts(folder, split, rows)
    return RunResult(
        status=OK,
        run_key=run_key,
        task=task.name,
        task_type=task.type,
        label_names=task.label_names,
        seed=config.seed,
        seconds_total=0.0,
        candidates=tuple(_candidate(e, entries[0].name, measured, task, config, folder) for e in entries),
        comparisons=tuple(
            c for ours, theirs in _pairs(entries) for c in _comparisons(ours, theirs, measured, task, config)
        ),
        environment={
            **environment(threads=config.bench.threads),
            "before_measuring": before,
            "data": data.fingerprint,
            "splits": data.digests(),
            "workload": _workload_record(measured, config),
            "rounds": round_records(measured.latency),
            **_scenario_facts(measured),
        },
        notes=(*_notes(entries), *_padding_notes(measured.latency), *measured.plan.left_out),
    )


def _workload_record(measured: Measured, config: RunConfig) -> dict[str, Any]:
    """Return which texts were timed, and how long they are in the teacher's tokens."""
    table = next(iter(measured.tables.values()))[measured.workload.split]
    tokens = dict(zip(table.ids, table.tokens, strict=True))
    batches = measured.workload.batches
    return {
        "split": measured.workload.split,
        "ids": [list(batch) for batch in batches],
        "tokens": [[tokens[i] for i in batch] for batch in batches],
        "seed": config.seed,
    }


def _scenario_facts(measured: Measured) -> dict[str, Any]:
    """Return how the rounds of the further scenarios went; nothing where there were none."""
    rounds = {scenario.value: round_records(run) for scenario, run in measured.scenarios.items()}
    facts: dict[str, Any] = {"scenario_rounds": rounds} if rounds else {}
    if measured.plan.throughput is not None:
        facts["throughput_texts"] = [list(batch) for batch in measured.plan.throughput.batches]
    return facts


def _pairs(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return who is compared with whom: everyone with the teacher, the result also with each baseline."""
    teacher, *others = entries
    baselines = [e for e in others if e.role == "baseline"]
    return [(e, teacher) for e in others] + [(e, b) for e in others if e.role == "result" for b in baselines]


def _measure(
    entries: Sequence[Entry], task: Task, data: TaskData, config: RunConfig, folder: Path, progress: Progress
) -> Measured:
    work, bench = folder / "workspace" / "measure", config.bench
    files = {name: write_examples(work / f"{name}.jsonl", rows) for name, rows in data.tests().items()}
    workload = choose_workload(
        task,
        entries[0].artifact.tokenizer,
        data.test,
        split="test",
        texts=bench.texts,
        batch_size=bench.batch_size,
        seed=config.seed,
    )
    positions = {e.name: most_tokens(e.artifact.config) for e in entries}
    plan = plan_scenarios(task, entries[0].artifact.tokenizer, data.test, bench, positions, seed=config.seed)
    with progress.task("measuring", 2 + bool(bench.memory) + (plan != NOTHING)) as bar:
        found = measure_accuracies(
            [Candidate(entry.name, entry.folder, entry.artifact.form) for entry in entries],
            files,
            task,
            work,
            bench=bench,
            workload=workload,
            export=any(get_runtime(name).needs_export for name in bench.runtimes),
            kept=assets.cache_root() / "scores",
            plan=plan,
        )
        scored = {one.candidate.name: one for one in found}
        bar.advance()
        judge = judge_rounds(entries[0].name, config.seed)
        padded = _padded(found[0], entries[0].artifact, task, work) if bench.padded else None
        scenarios: Mapping[Scenario, LatencyRun] = {}
        with alone_on_this_machine():
            latency = measure_latency(found, bench, work, seed=config.seed, judge=judge, padded=padded)
            bar.advance()
            if plan != NOTHING:
                scenarios = measure_scenarios(
                    found, plan, task, files, workload, bench, work, seed=config.seed, judge=judge, meter=Meter()
                )
                bar.advance()
        memory: Mapping[str, MemoryResult] = {}
        cuda_peaks: Mapping[tuple[str, str], int] = {}
        if bench.memory:
            memory = measure_memory(found, bench, work)
            cuda_peaks = measure_cuda_memory(found, _on_cuda(latency), bench, work)
            bar.advance()
    predicted = {name: {split: score.file for split, score in one.splits.items()} for name, one in scored.items()}
    return Measured(
        scored=scored,
        tables=read_tables(predicted),
        latency=latency,
        memory=memory,
        cuda_peaks=cuda_peaks,
        workload=workload,
        plan=plan,
        scenarios=scenarios,
    )


def _padded(scored: AccuracyResult, artifact: CompressedModel, task: Task, work: Path) -> Path:
    """Write the teacher's texts, padded to the longest that the task and the model take."""
    assert scored.replay is not None
    longest = min(filter(None, [task.config.max_length, most_tokens(artifact.config)]))
    path = work / "padded.npz"
    pad_replay(Replay.load(scored.replay), Padding.of(artifact.tokenizer), longest).save(path)
    return path


def _on_cuda(latency: LatencyRun) -> list[tuple[str, str]]:
    """Return (candidate, runtime) of all that was timed on a CUDA device."""
    return [(name, t.runtime) for t in latency.runtimes if get_runtime(t.runtime).device == "cuda" for name in t.timed]


def _keep_raw(measured: Measured, folder: Path) -> None:
    """Move predictions and timings out of the workspace."""
    (folder / PREDICTIONS).mkdir()
    for name, scored in measured.scored.items():
        for split, score in scored.splits.items():
            shutil.copy(score.file, prediction_file(folder, name, split))
    for timed in measured.latency.runtimes:
        if timed.timed:
            write_samples(timed, folder / "timings" / f"{timed.runtime}.parquet")
    for scenario, run in measured.scenarios.items():
        for timed in run.runtimes:
            if timed.timed:
                write_samples(timed, folder / "timings" / scenario.value / f"{timed.runtime}.parquet")


def _candidate(
    entry: Entry, teacher: str, measured: Measured, task: Task, config: RunConfig, folder: Path
) -> CandidateResult:
    scored, tables = measured.scored[entry.name], measured.tables[entry.name]
    memory = measured.memory.get(entry.name)
    inside = entry.folder.is_relative_to(folder)
    return CandidateResult(
        name=entry.name,
        role=entry.role,
        lineage=tuple(
            LineageStep(
                method=s.method,
                distribution=s.distribution,
                version=s.version,
                config=s.config,
                seconds=s.seconds,
                notes=s.notes,
            )
            for s in entry.artifact.lineage
        ),
        parameters=scored.parameters,
        size_bytes=measure_size(entry.folder).size_bytes,
        non_zeros=scored.zeros.non_zeros,
        encoder_zero_share=scored.zeros.encoder_zero_share,
        zipped_bytes=scored.zeros.zipped_bytes,
        metrics=metric_values(tables, task, seed=config.seed),
        latency=tuple(
            latency_record(
                entry.name,
                teacher,
                t,
                measured.latency,
                seed=config.seed,
                cuda_peak_bytes=measured.cuda_peaks.get((entry.name, t.runtime)),
            )
            for t in measured.latency.runtimes
        ),
        peak_memory_bytes=None if memory is None else memory.model_bytes,
        path=str(entry.folder.relative_to(folder) if inside else entry.folder),
        calibration=calibrations(tables, task, seed=config.seed),
        supported_tasks=_supported_tasks(entry.artifact),
        agreement={} if entry.name == teacher else agreements(tables, measured.tables[teacher], task),
        scenarios=scenario_records(entry.name, teacher, measured.scenarios, measured.plan, seed=config.seed),
        work=Work(**scored.work.to_json()),
    )


def _supported_tasks(artifact: CompressedModel) -> tuple[str, ...] | None:
    """Return the task types that every method of the chain takes; None where a method is not installed here."""
    known = registry.load().methods
    if any(step.method not in known for step in artifact.lineage):
        return None
    declared = [known[step.method].method.capabilities.tasks for step in artifact.lineage]
    return tuple(name for name in TASK_TYPES if all(tasks is None or name in tasks for tasks in declared))


def _comparisons(entry: Entry, baseline: Entry, measured: Measured, task: Task, config: RunConfig) -> list[Comparison]:
    found = []
    for split, table in measured.tables[entry.name].items():
        for metric in task.metrics:
            verdict = compare_accuracy(
                metric,
                table.predictions,
                measured.tables[baseline.name][split].predictions,
                table.references,
                task.label_names,
                names=(entry.name, baseline.name),
                seed=config.seed,
                margin=config.bench.margin,
                metric_name=metric_name(metric, split),
            )
            found.append(accuracy_comparison(verdict))
    speeds = (compare_speeds(entry.name, baseline.name, t, seed=config.seed) for t in measured.latency.runtimes)
    return found + [latency_comparison(speed) for speed in speeds if speed is not None]


def _notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Say what the lineage knows and a reader of the table should."""
    return tuple(
        f"{entry.name}: {step.notes['linears_quantised']} of {step.notes['linears_eligible']} eligible linears quantised"
        for entry in entries
        for step in entry.artifact.lineage
        if "linears_quantised" in step.notes
    )


def _padding_notes(run: LatencyRun) -> tuple[str, ...]:
    """Say why nothing is known of padding where it was asked for."""
    refused = [(t.runtime, t.refusals[PADDED]) for t in run.runtimes if PADDED in t.refusals]
    return tuple(f"{runtime}, padded texts: {why}" for runtime, why in refused)
