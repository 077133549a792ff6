"""Accuracy of a saved artifact, with every prediction kept, so that two models can be compared example by example."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.artifact import Form
from compressor.machine import usable_cores
from compressor.measure.candidate import Candidate
from compressor.measure.kept import keep
from compressor.measure.processes import run_worker, side_by_side
from compressor.measure.scenarios import NOTHING, Plan, Scenario
from compressor.measure.work import WorkResult
from compressor.measure.workload import Workload
from compressor.measure.zeros import ZerosResult

if TYPE_CHECKING:
    from compressor.config import BenchConfig
    from compressor.tasks.base import Task

_EXPORT = "onnx"  # folder of the export within the job's
_MOST_THREADS = 4
_BATCH = 32  # float32 logits do not depend on it beyond 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitScore:
    """One split's predictions, in the order of its examples."""

    split: str
    metrics: Mapping[str, float]
    ids: tuple[int, ...]
    predictions: tuple[Any, ...]
    references: tuple[Any, ...]
    tokens: tuple[int, ...]  # length of each text in this candidate's tokens
    file: Path  # the same and the logits, as parquet
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """What the scoring process found out about one candidate.

    Attributes:
        candidate: The candidate.
        splits: Scores by split name.
        parameters: Parameters of the re-loaded model, shared ones once.
        zeros: How many of them are not zero, and the deflated size of their files.
        work: Multiplications of a text and bits of a parameter.
        exact: Whether its arithmetic is float32 throughout, so that other runs must give the same logits.
        replay: The workload in this candidate's tokens; None if none was given.
        replays: What other scenarios replay instead.
        onnx: Folder of the exported `model.onnx`; None if none was asked for or it failed.
        export_refusal: Why the export failed.
        export_seconds: What the export took.
    """

    candidate: Candidate
    splits: Mapping[str, SplitScore]
    parameters: int
    zeros: ZerosResult
    work: WorkResult
    exact: bool
    replay: Path | None = None
    replays: Mapping[Scenario, Path] = field(default_factory=dict)
    onnx: Path | None = None
    export_refusal: str | None = None
    export_seconds: float | None = None


def measure_accuracy(
    candidate: Candidate,
    splits: Mapping[str, Path],
    task: Task,
    workdir: Path,
    *,
    bench: BenchConfig,
    workload: Workload | None = None,
    export: bool = False,
    kept: Path | None = None,
    plan: Plan = NOTHING,
    threads: int = 1,
) -> AccuracyResult:
    """Re-load the artifact in a fresh process and score it in the runtime that executes its own bytes.

    A compiled artifact is scored at `bench.batch_size`, because dynamic int8 depends on batch mates.

    Args:
        candidate: What is scored.
        splits: Split name -> file written by `write_examples`.
        task: The task; its label order must be the artifact's.
        workdir: Folder for the job; predictions stay in it.
        bench: Batch size of the timed runs, and the timeout.
        workload: Texts that will be timed; they are tokenised here, by this candidate's tokenizer.
        export: Whether a torch artifact shall be exported to ONNX as well.
        kept: Cache of what was scored before; None scores anew.
        plan: Further scenarios, whose texts are tokenised as well.
        threads: Threads of the process; the number changes logits by less than 1e-5.

    Raises:
        MeasureError: The process failed, the logits are not finite, or the label orders differ.
    """
    folder = workdir / f"score-{candidate.name}"
    torch_form = candidate.form is Form.torch

    def named(chosen: Workload | None) -> dict[str, Any] | None:
        return None if chosen is None else {"file": str(splits[chosen.split].resolve()), "batches": chosen.batches}

    job = {
        "kind": "score",
        "folder": str(candidate.folder.resolve()),
        "form": candidate.form.value,
        "splits": {name: str(path.resolve()) for name, path in splits.items()},
        "task": asdict(task.config),
        "label_names": list(task.label_names),
        "batch_size": _BATCH if torch_form else bench.batch_size,
        "threads": threads,
        "workload": named(workload),
        "throughput": named(plan.throughput),
        "surface": plan.surface,
        "export_to": _EXPORT if export and torch_form else None,
    }

    def work(place: Path) -> dict[str, Any]:
        name = f"scoring of '{candidate.name}'"
        return run_worker(job, place, name=name, threads=threads, timeout_s=bench.timeout_s)

    if kept is None:
        answer = work(folder)
    else:
        answer, folder = keep(job, candidate.folder, kept, folder, work)
    export_answer = answer.get("export", {})
    exported = bool(export_answer) and export_answer["refusal"] is None
    return AccuracyResult(
        candidate=candidate,
        splits={name: _split_score(name, found, folder) for name, found in answer["splits"].items()},
        parameters=answer["parameters"],
        zeros=ZerosResult(**answer["zeros"]),
        work=WorkResult(**answer["work"]),
        exact=answer["exact"],
        replay=folder / "replay.npz" if workload is not None else None,
        replays={s: folder / f"{s.value}.npz" for s in plan.replayed} if workload is not None else {},
        onnx=folder / _EXPORT if exported else None,
        export_refusal=export_answer.get("refusal"),
        export_seconds=export_answer.get("seconds"),
    )


def measure_accuracies(
    candidates: Sequence[Candidate],
    splits: Mapping[str, Path],
    task: Task,
    workdir: Path,
    *,
    bench: BenchConfig,
    workload: Workload | None = None,
    export: bool = False,
    kept: Path | None = None,
    plan: Plan = NOTHING,
    processes: int = 0,
) -> list[AccuracyResult]:
    """Score several candidates side by side: in processes of one thread on two cores, of up to four where there are more.

    One thread each is faster than sharing two cores in turn, and does not collapse when other work runs beside it. How many
    there are depends on the machine alone, so that a score does not change with who is scored beside.

    Args:
        candidates: What is scored; results come in this order.
        splits: As in `measure_accuracy`, and so are the other arguments.
        task: The task.
        workdir: Folder for the jobs.
        bench: Batch size of the timed runs, and the timeout.
        workload: Texts that will be timed.
        export: Whether torch artifacts shall be exported to ONNX as well.
        kept: Cache of scores; used for the first candidate, which many runs share.
        plan: Further scenarios.
        processes: Processes at a time; 0 is as many as the cores allow.

    Raises:
        MeasureError: A process failed.
    """
    cores = usable_cores()
    threads = max(1, min(_MOST_THREADS, cores // 2))

    def one(candidate: Candidate) -> AccuracyResult:
        return measure_accuracy(
            candidate,
            splits,
            task,
            workdir,
            bench=bench,
            workload=workload,
            export=export,
            kept=kept if candidate is candidates[0] else None,
            plan=plan,
            threads=threads,
        )

    return side_by_side(one, candidates, processes or max(1, cores // threads))


def _split_score(name: str, found: Mapping[str, Any], folder: Path) -> SplitScore:
    import pyarrow.parquet as pq

    file = folder / found["file"]
    table = pq.read_table(file, columns=["id", "prediction", "label", "tokens"]).to_pydict()
    return SplitScore(
        split=name,
        metrics=found["metrics"],
        ids=tuple(table["id"]),
        predictions=tuple(json.loads(p) for p in table["prediction"]),
        references=tuple(json.loads(r) for r in table["label"]),
        tokens=tuple(table["tokens"]),
        file=file,
        seconds=found["seconds"],
    )
