"""Tables on speed beyond single calls: cold start, calls from raw text, throughput, the surface of shapes."""

from __future__ import annotations

from collections.abc import Iterable

from compressor.report import cells
from compressor.report.grid import Grid
from compressor.results import CandidateResult, RunResult, ScenarioSpeed


def speed_grids(result: RunResult) -> tuple[Grid, ...]:
    """Return the tables of one run; each is left out where nothing was measured."""
    found = (
        _cold_start(result),
        _timed(result, "From raw text, tokenizer included", "end_to_end", "p50 ms"),
        _timed(result, "Throughput", "throughput", "texts/s"),
        _surface(result),
    )
    return tuple(grid for grid in found if grid is not None)


def scenario(candidate: CandidateResult, name: str, runtime: str) -> ScenarioSpeed | None:
    """Find a candidate's timing in a scenario of one figure a runtime."""
    return next((s for s in candidate.scenarios if s.scenario == name and s.runtime == runtime), None)


def times(found: ScenarioSpeed) -> str:
    """Ratio, its interval, the verdict; `-` for the teacher."""
    if found.ratio is None or found.ratio_ci95 is None:
        return cells.NOTHING
    return f"x{found.ratio:.2f} ({found.ratio_ci95[0]:.2f}..{found.ratio_ci95[1]:.2f}) {found.verdict}"


def _cold_start(result: RunResult) -> Grid | None:
    cuda = any(entry.cuda_peak_bytes is not None for c in result.candidates for entry in c.latency)
    rows = tuple(
        (
            candidate.name,
            entry.runtime,
            f"{entry.load_seconds:.2f}",
            f"{entry.first_call_seconds * 1e3:.1f}",
            *([cells.megabytes(entry.cuda_peak_bytes)] if cuda else []),
        )
        for candidate in cells.ordered(result)
        for entry in candidate.latency
        if entry.load_seconds is not None and entry.first_call_seconds is not None
    )
    lead = "Loading (libraries imported, files warm), then the first call: medians over processes. No interval: not compared."
    if cuda:
        lead += " Device memory: what torch allocated there at most."
    header = ("model", "runtime", "load s", "first call ms", *(["device MB"] if cuda else []))
    return Grid(title="Cold start", lead=lead, header=header, rows=rows) if rows else None


def _timed(result: RunResult, title: str, name: str, unit: str) -> Grid | None:
    found = list(_of(result, name))
    rows = tuple(
        (candidate.name, s.runtime, str(s.batch_size), _figure(s), times(s), *_energy(s, name), _remark(s))
        for candidate, s in found
    )
    energy = ["J/text"] if name == "throughput" else []
    header = ("model", "runtime", "batch", unit, "speed-up", *energy, "remark")
    known = any(s.joules_per_text is not None for _, s in found)
    lead = "J/text: above rest, of the processors for a CPU's runtimes, of the graphics card alone for a card's."
    return Grid(title=title, lead=lead if known else "", header=header, rows=rows) if rows else None


def _surface(result: RunResult) -> Grid | None:
    """Return a row a shape, a column a model and runtime."""
    found = list(_of(result, "surface"))
    lines: dict[tuple[str, str], dict[tuple[int, int], str]] = {}
    remarks: dict[str, None] = {}  # the shapes of a model share most of theirs
    for candidate, s in found:
        said = [f"{candidate.name} on {s.runtime}: {s.refusal}"] if s.refusal else []
        remarks |= dict.fromkeys([*said, *(f"{s.runtime}: {why}" for why in s.unstable)])
        if s.length is not None:
            ratio = f", {times(s)}" if s.ratio is not None else ""
            lines.setdefault((candidate.name, s.runtime), {})[s.batch_size, s.length] = f"{_figure(s)}{ratio}"
    shapes = list(dict.fromkeys(shape for line in lines.values() for shape in line))
    rows = tuple(
        (str(batch), str(length), *(line.get((batch, length), cells.NOTHING) for line in lines.values()))
        for batch, length in shapes
    )
    header = ("batch", "tokens", *(f"{name}, {runtime}: p50 ms" for name, runtime in lines))
    return Grid(title="By batch size and length", header=header, rows=rows, notes=tuple(remarks)) if found else None


def _of(result: RunResult, name: str) -> Iterable[tuple[CandidateResult, ScenarioSpeed]]:
    return ((c, s) for c in cells.ordered(result) for s in c.scenarios if s.scenario == name)


def _figure(found: ScenarioSpeed) -> str:
    value = found.latency_ms_p50 if found.texts_per_second is None else found.texts_per_second
    if value is None:
        return "refused"
    half = "" if found.ci95 is None else f" +-{max(value - found.ci95[0], found.ci95[1] - value):.2f}"
    return f"{value:.2f}{half}"


def _energy(found: ScenarioSpeed, name: str) -> list[str]:
    if name != "throughput":
        return []
    return ["unavailable" if found.joules_per_text is None else f"{found.joules_per_text:.3g}"]


def _remark(found: ScenarioSpeed) -> str:
    energy = f"energy: {found.energy_unavailable}" if found.energy_unavailable else None
    return "; ".join(filter(None, [found.refusal, *found.unstable, energy])) or cells.NOTHING
