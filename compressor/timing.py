"""From timed rounds to records: which rounds are trusted, and what a result keeps of a model's calls."""

from __future__ import annotations

from typing import Any, Final

from compressor.compare.stability import doubts, unknowns
from compressor.compare.statistics import median_interval, percentile_bound, percentile_needs
from compressor.measure.latency import Complaint, Judge, LatencyResult, LatencyRun
from compressor.measure.rounds import NULL, Samples
from compressor.results import Latency, Percentile
from compressor.runtimes import get_runtime

_PERCENTILES: Final = (0.9, 0.95, 0.99)


def judge_rounds(baseline: str, seed: int) -> Judge:
    """Return what tells, by its samples, whether a round is to be trusted."""

    def judge(samples: Samples) -> list[Complaint]:
        said = []
        for runtime in dict.fromkeys(arm.runtime for arm in samples):
            found = {arm.name: ns for arm, ns in samples.items() if arm.runtime == runtime}
            if (base := found.pop(baseline, None)) is not None:
                said += [Complaint(runtime, t) for t in doubts(base, found.pop(NULL, None), seed=seed)]
                said += [Complaint(runtime, t, again=False) for t in unknowns(base, found, seed=seed)]
        return said

    return judge


def round_records(run: LatencyRun) -> list[dict[str, Any]]:
    """Return how each round went, as plain values."""
    return [
        {
            "round": r.number,
            "attempt": r.attempt,
            "kept": r.kept,
            "complaints": [" on ".join((c.text, *filter(None, [c.runtime]))) for c in r.complaints],
            **r.conditions.to_json(),
        }
        for r in run.rounds
    ]


def latency_record(name: str, timed: LatencyResult, run: LatencyRun) -> Latency:
    """Return what a result keeps of a model's calls on one runtime, or why there are none."""
    samples, precision = timed.timed.get(name), get_runtime(timed.runtime).precision
    if samples is None:
        return Latency(
            runtime=timed.runtime,
            precision=precision,
            threads=timed.threads,
            batch_size=timed.batch_size,
            refusal=timed.refusals.get(name, "it was not timed"),
        )
    calls_ms = samples.samples_ns.ravel() / 1e6
    interval = median_interval(calls_ms)
    return Latency(
        runtime=timed.runtime,
        precision=precision,
        threads=timed.threads,
        batch_size=timed.batch_size,
        latency_ms_p50=samples.p50_ms,
        ci95=None if interval is None else (interval.low, interval.high),
        samples=calls_ms.size,
        same_prediction_rate=samples.same_prediction_rate,
        percentiles=tuple(
            Percentile(level=level, bound_ms=percentile_bound(calls_ms, level), needs=percentile_needs(level))
            for level in _PERCENTILES
        ),
        rounds=len(samples.samples_ns),
        load_seconds=samples.load_seconds,
        first_call_seconds=samples.first_call_seconds,
        unstable=_doubts(timed.runtime, run),
    )


def _doubts(runtime: str, run: LatencyRun) -> tuple[str, ...]:
    """Return what speaks against the rounds that count, on one runtime, each reason once."""
    kept = [c for r in run.rounds if r.kept for c in r.complaints]
    return tuple(dict.fromkeys(c.text for c in kept if c.runtime in (None, runtime)))
