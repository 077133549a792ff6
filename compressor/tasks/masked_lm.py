"""Plain text, and the words hidden in it: what a model is trained on before it has a task."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from compressor.errors import Incompatible
from compressor.tasks.base import IGNORED, Batch, Example, Features, Pad, Task
from compressor.tasks.classification import encode_texts
from compressor.tasks.losses import kl_to_teacher, same_shape
from compressor.tasks.metrics import MaskedAccuracy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]
SHARE: Final = 0.15  # of a text's tokens that are predicted (Devlin et al. 2019, section 3.1, as are the next two)
MASKED: Final = 0.8  # of those, hidden behind the mask token
RANDOM: Final = 0.1  # of those, replaced by a random token; the rest stays as it is


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What masking needs of a tokenizer. Special tokens are neither hidden nor put in another's place."""

    mask_id: int
    special: Ids
    ordinary: Ids

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Read it off a tokenizer.

        Raises:
            Incompatible: The tokenizer has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise Incompatible(
                f"the tokenizer ({type(tokenizer).__name__}) has no mask token",
                allowed="a model trained with masked words",
            )
        special = np.array(sorted(tokenizer.all_special_ids), np.int64)
        every = np.array(sorted(tokenizer.get_vocab().values()), np.int64)
        return cls(int(tokenizer.mask_token_id), special, np.setdiff1d(every, special))

    def hide(self, ids_L: Ids, seed: Sequence[int]) -> tuple[Ids, Ids]:
        """Draw which tokens of one text are predicted, and what stands in their place.

        At least one token is drawn, without replacement, wherever there is an ordinary one.

        Args:
            ids_L: The tokens as they are; special ones, padding among them, are never drawn.
            seed: Decides the draw alone, whatever else is drawn before or beside it.

        Returns:
            [L] tokens as the model sees them, [L] labels: the tokens that were drawn, `IGNORED` elsewhere.
        """
        draw = np.random.default_rng(list(seed))
        places = np.flatnonzero(~np.isin(ids_L, self.special))
        places = draw.permutation(places)[: max(1, round(SHARE * len(places)))]
        kind, other = draw.random(len(places)), draw.choice(self.ordinary, len(places))
        seen, labels = ids_L.copy(), np.full_like(ids_L, IGNORED)
        labels[places] = ids_L[places]
        replaced = np.where(kind < MASKED, self.mask_id, np.where(kind < MASKED + RANDOM, other, ids_L[places]))
        seen[places] = replaced
        return seen, labels


class MaskedLM(Task):
    """Predict hidden tokens (Devlin et al. 2019, arXiv:1810.04805, section 3.1).

    An example's label is the seed of its masking, drawn from its text: validation and test hide the same tokens for every
    model with the same tokenizer. A training step draws anew (`redrawn`). A prediction is how many of the hidden tokens were
    found and how many there were, since the tokens themselves mean nothing without their tokenizer.
    """

    type = "masked_lm"
    auto_class = "AutoModelForMaskedLM"
    token_level = True
    self_supervised = True
    metrics = (MaskedAccuracy(),)
    _known: tuple[PreTrainedTokenizerBase, Vocabulary] | None = (
        None  # the last tokenizer's: reading it off takes milliseconds
    )

    def config_overrides(self) -> dict[str, Any]:
        return {}

    def encode(self, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Features]:
        vocabulary = self._vocabulary(tokenizer)
        features = encode_texts(tokenizer, examples, self.config.max_length, unlabelled=0)
        for feature in features:
            ids = np.array(feature["input_ids"], np.int64)
            seen, labels = vocabulary.hide(ids, [feature["labels"]])
            feature["input_ids"], feature["labels"] = seen.tolist(), labels.tolist()
            feature["positions"] = (labels != IGNORED).astype(int).tolist()
            feature["words"] = []
        return features

    def redrawn(self, batch: Batch, tokenizer: PreTrainedTokenizerBase, seeds: Sequence[Sequence[int]]) -> Batch:
        import torch

        vocabulary = self._vocabulary(tokenizer)
        labels, seen = batch.labels.numpy(), batch.inputs["input_ids"].numpy()
        whole = np.where(labels != IGNORED, labels, seen)  # the texts as they were
        rows = [vocabulary.hide(row, seed) for row, seed in zip(whole, seeds, strict=True)]
        hidden = torch.from_numpy(np.stack([row[1] for row in rows]))
        inputs = {**batch.inputs, "input_ids": torch.from_numpy(np.stack([row[0] for row in rows]))}
        return replace(batch, inputs=inputs, labels=hidden, positions=hidden != IGNORED)

    def labels_tensor(self, features: Sequence[Features], pad: Pad) -> Tensor:
        import torch

        return torch.tensor([pad(f["labels"], IGNORED) for f in features])

    def hard_loss(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        assert batch.positions is not None
        known = batch.positions.sum().clamp(min=1)
        at = batch.positions
        return cross_entropy(logits[at].float(), batch.labels[at], reduction="sum") / known

    def soft_loss(
        self, student_logits: Tensor, teacher_logits: Tensor, batch: Batch, temperature: float = 1.0
    ) -> Tensor:
        """Return the KL at all real tokens, hidden or not: a teacher's view of a word that stands there is knowledge too.

        So does the published recipe of Sanh et al. 2019 (arXiv:1910.01108), whose code can restrict it to the hidden ones.
        """
        same_shape(student_logits, teacher_logits, "token logits")
        real = batch.inputs["attention_mask"].bool()
        return kl_to_teacher(student_logits[real], teacher_logits[real], temperature)

    def predict(self, logits: Tensor, batch: Batch) -> list[list[int]]:
        assert batch.positions is not None
        at = batch.positions
        found = at.new_zeros(at.shape)
        found[at] = logits[at].argmax(dim=-1) == batch.labels[at]
        return [[int(right), int(count)] for right, count in zip(found.sum(dim=1), at.sum(dim=1), strict=True)]

    def constant_prediction(self, train: Sequence[Example], example: Example) -> list[int]:
        words = _words(example)
        return [words.count(_commonest(train)), len(words)]

    def chance(self, train: Sequence[Example], examples: Sequence[Example]) -> float:
        """Return the share of the commonest word: what a model that knows no context can find."""
        commonest = _commonest(train)
        words = [word for example in examples for word in _words(example)]
        return words.count(commonest) / max(1, len(words))

    def _vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        if self._known is None or self._known[0] is not tokenizer:
            self._known = (tokenizer, Vocabulary.of(tokenizer))
        return self._known[1]


def masking_seed(text: str) -> int:
    """Return the seed of a text's masking for validation and test."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _commonest(examples: Sequence[Example]) -> str:
    return Counter(word for example in examples for word in _words(example)).most_common(1)[0][0]


def _words(example: Example) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", str(example.text).lower())
