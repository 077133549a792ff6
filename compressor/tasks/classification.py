"""One class a text or pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.tasks.base import IGNORED, Batch, Example, Features, Pad, Task
from compressor.tasks.losses import kl_to_teacher
from compressor.tasks.metrics import Accuracy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Classification(Task):
    """Single-sentence or sentence-pair classification."""

    type = "classification"
    auto_class = "AutoModelForSequenceClassification"
    metrics = (Accuracy(),)

    def config_overrides(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: i for i, name in enumerate(self.label_names)},
            "problem_type": "single_label_classification",
        }

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Features]:
        return encode_texts(tokenizer, examples, self.config.max_length, unlabelled=IGNORED)

    def labels_tensor(self, features: Sequence[Features], pad: Pad) -> Tensor:
        import torch

        return torch.tensor([f["labels"] for f in features])

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        known = (batch.labels != IGNORED).sum().clamp(min=1)
        return cross_entropy(logits.float(), batch.labels, ignore_index=IGNORED, reduction="sum") / known

    def soft_loss(
        self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float = 1.0
    ) -> Tensor:
        return kl_to_teacher(student_logits, teacher_logits, temperature)

    def predict(self, logits: Tensor, batch: Batch) -> list[int]:
        return [int(i) for i in logits.argmax(dim=-1)]

    def constant_prediction(self, train: Sequence[Example], example: Example) -> int:
        return int(Counter(e.label for e in train).most_common(1)[0][0])


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int, *, unlabelled: Any
) -> list[Features]:
    """Tokenise sentences or pairs and attach their labels."""
    if not examples:
        return []
    pairs = [e.text_pair for e in examples]
    coded = tokenizer(
        [e.text for e in examples],
        pairs if pairs[0] is not None else None,
        truncation=True,
        max_length=max_length,
    )
    keys = [k for k in coded if k in tokenizer.model_input_names]
    return [
        {k: coded[k][i] for k in keys} | {"labels": unlabelled if e.label is None else e.label}
        for i, e in enumerate(examples)
    ]
