"""The latency surface: every batch size by every length, without padding.

The ratio of two models depends on both, so one at a single shape says little about another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from compressor.measure.workload import Replay

if TYPE_CHECKING:
    from compressor.runtimes.base import Inputs, Session

BATCHES: Final = (1, 8, 32)
LENGTHS: Final = (16, 64, 128, 512)


class Cell(NamedTuple):
    """One shape."""

    batch_size: int
    length: int  # tokens of each text


def surface_cells(positions: Mapping[str, int | None]) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """Return the cells that every model can run, and a sentence for each length that is left out.

    Args:
        positions: The longest text that each model takes, in tokens; None where it knows no end.
    """
    limits = {name: most for name, most in positions.items() if most is not None}
    least = min(limits, key=lambda name: limits[name], default=None)
    kept = [n for n in LENGTHS if least is None or n <= limits[least]]
    out = [
        f"surface: length {n} left out, {least} takes {limits[least]} tokens"
        for n in LENGTHS
        if least and n not in kept
    ]
    return tuple(Cell(batch, length) for batch in BATCHES for length in kept), tuple(out)


def surface_replay(session: Session, replay: Replay, cells: Iterable[Cell]) -> Replay:
    """Fill the cells with tokens of the replayed texts, run each once, and keep its logits.

    The texts are laid end to end and cut anew, so that ids are real ones of this model's vocabulary; what they say decides
    neither time nor memory. A token task predicts at the first token of each row: whole logits of a large cell would not fit.
    """
    filled = [fill(replay.inputs, cell) for cell in cells]
    positions, expected = [], []
    for inputs in filled:
        logits = session.run(inputs)
        if logits.ndim == 3:
            first = np.zeros(logits.shape[:2], np.bool_)
            first[:, 0] = True
            positions.append(first)
            logits = logits[first]
        expected.append(logits.copy())
    return Replay(inputs=tuple(filled), positions=tuple(positions), expected=tuple(expected))


def fill(batches: Sequence[Inputs], cell: Cell) -> Inputs:
    """Return inputs of exactly this shape, [B, L] int64 each, made of the unpadded tokens of `batches`."""
    real = [batch["attention_mask"] == 1 for batch in batches]
    tokens = {name: np.concatenate([b[name][m] for b, m in zip(batches, real, strict=True)]) for name in batches[0]}
    return {name: np.resize(values, tuple(cell)).astype(np.int64) for name, values in tokens.items()}
