"""What a task is: examples in, tensors to the model, two losses, predictions, metrics.

Everything that differs between task types is behind `Task`; the loop, the measurement and the methods know no task by name.

Shapes: B examples of a batch, L padded tokens, C logits a position. `logits` is [B, C] for sentence tasks and
[B, L, C] for token tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.artifact import Head
from compressor.config import TaskConfig
from compressor.families import MODEL_INPUTS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from compressor.tasks.metrics import Metric

Pad = Callable[[list[int], int], list[int]]
# One tokenised example: input_ids and the like as lists of int, `labels`, and for token tasks `positions` and `words`.
Features = dict[str, Any]
NOWHERE = -1  # place of a word that no position predicts: it has no pieces, or was cut off
IGNORED = -100  # label of a position that no loss and no metric counts (the convention of torch's cross_entropy)


@dataclass(frozen=True, slots=True)
class Example:
    """One row, normalised. `text` is a tuple of words for token tasks; `label` is None for transfer text."""

    id: int
    text: str | tuple[str, ...]
    text_pair: str | None = None
    label: Any = None  # int (class, or the seed of a masking), float (regression), tuple[int, ...] (a tag a word)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors of some examples.

    Attributes:
        inputs: What the model's forward takes; `input_ids` and `attention_mask` are [B, L].
        labels: [B] or [B, L]; `IGNORED` (NaN for regression) where there is none.
        positions: [B, L] bool, where a token task predicts (the first piece of each word); None for sentence tasks.
        ids: Example ids, in order.
        words: For each example and word, which of the example's `positions` (0, 1, ...) predicts it; `NOWHERE` if none
            does. None for sentence tasks.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    positions: Tensor | None
    ids: tuple[int, ...]
    words: tuple[tuple[int, ...], ...] | None = None

    def to(self, device: str) -> Batch:
        """Return the batch on `device`."""
        return replace(
            self,
            inputs={k: v.to(device) for k, v in self.inputs.items()},
            labels=self.labels.to(device),
            positions=None if self.positions is None else self.positions.to(device),
        )


@dataclass(frozen=True, slots=True)
class Padding:
    """How a tokenizer's lists are padded: the filler of each, and the side it goes to."""

    fill: Mapping[str, int]
    left: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Padding:
        """Return the padding that a tokenizer asks for."""
        fillers = (int(tokenizer.pad_token_id or 0), int(tokenizer.pad_token_type_id), 0)
        return cls(dict(zip(MODEL_INPUTS, fillers, strict=True)) | {"positions": 0}, tokenizer.padding_side == "left")

    def to(self, length: int) -> Pad:
        """Return the function that pads a list to `length`."""

        def pad(values: list[int], filler: int) -> list[int]:
            padding = [filler] * (length - len(values))
            return padding + values if self.left else values + padding

        return pad


class Task(ABC):
    """A task type bound to its settings and label names."""

    type: ClassVar[str]
    auto_class: ClassVar[str]  # the transformers Auto class whose head fits
    token_level: ClassVar[bool] = False  # one prediction a token rather than one a text
    # The targets are parts of the text, drawn anew at each training step: there are no labels to read, no teacher outputs to
    # keep, and a head that a checkpoint lacks cannot be had by a short training.
    self_supervised: ClassVar[bool] = False
    metrics: ClassVar[tuple[Metric, ...]]  # the first one chooses epochs and heads the table

    def __init__(self, config: TaskConfig, label_names: tuple[str, ...] = ()) -> None:
        self.config = config
        self.label_names = label_names

    @property
    def name(self) -> str:
        """How tables call the task."""
        return self.config.name

    @property
    def head(self) -> Head:
        """What a model for this task predicts."""
        return Head(task_type=self.type, label_names=self.label_names)

    @abstractmethod
    def config_overrides(self) -> dict[str, Any]:
        """Return the model-config entries of the head (num_labels, id2label, problem_type...)."""

    @abstractmethod
    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Features]:
        """Tokenise without padding, cut at `config.max_length`; `labels` is included.

        Token tasks add `positions` (0 or 1 a token) and `words` (see `Batch.words`).
        """

    def redrawn(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, seeds: Sequence[Sequence[int]]) -> Batch:
        """Return the batch as one training step sees it: with other targets, for a self-supervised task.

        Args:
            batch: On the CPU.
            tokenizer: What it was encoded with.
            seeds: One for each example; they alone decide the draw.
        """
        return batch

    @abstractmethod
    def labels_tensor(self, features: Sequence[Features], pad: Pad) -> Tensor:
        """Return [B] labels, or [B, L] padded by `pad(values, filler)`."""

    @abstractmethod
    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the scalar loss against the labels; unlabelled examples count nothing (0 if there is no labelled one)."""

    @abstractmethod
    def soft_loss(
        self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float = 1.0
    ) -> Tensor:
        """Return the scalar loss against the teacher's logits; shapes must be equal, nothing is broadcast."""

    @abstractmethod
    def predict(self, logits: Tensor, batch: Batch) -> list[Any]:
        """Return one JSON-able prediction an example: a class index, a number, or a tag index for every word."""

    @abstractmethod
    def constant_prediction(self, train: Sequence[Example], example: Example) -> Any:
        """Return what a model would predict for `example` that knows only the training labels' distribution."""

    def chance(self, train: Sequence[Example], examples: Sequence[Example]) -> float:
        """Return the first metric of that constant model: what a teacher must beat."""
        guesses = [self.constant_prediction(train, e) for e in examples]
        return self.metrics[0](guesses, self.references(examples), self.label_names)

    def references(self, examples: Sequence[Example]) -> list[Any]:
        """Return what `predict` is compared with."""
        return [list(e.label) if isinstance(e.label, tuple) else e.label for e in examples]

    def scores(self, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Evaluate every metric."""
        return {m.name: m(predictions, references, self.label_names) for m in self.metrics}

    def collate(
        self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], features: Sequence[Features]
    ) -> Batch:
        """Pad to the longest of the batch."""
        import torch

        padding = Padding.of(tokenizer)
        pad = padding.to(max(len(f["input_ids"]) for f in features))
        padded = {
            k: torch.tensor([pad(f[k], v) for f in features]) for k, v in padding.fill.items() if k in features[0]
        }
        return self.batch(padded, examples, features, pad)

    def batch(
        self, padded: Mapping[str, Tensor], examples: Sequence[Example], features: Sequence[Features], pad: Pad
    ) -> Batch:
        """Put a batch together from its padded tensors ([B, L]: the model's inputs, `positions` for token tasks)."""
        return Batch(
            inputs={name: tensor for name, tensor in padded.items() if name != "positions"},
            labels=self.labels_tensor(features, pad),
            positions=padded["positions"].bool() if self.token_level else None,
            ids=tuple(e.id for e in examples),
            words=tuple(tuple(f["words"]) for f in features) if self.token_level else None,
        )
