"""Who leads a row: marked only where the statistics allow it, and ties said to be ties."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compressor.compare.verdicts import NOISE, Word, noise_of
from compressor.report.html.view import Mark
from compressor.results import Comparison, RunResult

Apart = Callable[[str, str], bool]
_LEVEL = 0.05
_DECIDED = frozenset({Word.better, Word.worse, Word.faster, Word.slower})


def marks(values: Mapping[str, float], apart: Apart, *, higher_is_better: bool) -> dict[str, Mark]:
    """Mark the best of a row, or those that cannot be told from it.

    Nothing is marked when there is nobody to beat, or when nobody can be told from the best.

    Args:
        values: By model.
        apart: Whether two models are known to differ.
        higher_is_better: The direction.
    """
    if len(values) < 2:
        return {}
    top = (max if higher_is_better else min)(values, key=lambda name: values[name])
    near = [name for name in values if name == top or not apart(top, name)]
    if len(near) == len(values):
        return {}
    return dict.fromkeys(near, Mark.tied) if len(near) > 1 else {top: Mark.best}


def exactly(values: Mapping[str, float]) -> Apart:
    """Tell counted quantities apart: bytes, parameters."""
    return lambda a, b: values[a] != values[b]


def by_metric(result: RunResult, metric: str) -> Apart:
    """Tell models apart by their verdict on a metric; two that never met, by disjoint intervals against the teacher."""
    found = [c for c in result.comparisons if c.metric == metric]
    return lambda a, b: _apart(found, result.teacher.name, a, b, 0.0)


def by_runtime(result: RunResult, runtime: str) -> Apart:
    """Tell models apart by their verdict on a runtime; two that never met, by disjoint intervals beyond the noise."""
    found = [c for c in result.comparisons if c.runtime == runtime]
    noise = max((noise_of(c.null_ratio) for c in found), default=NOISE)
    return lambda a, b: _apart(found, result.teacher.name, a, b, noise)


def _apart(found: list[Comparison], teacher: str, a: str, b: str, noise: float) -> bool:
    met = [c for c in found if {c.candidate, c.baseline} == {a, b}]
    if met:  # an equivalence allows for a loss, and may still be a difference
        return any(c.verdict in _DECIDED or (c.p_value is not None and c.p_value <= _LEVEL) for c in met)
    ours, theirs = (next((c for c in found if c.candidate == n and c.baseline == teacher), None) for n in (a, b))
    if ours is None or theirs is None:
        return False
    low, high = sorted((ours.ci95, theirs.ci95))
    return high[0] > low[1] + noise * abs(low[1])
