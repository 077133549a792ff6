"""The section of report.md on work as it is on paper."""

from __future__ import annotations

from compressor.report import cells
from compressor.report.markup import inline, section, table
from compressor.results import RunResult

_WORDS = (
    "Theoretical: no time or energy follows from these. MACs are the multiply-accumulates of linears and attention products at "
    "the lengths of the replayed texts, in millions a text; look-ups are not counted, zeros are. Nominal bits are those of all "
    "stored tensors, scales and tables with them, over the number of parameters."
)


def work(result: RunResult) -> list[str]:
    """Return the section; nothing for a result that holds no work."""
    found = [(c.name, c.work) for c in cells.ordered(result) if c.work is not None]
    if not found:
        return []
    base = result.teacher.work.macs_per_text if result.teacher.work is not None else None
    rows, reasons = [], []
    for name, one in found:
        macs = None if one.macs_per_text is None else f"{one.macs_per_text / 1e6:,.1f}"
        share = None if one.macs_per_text is None or not base else f"{one.macs_per_text / base:.1%}"
        bits = None if one.nominal_bits is None else f"{one.nominal_bits:.2f}"
        rows.append([name, macs or "unavailable", share or cells.NOTHING, bits or "unavailable"])
        whys = (("MACs", one.macs_unavailable), ("bits", one.bits_unavailable))
        reasons += [f"- {inline(f'{what} of {name}: {why}')}" for what, why in whys if why]
    header = ["model", "MACs M", "of the teacher's", "nominal bits"]
    lines = [_WORDS, "", *table(header, rows)]
    return section("Work, theoretical", [*lines, *([""] if reasons else []), *reasons])
