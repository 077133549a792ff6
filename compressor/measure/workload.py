"""The replayed workload: real texts at their own lengths, the same ones for every candidate and runtime.

A speed-up without a length distribution is undefined, so texts are drawn evenly over the sorted token lengths of
a split (MLPerf's equal issue of unequal samples). Each candidate cuts them with its own tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compressor.errors import MeasureError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compressor.runtimes.base import Inputs, Logits
    from compressor.tasks.base import Batch, Example, Padding, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is replayed: `batches` of example ids of one split, all of `batch_size` texts, shortest first."""

    split: str
    batches: tuple[tuple[int, ...], ...]

    @property
    def texts(self) -> int:
        """Number of texts."""
        return sum(len(batch) for batch in self.batches)


def choose_workload(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    split: str,
    texts: int,
    batch_size: int,
    seed: int,
) -> Workload:
    """Draw texts stratified over the token lengths of a split.

    The sorted lengths are cut into as many equal strata as texts are wanted, and each gives one text at random. A
    batch holds neighbours in length. Fewer texts than asked for are used when the split is smaller.

    Raises:
        MeasureError: The split holds fewer texts than one batch.
    """
    count = min(texts, len(examples)) // batch_size * batch_size or min(batch_size, len(examples))
    if count < batch_size:
        raise MeasureError(
            f"bench.batch_size={batch_size}, but split '{split}' has {len(examples)} texts", allowed="a smaller batch"
        )
    lengths = np.array([len(f["input_ids"]) for f in task.encode(tokenizer, examples)])
    order = np.argsort(lengths, kind="stable")
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, len(order), count + 1).astype(int)
    chosen = [examples[order[rng.integers(low, high)]].id for low, high in zip(edges[:-1], edges[1:], strict=True)]
    batches = tuple(tuple(chosen[i : i + batch_size]) for i in range(0, count, batch_size))
    return Workload(split=split, batches=batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A workload ready to run on one candidate, with the logits that its scoring run gave.

    Attributes:
        inputs: One entry a batch; each tensor is [B, L] int64.
        positions: [B, L] bool a batch, where a token task predicts; empty for sentence tasks.
        expected: The predicting positions' logits, [rows, C] a batch.
    """

    inputs: tuple[Inputs, ...]
    positions: tuple[NDArray[np.bool_], ...]
    expected: tuple[Logits, ...]

    def rows(self, index: int, logits: Logits) -> Logits:
        """Return [rows, C], the logits that predict something in batch `index`."""
        return logits[self.positions[index]] if self.positions else logits

    def save(self, path: Path) -> None:
        """Write an .npz file (arrays only, no pickle)."""
        arrays: dict[str, Any] = {}  # of arrays, which numpy types as if one could be its own option `allow_pickle`
        for i, inputs in enumerate(self.inputs):
            arrays |= {f"{i}.input.{name}": value for name, value in inputs.items()}
            arrays[f"{i}.expected"] = self.expected[i]
            if self.positions:
                arrays[f"{i}.positions"] = self.positions[i]
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Replay:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            count = sum(name.endswith(".expected") for name in arrays)
            inputs = tuple(
                {n.split(".", 2)[2]: arrays[n] for n in arrays if n.startswith(f"{i}.input.")} for i in range(count)
            )
            positions = tuple(arrays[n] for i in range(count) if (n := f"{i}.positions") in arrays)
            return cls(
                inputs=inputs, positions=positions, expected=tuple(arrays[f"{i}.expected"] for i in range(count))
            )


def pad_replay(replay: Replay, padding: Padding, length: int) -> Replay:
    """Fill every batch up to `length` tokens, as a pipeline does that pads to a maximum; the results are to be the same.

    Raises:
        MeasureError: A batch is longer.
    """
    if (longest := max(next(iter(batch.values())).shape[1] for batch in replay.inputs)) > length:
        raise MeasureError(
            f"a text of {longest} tokens cannot be padded to {length}", allowed="a length from its own on"
        )
    pad = padding.to(length)

    def filled(rows: NDArray[Any], name: str) -> NDArray[Any]:
        return np.array([pad(row, padding.fill[name]) for row in rows.tolist()], rows.dtype)

    inputs = tuple({name: filled(rows, name) for name, rows in batch.items()} for batch in replay.inputs)
    return Replay(
        inputs=inputs,
        positions=tuple(filled(rows, "positions") for rows in replay.positions),
        expected=replay.expected,
    )


def numpy_inputs(batch: Batch) -> dict[str, NDArray[np.int64]]:
    """Return a collated batch's model inputs as arrays."""
    return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in batch.inputs.items()}
