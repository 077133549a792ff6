"""Tables on work as it is on paper, and on what became of it."""

from __future__ import annotations

from typing import Final

from compressor.compare.verdicts import NOISE, Word
from compressor.report import cells
from compressor.report.grid import Grid
from compressor.results import CandidateResult, Comparison, RunResult

_WORK: Final = (
    "Theoretical: no time or energy follows from these. MACs are the multiply-accumulates of linears and attention products at "
    "the lengths of the replayed texts, in millions a text; look-ups are not counted, zeros are. Nominal bits are those of all "
    "stored tensors, scales and tables with them, over the number of parameters."
)
_PAPER: Final = (
    "On paper a model is as many times faster as it has fewer MACs. Look-ups, normalisation, activations and the call itself "
    "are no MACs: where a model falls short, it is said how much of the teacher's call would have to stay as it was "
    "(Amdahl 1967)."
)
_FEWER: Final = 1.2  # from which on the MACs are so many times fewer that what stays can be told


def work_grids(result: RunResult) -> tuple[Grid, ...]:
    """Return the tables; nothing for a result that holds no work."""
    return tuple(grid for grid in (_work(result), _paper(result)) if grid is not None)


def _work(result: RunResult) -> Grid | None:
    base = _macs(result.teacher)
    rows, reasons = [], []
    for name, one in ((c.name, c.work) for c in cells.ordered(result) if c.work is not None):
        macs = None if one.macs_per_text is None else f"{one.macs_per_text / 1e6:,.1f}"
        share = None if one.macs_per_text is None or not base else f"{one.macs_per_text / base:.1%}"
        bits = None if one.nominal_bits is None else f"{one.nominal_bits:.2f}"
        rows.append((name, macs or "unavailable", share or cells.NOTHING, bits or "unavailable"))
        whys = (("MACs", one.macs_unavailable), ("bits", one.bits_unavailable))
        reasons += [f"{what} of {name}: {why}" for what, why in whys if why]
    header = ("model", "MACs M", "of the teacher's", "nominal bits")
    return (
        Grid(title="Work, theoretical", lead=_WORK, header=header, rows=tuple(rows), notes=tuple(reasons))
        if rows
        else None
    )


def _paper(result: RunResult) -> Grid | None:
    """Return each speed-up beside the one that the MACs promise, and what lies between; None where nothing has both."""
    rows = []
    for candidate in cells.ordered(result):
        promised = _promised(candidate, result.teacher)
        for runtime in cells.runtimes(result):
            found = cells.of_runtime(result, candidate, runtime)
            if promised is not None and found is not None and found.ratio is not None:
                measured = f"x{found.ratio:.2f} ({found.ci95[0]:.2f}..{found.ci95[1]:.2f})"
                why = _between(promised, found, candidate, result.teacher)
                rows.append((candidate.name, runtime, f"x{promised:.2f}", measured, why))
    header = ("model", "runtime", "on paper", "measured", "between the two")
    return Grid(title="Speed-up on paper and measured", lead=_PAPER, header=header, rows=tuple(rows)) if rows else None


def _promised(candidate: CandidateResult, teacher: CandidateResult) -> float | None:
    ours, theirs = _macs(candidate), _macs(teacher)
    return None if candidate is teacher or not ours or not theirs else theirs / ours


def _macs(candidate: CandidateResult) -> float | None:
    return None if candidate.work is None else candidate.work.macs_per_text


def _between(promised: float, found: Comparison, candidate: CandidateResult, teacher: CandidateResult) -> str:
    """Say how the measured ratio differs from the promised one, and what was counted that bears upon it."""
    assert found.ratio is not None
    if found.verdict == Word.inconclusive:
        return "not known, for the speed-up is not"
    low, high = found.ci95
    said = ["as on paper"]
    if not low * (1 - NOISE) <= promised <= high * (1 + NOISE):
        more = promised / found.ratio - 1
        said = [f"a MAC takes {abs(more):.0%} {'more' if more > 0 else 'less'} time than the teacher's"]
        if promised > _FEWER and low > 1 and high < promised:
            least, most = (_kept(promised, ratio) for ratio in (high, low))
            said.append(f"as if {least:.0%} to {most:.0%} of the teacher's call had stayed as it was")
    if cells.zeros_of(candidate) and found.verdict != Word.faster:
        said.append("its zeros save no time")
    ours, theirs = (None if c.work is None else c.work.nominal_bits for c in (candidate, teacher))
    if ours and theirs and ours < 0.9 * theirs:
        said.append(f"stored in {ours:.0f} bits a parameter instead of {theirs:.0f}")
    return "; ".join(said)


def _kept(promised: float, ratio: float) -> float:
    """Return the share of the teacher's call that must stay as it was, if the rest shrinks as promised (Amdahl's law)."""
    return (1 / ratio - 1 / promised) / (1 - 1 / promised)
