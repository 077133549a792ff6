"""A tiny teacher's checkpoint and tiny data as a user would have them: a Hugging Face folder and a CSV file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from compressor.artifact import CompressedModel
from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer

NAMES = ("bad", "good")


def write_checkpoint(folder: Path, *, layers: int = 4, seed: int = 0, headless: bool = True, **config: Any) -> Path:
    """Save a random encoder, without a head unless asked, and its tokenizer."""
    torch.manual_seed(seed)
    model = tiny_bert(layers=layers, **config)
    (model.base_model if headless else model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_data(path: Path, count: int = 240, seed: int = 0) -> Path:
    """Save labelled sentences whose class one word decides."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        seen = set()
        for example in tiny_examples(count, seed=seed):
            if example.text not in seen:
                seen.add(example.text)
                writer.writerow([example.text, NAMES[example.label]])
    return path


def same_weights(one: CompressedModel, two: CompressedModel) -> bool:
    """Tell whether two models have equal tensors under equal names."""
    ours, theirs = one.model.state_dict(), two.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
