"""One tag for every word, whatever the tokenizer makes of it."""

from __future__ import annotations

import pytest
import torch

from compressor.config import TaskConfig
from compressor.tasks import build_task
from compressor.tasks.base import IGNORED, Example
from compressor.testing.tiny import tiny_tokenizer
from compressor.training.batching import encode_split

NAMES = ("B-X", "I-X", "O")
EXAMPLES = [
    Example(0, ("good", "\u200b", "", "film", "plot"), None, (0, 2, 2, 1, 0)),
    Example(1, ("bad", "film"), None, (1, 0)),
    Example(2, ("", "goodly", "bad"), None, (2, 0, 1)),
    Example(3, ("a",) * 20, None, (1,) * 20),  # longer than max_length
]


def task_of(names=NAMES):
    return build_task(TaskConfig(type="token_classification", max_length=8), names)


def true_logits(batch) -> torch.Tensor:
    """Return logits whose best class is the label of each marked position."""
    return torch.nn.functional.one_hot(batch.labels.clamp(min=0), 3).float()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("way", ["collate", "flat"])
def test_a_word_without_pieces_shifts_no_other(side, way) -> None:
    task, tokenizer = task_of(), tiny_tokenizer()
    tokenizer.padding_side = side
    if way == "flat":
        batch = encode_split(task, tokenizer, EXAMPLES).batch(range(4))
    else:
        batch = task.collate(tokenizer, EXAMPLES, task.encode(tokenizer, EXAMPLES))
    found = task.predict(true_logits(batch), batch.to("cpu"))
    assert found[:3] == [[0, 2, 2, 1, 0], [1, 0], [2, 0, 1]]
    assert found[3] == [1] * 6 + [2] * 14  # two places of eight go to [CLS] and [SEP]
    assert [len(p) for p in found] == [len(r) for r in task.references(EXAMPLES)]
    assert task.scores(found, task.references(EXAMPLES))["seqeval_f1"] > 0


def test_without_an_o_the_first_class_stands_in() -> None:
    task, tokenizer = task_of(("NOUN", "VERB", "X")), tiny_tokenizer()
    batch = task.collate(tokenizer, EXAMPLES[:1], task.encode(tokenizer, EXAMPLES[:1]))
    assert task.predict(true_logits(batch), batch) == [[0, 0, 0, 1, 0]]


def test_transfer_text_has_words_and_no_labels() -> None:
    task, tokenizer = task_of(), tiny_tokenizer()
    transfer = [Example(9, "a good film")]
    batch = task.collate(tokenizer, transfer, task.encode(tokenizer, transfer))
    assert batch.words == ((0, 1, 2),) and (batch.labels == IGNORED).all()
