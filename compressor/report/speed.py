"""The section of report.md that says where speed-ups come from, made from a run folder's raw timings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compressor.compare.attribution import Attribution, SpeedPart, attribute, read_cells
from compressor.report import cells
from compressor.report.markup import inline, section, table
from compressor.results import RunResult

WORDS = (
    "From cells of one interleaved run; the parts multiply to the total. A model that was timed along, such as a baseline "
    "`distill` of the chain `[distill,int8_onnx]`, splits the chain."
)


def attributions(result: RunResult, folder: Path) -> list[Attribution]:
    """Return the parts of every speed-up over the teacher in eager torch; none where that was not timed.

    Raises:
        StoreError: The timings are damaged.
    """
    timed = read_cells(folder)
    lineages = {c.name: c.lineage for c in result.candidates}
    found = (
        attribute(c.name, runtime, lineages, timed, teacher=result.teacher.name, seed=result.seed)
        for c in cells.ordered(result)
        if c is not result.teacher
        for runtime in cells.runtimes(result)
    )
    return [one for one in found if one is not None]


def speed_sections(found: Sequence[Attribution], teacher: str) -> list[str]:
    """Return the section; nothing for nothing."""
    if not found:
        return []
    rows = [[a.candidate, a.runtime, _times(a.total), _parts(a)] for a in found]
    words = f"Over {inline(teacher)} in {start_words(found[0])}. {WORDS}"
    return section("Where the speed-up comes from", [words, "", *table(["model", "runtime", "total", "parts"], rows)])


def start_words(found: Attribution) -> str:
    """Say what the speed-up is over."""
    texts = ", on texts padded to the longest that the task takes" if found.padded else ""
    return f"{found.start}, eager and in float32{texts}"


def _parts(found: Attribution) -> str:
    return ", ".join(f"{part.name} {_times(part)}" for part in found.parts)


def _times(part: SpeedPart) -> str:
    return f"x{part.ratio:.2f} ({part.ci95.low:.2f}..{part.ci95.high:.2f})"
