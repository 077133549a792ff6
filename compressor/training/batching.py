"""Tokenised examples in flat arrays, and the order in which they form batches.

A split is tokenised once; a batch is then a gather from flat arrays, with no Python loop over tokens. Batches hold
texts of like length, so that few positions are padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from compressor.errors import DataError
from compressor.tasks.base import Batch, Example, Features, Padding, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ints = NDArray[np.int64]
MEGABATCH: Final = 50  # batches that are sorted by length together: little padding, yet lengths stay mixed over time


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedSplit:
    """Examples and their tokens.

    Attributes:
        task: Makes the labels of a batch.
        examples: In the split's order; every index in this package is a position in it.
        features: The task's encoding of each example.
        lengths: [N] tokens an example.
        offsets: [N] where an example starts in the flat arrays.
        flat: name of a model input, or `positions` -> [total tokens].
        padding: The value that pads each of them, and the side it goes to.
        tokenizer: What they were encoded with.
    """

    task: Task
    examples: tuple[Example, ...]
    features: tuple[Features, ...]
    lengths: Ints
    offsets: Ints
    flat: dict[str, Ints]
    padding: Padding
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def tokens(self) -> int:
        """Real tokens of the whole split."""
        return int(self.lengths.sum())

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return the examples at `indices`, padded to the longest of them."""
        chosen = np.asarray(indices, dtype=np.int64)
        length = int(self.lengths[chosen].max())
        at, real = self._places(chosen, length)
        padded = {
            key: torch.from_numpy(np.where(real, values[at], self.padding.fill[key]))
            for key, values in self.flat.items()
        }
        examples, features = [self.examples[i] for i in chosen], [self.features[i] for i in chosen]
        return self.task.batch(padded, examples, features, self.padding.to(length))

    def step_batch(self, indices: Sequence[int], seed: int, step: int) -> Batch:
        """Return the examples at `indices` as training step number `step` sees them.

        What is drawn hangs on seed, step and example alone, so that a resumed run draws what the interrupted one would have.
        """
        batch = self.batch(indices)
        if not self.task.self_supervised:
            return batch
        return self.task.redrawn(batch, self.tokenizer, [(seed, step, index) for index in indices])

    def token_rows(self, indices: Sequence[int]) -> Ints:
        """Return where the real tokens of `indices` lie in a flat array, example after example."""
        chosen = np.asarray(indices, dtype=np.int64)
        at, real = self._places(chosen, int(self.lengths[chosen].max()))
        return np.asarray(at[real])

    def _places(self, chosen: Ints, length: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Return [B, L] places in the flat arrays and which of them are real tokens."""
        lengths = self.lengths[chosen][:, None]
        columns = np.arange(length)[None, :] - (length - lengths if self.padding.left else 0)
        real = (columns >= 0) & (columns < lengths)
        return np.where(real, self.offsets[chosen][:, None] + columns, 0), real


def encode_split(task: Task, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> EncodedSplit:
    """Tokenise a split once.

    Raises:
        DataError: There are no examples; a mean over none would be no number.
    """
    if not examples:
        raise DataError(f"task {task.name}: a split is empty", allowed="at least one example")
    features = tuple(task.encode(tokenizer, examples))
    lengths = np.array([len(f["input_ids"]) for f in features], dtype=np.int64)
    padding = Padding.of(tokenizer)
    flat: dict[str, Ints] = {
        k: np.fromiter((t for f in features for t in f[k]), np.int64, int(lengths.sum()))
        for k in padding.fill
        if k in features[0]
    }
    flat.setdefault("attention_mask", np.ones(int(lengths.sum()), np.int64))
    return EncodedSplit(
        task=task,
        examples=tuple(examples),
        features=features,
        lengths=lengths,
        offsets=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
        flat=flat,
        padding=padding,
        tokenizer=tokenizer,
    )


def bucketed_order(lengths: Ints, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return one epoch's batches, each example once, reproducibly and without touching global random state.

    Shuffle, sort stretches of `MEGABATCH` batches by length, cut them into batches, shuffle the batches.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    stretch = MEGABATCH * batch_size
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), stretch):
        part = shuffled[start : start + stretch]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size].tolist() for i in range(0, len(part), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def length_sorted(lengths: Ints, max_tokens: int) -> list[list[int]]:
    """Return batches for a pass without gradients, each of at most `max_tokens` padded tokens.

    The longest come first, so that the most memory is met at once.
    """
    batches: list[list[int]] = []
    for index in np.argsort(-lengths, kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * int(lengths[batches[-1][0]]) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
