"""The section of report.md that says where speed-ups come from, made from a run folder's raw timings."""

from __future__ import annotations

from pathlib import Path

from compressor.compare.attribution import Attribution, SpeedPart, attribute, read_cells
from compressor.report import cells
from compressor.report.markup import section, table
from compressor.results import RunResult


def speed_sections(result: RunResult, folder: Path) -> list[str]:
    """Return the section; nothing where the teacher was not timed in eager torch.

    Raises:
        StoreError: The timings are damaged.
    """
    timed = read_cells(folder)
    lineages = {c.name: c.lineage for c in result.candidates}
    others = [c.name for c in cells.ordered(result) if c is not result.teacher]
    found = [
        one
        for name in others
        for runtime in cells.runtimes(result)
        if (one := attribute(name, runtime, lineages, timed, teacher=result.teacher.name, seed=result.seed)) is not None
    ]
    if not found:
        return []
    rows = [[a.candidate, a.runtime, _times(a.total), _parts(a)] for a in found]
    words = (
        f"Over {result.teacher.name} in eager torch, from cells of one interleaved run; the parts multiply to the total. A "
        "model that was timed along, such as a baseline `distill` of the chain `[distill,int8_onnx]`, splits the chain."
    )
    return section("Where the speed-up comes from", [words, "", *table(["model", "runtime", "total", "parts"], rows)])


def _parts(found: Attribution) -> str:
    return ", ".join(f"{part.name} {_times(part)}" for part in found.parts)


def _times(part: SpeedPart) -> str:
    return f"x{part.ratio:.2f} ({part.ci95.low:.2f}..{part.ci95.high:.2f})"
