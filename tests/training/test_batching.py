from __future__ import annotations

import numpy as np
import pytest
import torch

from compressor.config import TaskConfig
from compressor.errors import DataError
from compressor.tasks import build_task
from compressor.testing.tiny import tiny_examples, tiny_tokenizer
from compressor.training.batching import bucketed_order, encode_split, length_sorted


def task_of(kind):
    names = {"classification": ("no", "yes"), "token_classification": ("O", "B-X")}.get(kind, ())
    return build_task(TaskConfig(name="toy", type=kind, max_length=32), names)


@pytest.mark.parametrize(("count", "size"), [(1, 8), (8, 8), (97, 8), (1000, 16)])
def test_each_example_is_in_one_batch(count, size) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, count)
    order = bucketed_order(lengths, size, seed=0, epoch=0)
    assert sorted(i for b in order for i in b) == list(range(count))
    assert all(len(b) <= size for b in order)
    assert len(order) == -(-count // size)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state()
    first = bucketed_order(lengths, 8, seed=0, epoch=1)
    assert first == bucketed_order(lengths, 8, seed=0, epoch=1)
    assert first != bucketed_order(lengths, 8, seed=0, epoch=2)
    assert first != bucketed_order(lengths, 8, seed=1, epoch=1)
    assert torch.equal(before, torch.get_rng_state())


def test_batches_hold_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 4000)
    padded = sum(len(b) * lengths[b].max() for b in bucketed_order(lengths, 16, seed=0, epoch=0))
    assert lengths.sum() / padded > 0.95


def test_length_sorted_keeps_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 300)
    batches = length_sorted(lengths, 256)
    assert sorted(i for b in batches for i in b) == list(range(300))
    assert all(len(b) * lengths[b].max() <= 256 for b in batches)
    assert len(length_sorted(np.array([500, 3, 3]), 256)) == 2


@pytest.mark.parametrize("kind", ["classification", "regression", "token_classification"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_what_the_task_collates(kind, side) -> None:
    task, tokenizer, examples = task_of(kind), tiny_tokenizer(), tiny_examples(12, kind=kind)
    tokenizer.padding_side = side
    split = encode_split(task, tokenizer, examples)
    chosen = [7, 0, 3, 11]
    mine = split.batch(chosen)
    theirs = task.collate(tokenizer, [examples[i] for i in chosen], [split.features[i] for i in chosen])
    assert mine.ids == theirs.ids and mine.inputs.keys() == theirs.inputs.keys()
    for key, value in theirs.inputs.items():
        assert torch.equal(mine.inputs[key], value), key
    assert torch.equal(mine.labels, theirs.labels)
    assert (mine.positions is None) == (theirs.positions is None)
    if theirs.positions is not None:
        assert torch.equal(mine.positions, theirs.positions)
    assert mine.words == theirs.words and (mine.words is None) == (kind != "token_classification")
    flat = torch.from_numpy(split.flat["input_ids"])[torch.from_numpy(split.token_rows(chosen))]
    assert torch.equal(flat, mine.inputs["input_ids"][mine.inputs["attention_mask"].bool()])


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        encode_split(task_of("classification"), tiny_tokenizer(), [])
