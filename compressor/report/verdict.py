"""The verdict of a run in one sentence a model: its bytes, its speed, its scores, each with the word that was earned."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from compressor.compare.verdicts import Word
from compressor.report import cells
from compressor.results import CandidateResult, Comparison, RunResult

_PRINTED = {"x": "\u00d7", "-": "\u2212", "+-": "\u00b1", "..": " to "}


def verdicts(result: RunResult, *, ascii_only: bool = True) -> list[str]:
    """Return one sentence for each model but the teacher, the run's own result first.

    Args:
        result: The run.
        ascii_only: Write `x1.9` and `-2.1`; otherwise with the signs of print.
    """
    others = [c for c in cells.ordered(result) if c is not result.teacher]
    return [_sentence(result, candidate, ascii_only) for candidate in others]


def headline(result: RunResult, *, ascii_only: bool = True) -> str:
    """Return the sentence that a run ends with."""
    if not result.candidates:
        return f"nothing was measured: {result.status}"
    said = verdicts(result, ascii_only=ascii_only)
    return said[0] if said else f"{result.teacher.name} was measured alone; there is nothing to compare it with."


def _sentence(result: RunResult, candidate: CandidateResult, ascii_only: bool) -> str:
    teacher = result.teacher
    parts = [f"takes {candidate.size_bytes / max(1, teacher.size_bytes):.0%} of {teacher.name}'s bytes"]
    parts += _speeds(result, candidate)
    parts += _scores(result, candidate)
    text = f"{candidate.name} " + "; ".join(parts)
    return text + "." if ascii_only else typographic(text, [c.name for c in result.candidates]) + "."


def _speeds(result: RunResult, candidate: CandidateResult) -> list[str]:
    found = [c for name in cells.runtimes(result) if (c := cells.of_runtime(result, candidate, name))]

    def on(word: Word) -> str:
        return _and(f"{c.runtime} (x{c.ratio:.2f})" for c in found if c.verdict == word and c.ratio is not None)

    parts = []
    if faster := on(Word.faster):
        parts.append(f"is faster on {faster}")
    if slower := on(Word.slower):
        parts.append(f"is slower on {slower}")
    if same := on(Word.equivalent):
        parts.append(f"is as fast on {same}")
    if unknown := on(Word.inconclusive):
        parts.append(f"whether it is faster on {unknown} is not known")
    if refused := _and(entry.runtime for entry in candidate.latency if entry.refusal):
        parts.append(f"cannot be timed on {refused}")
    return parts


def _scores(result: RunResult, candidate: CandidateResult) -> list[str]:
    found = [c for name in cells.metric_names(result) if (c := cells.of_metric(result, candidate, name))]

    def of(word: Word, describe: Callable[[Comparison], str]) -> str:
        return _and(describe(c) for c in found if c.verdict == word and c.difference is not None)

    parts = []
    if better := of(Word.better, _gap):
        parts.append(f"is better in {better}")
    if kept := of(Word.equivalent, _kept):
        parts.append(f"keeps {kept}")
    if worse := of(Word.worse, _gap):
        parts.append(f"is worse in {worse}")
    if unknown := of(Word.inconclusive, _gap):
        parts.append(f"whether it keeps {unknown} is not known")
    return parts


def _gap(found: Comparison) -> str:
    low, high = (f"{x * 100:+.1f}" for x in found.ci95)
    return f"{found.metric} ({(found.difference or 0.0) * 100:+.1f} points, 95 % CI {low} to {high})"


def _kept(found: Comparison) -> str:
    """Say which loss the verdict allowed; a result that does not hold it says nothing of it."""
    allowed = "" if found.margin is None else f", where {found.margin * 100:.1f} may be lost"
    return f"{_gap(found)[:-1]}{allowed})"


def _and(words: Iterable[str]) -> str:
    listed = list(words)
    if len(listed) < 2:
        return "".join(listed)
    return f"{', '.join(listed[:-1])} and {listed[-1]}"


def typographic(text: str, names: Iterable[str] = ()) -> str:
    """Write the signs of print for x1.9, -2.1, +-0.5 and 1..2. What stands in `names` stays as it is."""
    import re

    kept = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    signs = r"(?:(?<![^\s(])|(?<=\.\.))(?:x(?=\d)|-(?=\d))|\+-(?=\d)|(?<=\d)\.\.(?=[+-]?\d)"
    pattern = re.compile(f"({kept})|({signs})" if kept else f"(?!)()|({signs})")
    return pattern.sub(lambda m: m.group(1) or _PRINTED[m.group(2)], text)
