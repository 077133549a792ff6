"""One score a text or pair of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.tasks.base import Batch, Example, Features, Pad, Task
from compressor.tasks.classification import encode_texts
from compressor.tasks.losses import same_shape
from compressor.tasks.metrics import Pearson, Spearman

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Regression(Task):
    """Single-sentence or sentence-pair regression; logits are [B, 1]."""

    type = "regression"
    auto_class = "AutoModelForSequenceClassification"
    metrics = (Pearson(), Spearman())

    def config_overrides(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Features]:
        return encode_texts(tokenizer, examples, self.config.max_length, unlabelled=math.nan)

    def labels_tensor(self, features: Sequence[Features], pad: Pad) -> Tensor:
        import torch

        return torch.tensor([float(f["labels"]) for f in features])

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        known = ~batch.labels.isnan()
        error = (logits.float().squeeze(-1) - batch.labels.nan_to_num()) * known
        return error.square().sum() / known.sum().clamp(min=1)

    def soft_loss(
        self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float = 1.0
    ) -> Tensor:
        """Return the mean squared error; a softmax over one logit is constant, so KL would train nothing.

        Raises:
            ValueError: A temperature other than 1, which has no meaning for a score.
        """
        if temperature != 1.0:
            raise ValueError(f"temperature={temperature} has no meaning for regression")
        same_shape(student_logits, teacher_logits, "scores")
        return (student_logits.float() - teacher_logits.float()).square().mean()

    def predict(self, logits: Tensor, batch: Batch) -> list[float]:
        return [float(x) for x in logits.float().squeeze(-1)]

    def constant_prediction(self, train: Sequence[Example], example: Example) -> float:
        return float(sum(e.label for e in train) / len(train))
