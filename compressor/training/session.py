"""Training and scoring straight from examples, for callers without a cache of encoded splits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compressor.artifact import CompressedModel
from compressor.config import Precision, TrainConfig
from compressor.tasks.base import Example, Task
from compressor.tasks.data import TaskData
from compressor.training.batching import encode_split
from compressor.training.evaluate import evaluate
from compressor.training.loop import FitResult, fit
from compressor.training.progress import Progress
from compressor.training.signals import LossInputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_on_labels(
    artifact: CompressedModel,
    task: Task,
    data: TaskData,
    settings: TrainConfig,
    *,
    seed: int,
    device: str,
    checkpoints: Path | None,
    progress: Progress | None,
    label: str = "teacher",
) -> FitResult:
    """Fine-tune an artifact's model, in place, on the task's labels."""
    return fit(
        artifact.model,
        label_loss,
        train=encode_split(task, artifact.tokenizer, data.train),
        validation=encode_split(task, artifact.tokenizer, data.validation),
        settings=settings,
        seed=seed,
        stage="labels",
        device=device,
        checkpoints=checkpoints,
        progress=progress,
        label=label,
        logger=logging.getLogger(f"compressor.{label}"),
    )


def label_loss(inputs: LossInputs) -> Mapping[str, Tensor]:
    """Return the loss against the labels alone."""
    return {"hard": inputs.task.hard_loss(inputs.logits, inputs.batch)}


def evaluate_examples(
    model: nn.Module,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    device: str,
    precision: Precision = Precision.fp32,
) -> tuple[list[Any], Mapping[str, float]]:
    """Return a model's predictions on labelled examples, in order, and their scores."""
    model.to(device)
    found = evaluate(model, encode_split(task, tokenizer, examples), precision=precision, device=device)
    return found.predictions, found.scores
