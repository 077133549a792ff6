"""From timed rounds to records: which rounds are trusted, and what a result keeps of a model's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.compare.bootstrap import Calls, median_interval
from compressor.compare.stability import doubts, unknown
from compressor.compare.statistics import percentile_bound, percentile_needs
from compressor.compare.verdicts import LatencyVerdict, compare_latency
from compressor.measure.latency import Complaint, Judge, LatencyResult, LatencyRun
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


def compare_speeds(
    name: str,
    baseline: str,
    timed: LatencyResult,
    *,
    seed: int,
    part: Callable[[Calls], Calls] = lambda samples_ns: samples_ns,
) -> LatencyVerdict | None:
    """Judge a model's calls on a runtime against another's; None where one of them was not timed, or there is one only.

    The null arm is a second load of the experiment's first model. Where that is the baseline, ratios are taken to both loads;
    against any other it is the check and nothing more.

    Args:
        name: The model.
        baseline: The other.
        timed: What was timed on the runtime.
        seed: Seed of the bootstrap.
        part: Takes from each model's samples those that are compared.
    """
    if name == baseline or name not in timed.timed or baseline not in timed.timed:
        return None
    first = next(iter(timed.timed))  # the null arm goes where it goes
    loads = tuple(part(one.samples_ns) for one in (timed.timed[first], timed.null) if one is not None)
    return compare_latency(
        part(timed.timed[name].samples_ns),
        loads if baseline == first else part(timed.timed[baseline].samples_ns),
        null=loads if timed.null is not None else None,
        names=(name, baseline),
        runtime=timed.runtime,
        seed=seed,
    )


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
    calls_ms = samples.samples_ns / 1e6
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
            Percentile(level=level, bound_ms=percentile_bound(calls_ms.ravel(), level), needs=percentile_needs(level))
            for level in _PERCENTILES
        ),
        rounds=sum(r.kept for r in run.rounds),
        load_seconds=samples.load_seconds,
        first_call_seconds=samples.first_call_seconds,
        warmup_calls=samples.warmup_calls,
        unstable=(*_doubts(timed, run), *_unknown(compare_speeds(name, baseline, timed, seed=seed))),
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
    ours = timed.timed[name]
    common |= {"rounds": sum(r.kept for r in run.rounds)}
    texts, ranges = 0, [(slice(None), {"batch_size": timed.batch_size})]
    if scenario is Scenario.surface:
        cells = enumerate(plan.surface)
        ranges = [(slice(i, i + 1), {"batch_size": c.batch_size, "length": c.length}) for i, c in cells]
    elif scenario is Scenario.throughput and plan.throughput is not None:
        texts = plan.throughput.texts
    for where, shape in ranges:

        def part(samples_ns: Calls, where: slice = where) -> Calls:
            chosen = samples_ns[..., where]
            return chosen.sum(axis=-1, keepdims=True) if texts else chosen  # a pass over all batches is one sample

        found: dict[str, Any] = common | shape | _figure(part(ours.samples_ns) / 1e6, texts)
        speed = compare_speeds(name, baseline, timed, seed=seed, part=part)
        if speed is not None:
            ci95 = speed.speed_up.ci95
            found |= {"ratio": speed.speed_up.ratio, "ratio_ci95": (ci95.low, ci95.high)}
            found |= {"verdict": speed.word.value, "null_ratio": speed.null_ratio}
        if ours.energy is not None:
            joules, batches = ours.energy.joules, ours.samples_ns.shape[-1]
            found["joules_per_text"] = None if joules is None else joules / (ours.energy.calls / batches * texts)
            found["energy_unavailable"] = ours.energy.reason
        # The surface's few loads tell no ratio so well, and each stands there with its interval.
        hardly_known = [] if scenario is Scenario.surface else _unknown(speed)
        yield ScenarioSpeed(**found, unstable=(*_doubts(timed, run), *hardly_known))


def _figure(calls_ms: NDArray[np.float64], texts: int) -> dict[str, Any]:
    """Return the median of [..., blocks, texts] with its interval: milliseconds, or texts a second of so many a sample."""
    values = texts / (calls_ms / 1e3) if texts else calls_ms
    interval = median_interval(values)
    return {
        "texts_per_second" if texts else "latency_ms_p50": float(np.median(values)),
        "ci95": None if interval is None else (interval.low, interval.high),
        "samples": int(values.size),
    }


def _unknown(speed: LatencyVerdict | None) -> list[str]:
    return [] if speed is None else list(filter(None, [unknown(speed)]))


def _doubts(timed: LatencyResult, run: LatencyRun) -> tuple[str, ...]:
    """Return what speaks against the rounds that count, on one runtime, each reason once."""
    kept = [c for r in run.rounds if r.kept for c in r.complaints]
    said = [c.text for c in kept if c.runtime in (None, timed.runtime)]
    if why := timed.refusals.get(NULL):
        said.append(f"nothing checked the instrument, for the teacher's second load was refused: {why}")
    return tuple(dict.fromkeys(said))
