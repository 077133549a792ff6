"""From timed rounds to records: which rounds are trusted, and what a result keeps of a model's calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.compare.bootstrap import both_loads
from compressor.compare.stability import doubts, unknown
from compressor.compare.statistics import median_interval, percentile_bound, percentile_needs
from compressor.compare.verdicts import compare_latency
from compressor.measure.latency import Complaint, Judge, LatencyResult, LatencyRun, LatencySamples
from compressor.measure.rounds import Samples
from compressor.measure.scenarios import Plan, Scenario
from compressor.results import NULL, Latency, Percentile, ScenarioSpeed
from compressor.runtimes import get_runtime

_PERCENTILES: Final = (0.9, 0.95, 0.99)


def judge_rounds(baseline: str, seed: int) -> Judge:
    """Return what tells, by its samples, whether a round is to be trusted."""

    def judge(samples: Samples) -> list[Complaint]:
        said = []
        for runtime in dict.fromkeys(arm.runtime for arm in samples):
            found = {arm.name: ns for arm, ns in samples.items() if arm.runtime == runtime}
            if (base := found.get(baseline)) is not None:
                said += [Complaint(runtime, t) for t in doubts(base, found.get(NULL), seed=seed)]
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


def latency_record(
    name: str, baseline: str, timed: LatencyResult, run: LatencyRun, *, seed: int, cuda_peak_bytes: int | None = None
) -> Latency:
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
        rounds=sum(r.kept for r in run.rounds),
        load_seconds=samples.load_seconds,
        first_call_seconds=samples.first_call_seconds,
        unstable=(*_doubts(timed.runtime, run), *_unknown(name, baseline, timed, seed)),
        cuda_peak_bytes=cuda_peak_bytes,
    )


def scenario_records(
    name: str, baseline: str, runs: Mapping[Scenario, LatencyRun], plan: Plan, *, seed: int
) -> tuple[ScenarioSpeed, ...]:
    """Return what a result keeps of a model's further scenarios, each with its ratio to the baseline's."""
    return tuple(
        record
        for scenario, run in runs.items()
        for timed in run.runtimes
        for record in _of_scenario(name, baseline, scenario, timed, run, plan, seed)
    )


def _of_scenario(
    name: str, baseline: str, scenario: Scenario, timed: LatencyResult, run: LatencyRun, plan: Plan, seed: int
) -> Iterator[ScenarioSpeed]:
    """Yield one record; of the surface one a cell."""
    common: dict[str, Any] = {"scenario": scenario.value, "runtime": timed.runtime, "threads": timed.threads}
    if name not in timed.timed:
        yield ScenarioSpeed(**common, batch_size=timed.batch_size, refusal=timed.refusals.get(name, "it was not timed"))
        return
    ours, theirs = timed.timed[name], timed.timed.get(baseline)
    common |= {"rounds": sum(r.kept for r in run.rounds), "unstable": _doubts(timed.runtime, run)}
    texts, ranges = 0, [(slice(None), {"batch_size": timed.batch_size})]
    if scenario is Scenario.surface:
        cells = enumerate(plan.surface)
        ranges = [(slice(i, i + 1), {"batch_size": c.batch_size, "length": c.length}) for i, c in cells]
    elif scenario is Scenario.throughput and plan.throughput is not None:
        texts = plan.throughput.texts

    def part(samples: LatencySamples | None, where: slice) -> NDArray[np.int64] | None:
        if samples is None:
            return None
        chosen = samples.samples_ns[..., where]
        return chosen.sum(axis=-1, keepdims=True) if texts else chosen  # a pass over all batches is one sample

    for where, shape in ranges:
        samples, base, null = (part(one, where) for one in (ours, theirs, timed.null))
        assert samples is not None
        found: dict[str, Any] = common | shape | _figure(samples.ravel() / 1e6, texts)
        if base is not None and name != baseline:
            names = name, baseline
            speed = compare_latency(samples, base, null_ns=null, names=names, runtime=timed.runtime, seed=seed)
            ci95 = speed.speed_up.ci95
            found |= {"ratio": speed.speed_up.ratio, "ratio_ci95": (ci95.low, ci95.high)}
            found |= {"verdict": speed.word.value, "null_ratio": speed.null_ratio}
        if ours.energy is not None:
            joules, batches = ours.energy.joules, ours.samples_ns.shape[-1]
            found["joules_per_text"] = None if joules is None else joules / (ours.energy.calls / batches * texts)
            found["energy_unavailable"] = ours.energy.reason
        yield ScenarioSpeed(**found)


def _figure(calls_ms: NDArray[np.float64], texts: int) -> dict[str, Any]:
    """Return the median with its interval: of milliseconds, or of texts a second where each sample is of so many texts."""
    values = texts / (calls_ms / 1e3) if texts else calls_ms
    interval = median_interval(values)
    return {
        "texts_per_second" if texts else "latency_ms_p50": float(np.median(values)),
        "ci95": None if interval is None else (interval.low, interval.high),
        "samples": int(values.size),
    }


def _unknown(name: str, baseline: str, timed: LatencyResult, seed: int) -> list[str]:
    """Say so where all rounds together do not tell the ratio to the baseline to 1 %."""
    base = timed.timed.get(baseline)
    if base is None or name == baseline:
        return []
    beside = both_loads(base.samples_ns, None if timed.null is None else timed.null.samples_ns)
    return list(filter(None, [unknown(name, timed.timed[name].samples_ns, beside, seed=seed)]))


def _doubts(runtime: str, run: LatencyRun) -> tuple[str, ...]:
    """Return what speaks against the rounds that count, on one runtime, each reason once."""
    kept = [c for r in run.rounds if r.kept for c in r.complaints]
    return tuple(dict.fromkeys(c.text for c in kept if c.runtime in (None, runtime)))
