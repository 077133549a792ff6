"""Latency of several candidates on one runtime, measured against each other in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import Form
from compressor.errors import MeasureError
from compressor.measure.accuracy import AccuracyResult
from compressor.measure.processes import run_worker
from compressor.runtimes import Runtime, get_runtime

if TYPE_CHECKING:
    from compressor.config import BenchConfig

NULL = "(first, loaded again)"  # the null arm: any ratio but 1 that it shows is the instrument's own error
MAX_LOGIT_DIFFERENCE = 1e-3  # between float32 runs of one model
MIN_AGREEMENT = 0.9  # of predictions, for models whose arithmetic is not exact


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySamples:
    """One candidate's calls.

    Attributes:
        samples_ns: [blocks, batches] nanoseconds; the same texts in every row.
        load_seconds: Loading and the first call, files warm.
        same_prediction_rate: Share of timed predictions that are those of the scoring run (scores: nearly).
        max_logit_difference: Largest difference from the scoring run's logits.
    """

    samples_ns: NDArray[np.int64]
    load_seconds: float
    same_prediction_rate: float
    max_logit_difference: float

    @property
    def p50_ms(self) -> float:
        """Median over all calls, in milliseconds."""
        return float(np.median(self.samples_ns)) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyResult:
    """What one runtime's timing process found.

    Attributes:
        runtime: The runtime.
        threads: Threads of a call.
        batch_size: Texts a call.
        timed: Samples by candidate name, in the order given; refused ones are missing.
        null: The first candidate loaded a second time; None when it was refused.
        refusals: Why a candidate could not be timed, in the runtime's own words.
        file: Raw samples as parquet (candidate, block, text, ns); None when nothing was timed.
    """

    runtime: str
    threads: int
    batch_size: int
    timed: Mapping[str, LatencySamples]
    null: LatencySamples | None
    refusals: Mapping[str, str]
    file: Path | None


def measure_latency(
    candidates: Sequence[AccuracyResult], runtime: str, bench: BenchConfig, workdir: Path, *, seed: int
) -> LatencyResult:
    """Time the candidates interleaved on one runtime, with a second load of the first as the null arm.

    A candidate that the runtime does not take, or whose timed predictions are not those of its scoring run, is
    refused with a reason and has no latency.

    Args:
        candidates: Scored candidates with a replay, the one to compare with first.
        runtime: Name of the runtime.
        bench: Threads, batch size, blocks, warm-up and timeout.
        workdir: Folder for the job; raw samples stay in it.
        seed: Seed of the random orders.

    Raises:
        MeasureError: The process failed although each candidate runs when it is alone.
    """
    engine = get_runtime(runtime)
    refusals = {c.candidate.name: why for c in candidates if (why := _unfit(c, engine))}
    arms = {c.candidate.name: _arm(c, engine) for c in candidates if c.candidate.name not in refusals}
    folder = workdir / f"latency-{runtime}"
    job = {
        "kind": "latency",
        "runtime": runtime,
        "threads": bench.threads,
        "blocks": bench.blocks,
        "warmup_calls": bench.warmup_calls,
        "seed": seed,
    }
    first = candidates[0].candidate.name

    def measure(names: Sequence[str]) -> dict[str, Any]:
        chosen = [arms[name] | {"name": name} for name in names]
        if first in names:
            chosen.append(arms[first] | {"name": NULL})
        return run_worker(
            job | {"candidates": chosen},
            folder,
            name=f"timing on {runtime}",
            threads=bench.threads,
            timeout_s=bench.timeout_s,
        )

    answer: dict[str, Any] = {"timed": [], "refusals": {}}
    if arms:
        try:
            answer = measure(list(arms))
        except MeasureError:
            # Someone took the process down. Who cannot run alone is refused; the others are measured without it.
            crashed = _who_crashes(job, arms, workdir, runtime, bench)
            if not crashed:
                raise
            refusals |= crashed
            if left := [name for name in arms if name not in crashed]:
                answer = measure(left)
    timed = _read_samples(folder, answer) if answer["timed"] else {}
    refusals |= {name: why for name, why in answer["refusals"].items() if name != NULL}
    null = timed.pop(NULL, None)
    for candidate in candidates:
        name = candidate.candidate.name
        if name in timed and (why := _disagreement(timed[name], candidate.exact)):
            refusals[name] = why
            del timed[name]
    return LatencyResult(
        runtime=runtime,
        threads=bench.threads,
        batch_size=bench.batch_size,
        timed=timed,
        null=null if first in timed else None,
        refusals=refusals,
        file=folder / "samples.parquet" if timed else None,
    )


def _unfit(scored: AccuracyResult, engine: Runtime) -> str | None:
    """Return why this artifact is not even tried on this runtime."""
    form = scored.candidate.form
    if why := engine.available():
        return why
    if not engine.accepts(form):
        return f"{engine.name} does not execute artifacts of form {form.value}"
    if form is Form.torch and engine.needs_export and scored.onnx is None:
        return scored.export_refusal or "it was not exported to ONNX"
    if scored.replay is None:
        return "its texts were not tokenised when it was scored"
    return None


def _arm(scored: AccuracyResult, engine: Runtime) -> dict[str, str]:
    folder = scored.candidate.folder
    if scored.candidate.form is Form.torch and engine.needs_export:
        assert scored.onnx is not None
        folder = scored.onnx
    return {
        "folder": str(folder.resolve()),
        "form": scored.candidate.form.value,
        "replay": str((scored.replay or Path()).resolve()),
    }


def _who_crashes(
    job: Mapping[str, Any], arms: Mapping[str, Mapping[str, str]], workdir: Path, runtime: str, bench: BenchConfig
) -> dict[str, str]:
    """Load and run each candidate in a process of its own, and return what became of those that failed."""
    crashed = {}
    for name, arm in arms.items():
        try:
            run_worker(
                {**job, "candidates": [{**arm, "name": name}], "blocks": 0},
                workdir / f"probe-{runtime}-{name}",
                name=f"a trial of '{name}' on {runtime}",
                threads=bench.threads,
                timeout_s=bench.timeout_s,
            )
        except MeasureError as error:
            crashed[name] = error.got
    return crashed


def _read_samples(folder: Path, answer: Mapping[str, Any]) -> dict[str, LatencySamples]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "samples.parquet")
    names = np.asarray(table["candidate"].to_pylist())
    blocks = int(np.asarray(table["block"]).max()) + 1
    ns = np.asarray(table["ns"], dtype=np.int64)
    return {
        name: LatencySamples(
            samples_ns=ns[names == name].reshape(blocks, -1),
            load_seconds=answer["load_seconds"][name],
            **answer["agreement"][name],
        )
        for name in answer["timed"]
    }


def _disagreement(samples: LatencySamples, exact: bool) -> str | None:
    """Return why these predictions are not the saved model's, or None."""
    rate, worst = samples.same_prediction_rate, samples.max_logit_difference
    if exact and (worst > MAX_LOGIT_DIFFERENCE or rate < 1):
        return (
            f"it gives other results than the saved model: logits differ by up to {worst:.1e} "
            f"(allowed {MAX_LOGIT_DIFFERENCE:.0e}), {rate:.1%} of the predictions are the same"
        )
    if rate < MIN_AGREEMENT:
        return f"only {rate:.1%} of its predictions are those of the saved model (allowed from {MIN_AGREEMENT:.0%})"
    return None
