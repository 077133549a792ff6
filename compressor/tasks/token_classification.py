"""One tag a word: named entities, chunks, parts of speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.tasks.base import IGNORED, NOWHERE, Batch, Example, Features, Pad, Task
from compressor.tasks.losses import kl_to_teacher, same_shape
from compressor.tasks.metrics import EntityF1

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class TokenClassification(Task):
    """Tag each word at its first piece (Devlin et al. 2019, arXiv:1810.04805, section 5.3).

    A word without a piece (it holds no visible character, or was cut off) is outside of every entity.
    """

    type = "token_classification"
    auto_class = "AutoModelForTokenClassification"
    token_level = True
    metrics = (EntityF1(),)

    def config_overrides(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.label_names),
            "id2label": dict(enumerate(self.label_names)),
            "label2id": {name: i for i, name in enumerate(self.label_names)},
        }

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Features]:
        if not examples:
            return []
        coded = tokenizer(
            [list(words_of(e)) for e in examples],
            is_split_into_words=True,
            truncation=True,
            max_length=self.config.max_length,
        )
        keys = [k for k in coded if k in tokenizer.model_input_names]
        features: list[Features] = []
        for i, example in enumerate(examples):
            words = coded.word_ids(i)
            first = [w is not None and w != previous for w, previous in zip(words, [None, *words[:-1]], strict=True)]
            known = example.label is not None
            labels = [
                example.label[w] if starts and known and w is not None else IGNORED
                for w, starts in zip(words, first, strict=True)
            ]
            marked = {w: n for n, w in enumerate(w for w, starts in zip(words, first, strict=True) if starts)}
            features.append(
                {k: coded[k][i] for k in keys}
                | {
                    "labels": labels,
                    "positions": [int(starts) for starts in first],
                    "words": [marked.get(w, NOWHERE) for w in range(len(words_of(example)))],
                }
            )
        return features

    def labels_tensor(self, features: Sequence[Features], pad: Pad) -> Tensor:
        import torch

        return torch.tensor([pad(f["labels"], IGNORED) for f in features])

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        known = (batch.labels != IGNORED).sum().clamp(min=1)
        total = cross_entropy(
            logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return total / known

    def soft_loss(
        self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float = 1.0
    ) -> Tensor:
        """Return the KL over the positions that predict (first pieces), labelled or not."""
        same_shape(student_logits, teacher_logits, "token logits")
        assert batch.positions is not None
        return kl_to_teacher(student_logits[batch.positions], teacher_logits[batch.positions], temperature)

    def predict(self, logits: Tensor, batch: Batch) -> list[list[int]]:
        assert batch.positions is not None and batch.words is not None
        outside = self.label_names.index("O") if "O" in self.label_names else 0
        predictions = []
        for row, mask, words in zip(logits.argmax(dim=-1), batch.positions, batch.words, strict=True):
            tags = row[mask].tolist()
            predictions.append([outside if place == NOWHERE else tags[place] for place in words])
        return predictions

    def constant_prediction(self, train: Sequence[Example], example: Example) -> list[int]:
        commonest = Counter(tag for e in train for tag in e.label).most_common(1)[0][0]
        return [int(commonest)] * len(words_of(example))


def words_of(example: Example) -> tuple[str, ...]:
    """Return the words; transfer text is split at white space."""
    return tuple(example.text.split()) if isinstance(example.text, str) else example.text
