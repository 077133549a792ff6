"""Synthetic run folders, through the real result and commit code: what a run leaves, without the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from compressor import commit
from compressor.compare.statistics import wilson_interval
from compressor.compare.verdicts import compare_accuracy
from compressor.config import RunConfig
from compressor.results import Agreement, CandidateResult, Comparison, Latency, LineageStep, MetricValue, RunResult
from compressor.tasks.metrics import Accuracy

MACHINE = {
    "protocol": 1,
    "cpu": "Some CPU",
    "cpu_flags": ["avx2"],
    "cores": 2,
    "affinity": [0, 1],
    "cpu_quota": "none",
    "governor": "unavailable",
    "smt": "unavailable",
    "machine": "x86_64",
    "memory_bytes": 8 * 2**30,
    "packages": {"torch": "2.13.0", "onnxruntime": "1.22.0"},
}
OTHER_MACHINE = MACHINE | {"cpu": "Other CPU"}
N = 400


@dataclass(frozen=True, kw_only=True)
class Model:
    """A candidate to be written: right on `right` of the examples, wrong first on those from `shift` on."""

    name: str = "distill"
    role: str = "result"
    right: int = 320
    shift: int = 0
    parameters: int = 22_000_000
    size_bytes: int = 90_000_000
    memory: int | None = 200_000_000
    speeds: Mapping[str, float] = field(default_factory=lambda: {"torch": 2.0})  # over the teacher; 0 is refused
    methods: Sequence[tuple[str, Mapping[str, Any]]] = (("distill", {"temperature": 2.0}),)
    spread: float = 0.01  # half of the speed-up's interval, as a share
    null_ratio: float = 1.001
    verdicts: bool = True
    unstable: tuple[str, ...] = ()
    changed: tuple[int, int] | None = None  # answers gained and lost against the teacher, as the run recorded them


TEACHER = Model(
    name="teacher",
    role="teacher",
    right=344,
    parameters=33_000_000,
    size_bytes=134_000_000,
    speeds={"torch": 1.0, "onnxruntime": 1.0},
    methods=(),
)


def correct(model: Model, n: int = N) -> np.ndarray:
    found = np.zeros(n, bool)
    found[(np.arange(model.right) + model.shift) % n] = True
    return found


def write_run(
    folder: Path,
    *models: Model,
    teacher: Model = TEACHER,
    seed: int = 0,
    task: str = "rotten_tomatoes",
    environment: Mapping[str, Any] = MACHINE,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    ids: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    threads: int = 1,
    base_ms: float = 10.0,
    changes: Mapping[str, Any] | None = None,
    predictions: bool = True,
) -> Path:
    """Write and commit one run folder; `settings` are dotted options of `run.yaml`'s config."""
    ids = list(range(N)) if ids is None else list(ids)
    labels = [i % 2 for i in range(len(ids))] if labels is None else list(labels)
    every = (teacher, *models)
    right = {m.name: correct(m, len(ids)) for m in every}
    result = RunResult(
        status="ok",
        run_key=f"key-{folder.name}",
        task=task,
        seed=seed,
        seconds_total=sum(map(ord, str(folder))) + seed + 0.5,
        candidates=tuple(_candidate(m, right[m.name], threads, base_ms) for m in every),
        comparisons=tuple(c for m in models if m.verdicts for c in _comparisons(m, teacher, right, labels)),
        environment=environment,
        task_type="classification",
        label_names=("no", "yes"),
    )
    result = replace(result, **(changes or {}))
    config = json.loads(json.dumps(asdict(RunConfig(seed=seed)), default=str))
    config["task"]["name"] = task
    for key, value in (settings or {}).items():
        *path, last = key.split(".")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    with commit.partial_folder(folder) as partial:
        commit.write_json_atomic(partial / "result.json", result.to_json())
        (partial / "run.yaml").write_text(yaml.safe_dump({"overrides": list(overrides), "config": config}))
        (partial / "report.md").write_text("report\n")
        (partial / "predictions").mkdir()
        for model in every if predictions else ():
            given = np.where(right[model.name], labels, 1 - np.asarray(labels)).tolist()
            table = {
                "id": ids,
                "prediction": [json.dumps(p) for p in given],
                "label": [json.dumps(p) for p in labels],
                "logits": pa.array([[0.25, 0.75]] * len(ids), type=pa.list_(pa.float32())),
                "tokens": [9] * len(ids),
            }
            pq.write_table(pa.table(table), partial / "predictions" / f"{model.name}-test.parquet")
    return folder


def write_status(folder: Path, status: str, overrides: Sequence[str] = ()) -> Path:
    """Write the record of a cell that failed or was skipped."""
    result = RunResult(status=status, run_key="", task="", seed=0, seconds_total=1.0)
    with commit.partial_folder(folder) as partial:
        commit.write_json_atomic(partial / "result.json", result.to_json())
        (partial / "run.yaml").write_text(yaml.safe_dump({"overrides": list(overrides)}))
    return folder


def _candidate(model: Model, right: np.ndarray, threads: int, base_ms: float) -> CandidateResult:
    interval = wilson_interval(int(right.sum()), len(right))
    accuracy = MetricValue(
        value=float(right.mean()), ci95=(interval.low, interval.high), n=len(right), higher_is_better=True
    )
    return CandidateResult(
        name=model.name,
        role=model.role,
        lineage=tuple(
            LineageStep(method=name, distribution="encoder-compressor", version="0.1.0", config=config, seconds=60.0)
            for name, config in model.methods
        ),
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        metrics={"accuracy": accuracy},
        latency=tuple(
            replace(_latency(runtime, speed, threads, base_ms), unstable=model.unstable)
            for runtime, speed in model.speeds.items()
        ),
        peak_memory_bytes=model.memory,
        path=f"candidates/{model.name}",
        agreement={} if model.changed is None else {"test": _agreement(*model.changed, len(right))},
    )


def _agreement(gained: int, lost: int, n: int) -> Agreement:
    interval = wilson_interval(n - gained - lost, n)
    rate = (n - gained - lost) / n
    return Agreement(rate=rate, ci95=(interval.low, interval.high), n=n, gained=gained, lost=lost, changed=0)


def _latency(runtime: str, speed: float, threads: int, base_ms: float) -> Latency:
    if not speed:
        return Latency(runtime=runtime, threads=threads, batch_size=1, refusal="no such operation")
    ms = base_ms / speed
    return Latency(
        runtime=runtime,
        threads=threads,
        batch_size=1,
        latency_ms_p50=ms,
        ci95=(ms * 0.95, ms * 1.05),
        samples=240,
        same_prediction_rate=1.0,
    )


def _comparisons(
    model: Model, teacher: Model, right: Mapping[str, np.ndarray], labels: Sequence[int]
) -> list[Comparison]:
    truth = np.asarray(labels)
    guesses = [np.where(right[m.name], truth, 1 - truth).tolist() for m in (model, teacher)]
    found = compare_accuracy(
        Accuracy(), guesses[0], guesses[1], truth.tolist(), ("no", "yes"), names=(model.name, teacher.name), seed=0
    )
    shared = {"candidate": model.name, "baseline": teacher.name, "sentence": "said"}
    quality = Comparison(
        **shared,
        verdict=found.word.value,
        ci95=(found.ci95.low, found.ci95.high),
        detectable_difference=found.detectable,
        metric="accuracy",
        difference=found.difference,
    )
    speeds = [
        Comparison(
            **shared,
            verdict="faster" if speed > 1.02 else "inconclusive",
            ci95=(speed * (1 - model.spread), speed * (1 + model.spread)),
            detectable_difference=0.02,
            runtime=runtime,
            ratio=speed,
            null_ratio=model.null_ratio,
        )
        for runtime, speed in model.speeds.items()
        if speed and teacher.speeds.get(runtime)
    ]
    return [quality, *speeds]
