"""What stands in a table's cells; the terminal and the Markdown report show the same words."""

from __future__ import annotations

from collections.abc import Mapping

from compressor.compare.flips import Rate
from compressor.results import CandidateResult, Comparison, Latency, MetricValue, RunResult

NOTHING = "-"
MANY_ZEROS = 0.25  # share from which a reader may expect that they save something; rounding to 4 bits leaves fewer


def printable(text: str, *, ascii_only: bool) -> str:
    """Drop control characters, and replace what is beyond ASCII where it may not print."""
    kept = "".join(c for c in text if c == "\n" or c.isprintable())
    return kept.encode("ascii", "replace").decode() if ascii_only else kept


def parameters(candidate: CandidateResult) -> str:
    """Parameters in millions."""
    return millions(candidate.parameters)


def non_zeros(candidate: CandidateResult) -> str:
    """Parameters that are not zero, in millions."""
    return NOTHING if candidate.non_zeros is None else millions(candidate.non_zeros)


def megabytes(size_bytes: int | None) -> str:
    """Bytes as MB (10^6)."""
    if size_bytes is None:
        return NOTHING
    return f"{size_bytes / 1e6:.1f}" if size_bytes < 1e8 else f"{size_bytes / 1e6:.0f}"


def metric(found: MetricValue | None) -> str:
    """Value and the larger half of its interval, e.g. `89.2 +-1.3`."""
    return NOTHING if found is None else interval(found.value, found.ci95)


def interval(value: float, ci95: tuple[float, float]) -> str:
    """A share in points with the larger half of its interval, e.g. `89.2 +-1.3`."""
    half = max(value - ci95[0], ci95[1] - value)
    return f"{value * 100:.1f} +-{half * 100:.1f}"


def share(value: float, ci95: tuple[float, float]) -> str:
    """A share with both ends of its interval, e.g. `5.8% (3.9..7.3)`."""
    return f"{value * 100:.1f}% ({ci95[0] * 100:.1f}..{ci95[1] * 100:.1f})"


def rate(found: Rate) -> str:
    """A counted share with both ends of its interval."""
    return share(found.value, (found.ci95.low, found.ci95.high))


def p_value(found: float | None) -> str:
    """Three digits, and no more than the number of draws gives."""
    if found is None:
        return NOTHING
    return f"{found:.3f}" if found >= 0.001 else "below 0.001"


def yes_or_no(found: bool | None) -> str:
    """A flag in words."""
    return NOTHING if found is None else "yes" if found else "no"


def difference(found: Comparison | None) -> list[str]:
    """Difference, its interval, the verdict."""
    if found is None or found.difference is None:
        return [NOTHING]
    low, high = (f"{x * 100:+.1f}" for x in found.ci95)
    return [f"{found.difference * 100:+.1f}", f"({low}..{high})", found.verdict]


def detectable(found: Comparison | None) -> list[str]:
    """The smallest difference in a metric that the data would have found."""
    if found is None or found.difference is None:
        return []
    return [f"finds from {found.detectable_difference * 100:.1f}"]


def latency(found: Latency | None) -> list[str]:
    """Median with its interval, or `refused`."""
    if found is None:
        return [NOTHING]
    if found.latency_ms_p50 is None:
        return ["refused"]
    if found.ci95 is None:
        return [f"{found.latency_ms_p50:.2f} ms"]
    half = max(found.latency_ms_p50 - found.ci95[0], found.ci95[1] - found.latency_ms_p50)
    return [f"{found.latency_ms_p50:.2f} +-{half:.2f}"]


def speed_up(found: Comparison | None) -> list[str]:
    """Ratio, its interval, the verdict."""
    if found is None or found.ratio is None:
        return []
    return [f"x{found.ratio:.2f}", f"({found.ci95[0]:.2f}..{found.ci95[1]:.2f})", found.verdict]


def of_metric(result: RunResult, candidate: CandidateResult, name: str) -> Comparison | None:
    """Find the candidate's verdict on a metric against the teacher."""
    return next((c for c in _against_teacher(result, candidate) if c.metric == name), None)


def of_runtime(result: RunResult, candidate: CandidateResult, name: str) -> Comparison | None:
    """Find the candidate's verdict on a runtime against the teacher."""
    return next((c for c in _against_teacher(result, candidate) if c.runtime == name), None)


def _against_teacher(result: RunResult, candidate: CandidateResult) -> list[Comparison]:
    teacher = result.teacher.name
    return [c for c in result.comparisons if c.candidate == candidate.name and c.baseline == teacher]


def latency_of(candidate: CandidateResult, runtime: str) -> Latency | None:
    """Find the candidate's timing on a runtime."""
    return next((entry for entry in candidate.latency if entry.runtime == runtime), None)


def runtimes(result: RunResult) -> list[str]:
    """Every runtime that anything was tried on, in order."""
    return list(dict.fromkeys(entry.runtime for c in result.candidates for entry in c.latency))


def metric_names(result: RunResult) -> list[str]:
    """Every metric, in the teacher's order; the first heads the table."""
    return list(dict.fromkeys(name for c in result.candidates for name in c.metrics))


def ordered(result: RunResult) -> list[CandidateResult]:
    """Teacher, then the result, then the baselines."""
    rank = {"teacher": 0, "result": 1}
    return sorted(result.candidates, key=lambda c: rank.get(c.role, 2))


def lineage(candidate: CandidateResult) -> str:
    """The chain in the words of the command line."""
    return " > ".join(step.method for step in candidate.lineage) or "as it is"


def label(candidate: CandidateResult) -> list[str]:
    """The name, and beside a baseline's name what it is."""
    return [candidate.name, "(baseline)"] if candidate.role == "baseline" else [candidate.name]


def zeros(result: RunResult) -> list[str]:
    """One line for each candidate with many zeros: what they did, and what they could save."""
    return [f"{c.name}: {found}" for c in ordered(result) if (found := zeros_of(c))]


def zeros_of(candidate: CandidateResult) -> str:
    """What many zeros did, and what they could save; nothing where they are few."""
    found = _zeros(candidate)
    return found and (
        f"{found} are zero; that alone changed neither the bytes nor the time; deflated it would take "
        f"{megabytes(candidate.zipped_bytes)} MB"
    )


def _zeros(candidate: CandidateResult) -> str:
    """Return how many weights are zero, in words; nothing if they are few."""
    if candidate.encoder_zero_share is not None:
        share, whose = candidate.encoder_zero_share, "the encoder's"
    elif candidate.non_zeros is not None:
        share, whose = 1 - candidate.non_zeros / max(1, candidate.parameters), "its"
    else:
        return ""
    return f"{share:.0%} of {whose} weights" if share >= MANY_ZEROS else ""


def refusals(result: RunResult) -> list[str]:
    """One line for each runtime that could not take a candidate."""
    return [
        f"{c.name} on {entry.runtime}: {entry.refusal}"
        for c in result.candidates
        for entry in c.latency
        if entry.refusal
    ]


def doubts(result: RunResult) -> list[str]:
    """One line for each runtime on which noise puts the numbers in doubt, and for each round that was run again."""
    found: dict[str, dict[str, None]] = {}  # the same reason stands with several candidates
    for entry in (entry for c in result.candidates for entry in c.latency if entry.unstable):
        found.setdefault(entry.runtime, {}).update(dict.fromkeys(entry.unstable))
    said = [f"timing on {runtime}: {'; '.join(reasons)}" for runtime, reasons in found.items()]
    rounds = [r for r in result.environment.get("rounds", []) if isinstance(r, Mapping)]
    again = [r for r in rounds if not r.get("kept")]
    said += [f"a round of the timing was run again: {'; '.join(map(str, r.get('complaints', [])))}" for r in again]
    counting = [r.get("round") for r in rounds if r.get("kept")]
    if len(set(map(str, counting))) < len(counting):
        said.append("a round of the timing was run again and disturbed again: every attempt at it counts")
    return said


def notes(result: RunResult) -> list[str]:
    """Everything that a reader of the table should know beside it."""
    return [*refusals(result), *doubts(result), *zeros(result), *result.notes]


def percentiles(found: Latency | None) -> str:
    """Bounds of the higher percentiles in ms, and what those need that cannot be given."""
    if found is None or not found.percentiles:
        return NOTHING
    words = [
        f"p{entry.level * 100:g} {entry.bound_ms:.2f}" if entry.bound_ms is not None
        else f"p{entry.level * 100:g} needs {entry.needs} calls"
        for entry in found.percentiles
    ]  # fmt: skip
    return ", ".join(words)


def agreements(result: RunResult) -> list[str]:
    """One line for each candidate on the first split: how many answers changed, and what became of them."""
    said = []
    for candidate in ordered(result):
        for split, found in list(candidate.agreement.items())[:1]:
            said.append(
                f"{candidate.name} and {result.teacher.name} give the same answer on {share(found.rate, found.ci95)} of "
                f"{split} (n={found.n:,}): {found.gained:,} gained, {found.lost:,} lost, {found.changed:,} otherwise wrong."
            )
    return said


def sentences(result: RunResult) -> list[tuple[str, str]]:
    """One plain statement for each candidate but the teacher, as (name, text)."""
    said = []
    for candidate in ordered(result):
        words = [c.sentence for c in result.comparisons if c.candidate == candidate.name]
        if candidate.name != result.teacher.name and words:
            said.append((candidate.name, " ".join([*words, _smaller(result.teacher, candidate)])))
    return said


def _smaller(teacher: CandidateResult, candidate: CandidateResult) -> str:
    return f"It takes {candidate.size_bytes / teacher.size_bytes:.0%} of the teacher's bytes."


def millions(count: int) -> str:
    """A count in millions."""
    return f"{count / 1e6:.1f}" if count >= 1e5 else f"{count / 1e6:.3f}"
