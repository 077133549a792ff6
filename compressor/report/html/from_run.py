"""The page of one run: its result, and the calls that were timed, as a `Report`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from compressor.compare.attribution import Attribution, SpeedPart
from compressor.report import cells
from compressor.report.examples import Examples
from compressor.report.html.run_rows import TIMES, duration, matrix_rows, signed
from compressor.report.html.view import Model, Point, Report, Stair, Staircase, Stairs, Step, Strip, Timing, Tradeoff
from compressor.report.markdown import METHOD
from compressor.report.speed import WORDS, start_words
from compressor.report.speed_tables import speed_grids
from compressor.report.statistics import calibration
from compressor.report.verdict import headline, typographic, verdicts
from compressor.report.work import work_grids
from compressor.results import OK, CandidateResult, Comparison, Latency, LineageStep, RunResult

_STRIPS = (
    "Shape: where the calls lie, over texts of all lengths; line: the median; dots: the slowest 5 % of the calls, "
    "with an arrow where some lie beyond the edge."
)
Calls = Mapping[str, Mapping[str, Sequence[float]]]  # runtime -> model -> milliseconds


def from_run(
    result: RunResult,
    *,
    calls_ms: Calls | None = None,
    parts: Sequence[Attribution] = (),
    examples: Examples | None = None,
    overrides: Sequence[str] = (),
    price_per_hour: float | None = None,
) -> Report:
    """Return what the page of one run shows.

    Args:
        result: The run.
        calls_ms: What `read_calls` found; without it the page has no distributions.
        parts: Where the speed-ups come from.
        examples: What `read_examples` found; without it the page has neither flips nor slices.
        overrides: What was typed.
        price_per_hour: Of the machine; adds the cost of making each model.
    """
    title = f"{result.task}, seed {result.seed}" if result.task else "A run without a result"
    command = shlex.join(["python", "-m", "compressor", *overrides])
    if result.status != OK or not result.candidates:
        return Report(title=title, verdict=(f"Status: {result.status}",), command=command)
    ordered = cells.ordered(result)
    models = {c.name: _model(i + 1, c) for i, c in enumerate(ordered)}
    said = verdicts(result, ascii_only=False) or [headline(result, ascii_only=False)]
    names, calibrated = [c.name for c in ordered], calibration(result)
    sentences = [*(c.sentence for c in result.comparisons), *(() if examples is None else examples.best)]
    return Report(
        title=title,
        verdict=tuple(said),
        facts=_facts(result),
        models=tuple(models.values()),
        rows=matrix_rows(result, ordered, price_per_hour),
        tradeoffs=_tradeoffs(result, ordered, models),
        timings=tuple(_timings(result, models, calls_ms or {})),
        stairs=_stairs(result, parts, models),
        speeds=(*speed_grids(result), *work_grids(result)),
        flips=() if examples is None else examples.flips,
        slices=() if examples is None else examples.slices,
        calibration=() if calibrated is None else (calibrated,),
        sentences=tuple(typographic(said, names) for said in sentences),
        notes=(*cells.notes(result), *_noisy(result)),
        method=METHOD,
        lineage=tuple(_step(c.name, s) for c in ordered for s in c.lineage),
        command=command,
        environment=result.environment,
    )


def _stairs(result: RunResult, parts: Sequence[Attribution], models: Mapping[str, Model]) -> Stairs | None:
    if not parts:
        return None

    def stair(part: SpeedPart) -> Stair:
        return Stair(name=part.name, ratio=part.ratio, ci95=(part.ci95.low, part.ci95.high))

    return Stairs(
        reference=f"{result.teacher.name} in {start_words(parts[0])}",
        staircases=tuple(
            Staircase(
                model=models[a.candidate],
                runtime=a.runtime,
                total=stair(a.total),
                parts=tuple(stair(part) for part in a.parts),
            )
            for a in parts
        ),
        caption=WORDS.replace("`", ""),
    )


def read_calls(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Read `timings/<runtime>.parquet` of a run folder as runtime -> model -> milliseconds; empty where there are none."""
    import numpy as np
    import pyarrow.parquet as pq

    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted((folder / "timings").glob("*.parquet")):
        table = pq.read_table(path, columns=["candidate", "ns"])
        names, ms = np.asarray(table["candidate"].to_pylist()), np.asarray(table["ns"], np.float64) / 1e6
        found[path.stem] = {str(name): ms[names == name].tolist() for name in dict.fromkeys(names.tolist())}
    return found


def _model(number: int, candidate: CandidateResult) -> Model:
    return Model(number=number, name=candidate.name, role="" if candidate.role == candidate.name else candidate.role)


def _facts(result: RunResult) -> tuple[str, ...]:
    machine, timed = result.environment, next((e for c in result.candidates for e in c.latency), None)
    facts = [str(machine["cpu"])] if "cpu" in machine else []
    facts += [f"{machine['cores']} cores"] if "cores" in machine else []
    if timed is not None:
        facts += [f"{timed.threads} thread{'s' * (timed.threads > 1)}", f"batch {timed.batch_size}"]
    facts += [f"n = {m.n:,} ({name})" for name, m in result.teacher.metrics.items()]
    return (*facts, f"run in {duration(result.seconds_total)}")


def _tradeoffs(
    result: RunResult, ordered: Sequence[CandidateResult], models: Mapping[str, Model]
) -> tuple[Tradeoff, ...]:
    """One plane a runtime, and one of bytes, under the first metric."""
    metric = next(iter(cells.metric_names(result)), None)
    if metric is None or len(ordered) < 2 or not result.teacher.metrics[metric].higher_is_better:
        return ()
    scored = [c for c in ordered if metric in c.metrics]
    y_label = f"{metric}, of 100"
    bars = "Bars: 95 % intervals of the difference from the teacher (paired by example)"
    planes = []
    for runtime in cells.runtimes(result):
        points = []
        for c in scored:
            ratio = cells.of_runtime(result, c, runtime)
            if c is result.teacher:
                points.append(_point(result, c, models[c.name], metric, 1.0, None, ""))
            elif ratio is not None and ratio.ratio is not None:
                said = f"{TIMES}{ratio.ratio:.2f} on {runtime}"
                points.append(_point(result, c, models[c.name], metric, ratio.ratio, ratio.ci95, said))
        if len(points) > 1:
            absent = [c.name for c in ordered if c.name not in {p.model.name for p in points}]
            missing = f" Not timed on {runtime}: {', '.join(absent)}." if absent else ""
            planes.append(
                Tradeoff(
                    key=runtime,
                    x_label=f"speed-up over {result.teacher.name} on {runtime}",
                    y_label=y_label,
                    y_most=100.0,
                    points=tuple(points),
                    caption=f"{bars} and of the speed-up. Line: the front of the point estimates.{missing}",
                )
            )
    sized = [
        _point(result, c, models[c.name], metric, c.size_bytes / 1e6, None, f"{cells.megabytes(c.size_bytes)} MB")
        for c in scored
    ]
    planes.append(
        Tradeoff(
            key="bytes",
            x_label="size on disk, MB",
            y_label=y_label,
            y_most=100.0,
            points=tuple(sized),
            x_higher_is_better=False,
            caption=f"{bars}; bytes are counted. Line: the front of the point estimates.",
        )
    )
    return tuple(planes)


def _point(
    result: RunResult,
    candidate: CandidateResult,
    model: Model,
    metric: str,
    x: float,
    x_ci95: tuple[float, float] | None,
    said: str,
) -> Point:
    """Place a model; the interval of its difference is put around the teacher's value."""
    value, base = candidate.metrics[metric].value * 100, result.teacher.metrics[metric].value * 100
    gap: Comparison | None = cells.of_metric(result, candidate, metric)
    y_ci95 = None if gap is None else (base + gap.ci95[0] * 100, base + gap.ci95[1] * 100)
    words = [f"{model.name}: {metric} {value:.1f}", said]
    if gap is not None and gap.difference is not None:
        words.append(f"{signed(gap.difference)} points, {gap.verdict}")
    return Point(
        model=model,
        x=x,
        y=value,
        x_ci95=x_ci95,
        y_ci95=y_ci95,
        reference=candidate is result.teacher,
        title="; ".join(word for word in words if word),
    )


def _timings(result: RunResult, models: Mapping[str, Model], calls_ms: Calls) -> list[Timing]:
    order, found = cells.runtimes(result), []
    candidates = {c.name: c for c in result.candidates}
    for runtime in sorted(calls_ms, key=lambda name: order.index(name) if name in order else len(order)):
        by_name = calls_ms[runtime]
        strips = [
            Strip(model=m, calls_ms=tuple(by_name[n]), bounds_ms=_bounds(cells.latency_of(candidates[n], runtime)))
            for n, m in models.items()
            if by_name.get(n)
        ]
        if strips:
            found.append(Timing(key=runtime, strips=tuple(strips), caption=_STRIPS))
    return found


def _bounds(timed: Latency | None) -> dict[str, float]:
    known = () if timed is None else timed.percentiles
    return {f"p{p.level * 100:g}": p.bound_ms for p in known if p.bound_ms is not None}


def _noisy(result: RunResult) -> list[str]:
    """Say what the null arm showed on each runtime."""
    compared = [c for c in result.comparisons if c.baseline == result.teacher.name]
    shown = {c.runtime: c.null_ratio for c in compared if c.runtime and c.null_ratio is not None}
    return [
        f"{runtime}: the instrument's own error, a second load of {result.teacher.name} against the first, is "
        f"{TIMES}{ratio:.3f}"
        for runtime, ratio in shown.items()
    ]


def _step(name: str, step: LineageStep) -> Step:
    text = f"{step.method} ({step.distribution} {step.version}, {duration(step.seconds)})"
    return Step(model=name, text=text, options=json.dumps(step.config, default=str))
