"""How long a run will take, from a few timed forwards and counted tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from compressor.artifact import CompressedModel
from compressor.config import Precision, RunConfig
from compressor.families import forward_inputs
from compressor.machine import usable_cores
from compressor.pipeline import Link
from compressor.tasks.data import TaskData
from compressor.training.precision import autocast, resolve_precision

if TYPE_CHECKING:
    from compressor.tasks.base import Task

TRAINING_COST = 3.0  # a backward pass costs about twice its forward (Kaplan et al. 2020, arXiv:2001.08361, section 2.1)
SCORE_SECONDS = 35.0  # scoring and exporting one candidate, and its memory
# Of one model on one runtime, on two cores of an EPYC (Zen 5):
CALLS_SECONDS = 3.0  # 240 calls
LOAD_SECONDS = 0.5


def estimate_seconds(
    teacher: CompressedModel,
    task: Task,
    chains: Mapping[str, Sequence[Link]],
    data: TaskData,
    config: RunConfig,
    device: str,
) -> float:
    """Return the seconds from here to the table; a guess within a factor of about 1.5.

    A forward of the teacher is timed on real texts. A training link is charged its student's share of the teacher's layers,
    and one teacher pass if it reads teacher signals.
    """
    per_text = _forward_seconds_per_text(teacher, task, data, resolve_precision(config.train.precision, device), device)
    bench = config.bench
    calls = CALLS_SECONDS * bench.blocks * bench.texts / 240
    ready = LOAD_SECONDS + CALLS_SECONDS * bench.warmup_calls / 240
    beside = min(len(bench.runtimes), max(1, usable_cores() // bench.threads))  # loads at a time
    arms = (2 + len(chains)) * len(bench.runtimes)  # with the null arm
    settling = max(bench.warmup_seconds, arms * CALLS_SECONDS * 2 / 240)
    total = SCORE_SECONDS * (1 + len(chains))
    total += bench.rounds * (arms * (calls + (1 + (bench.loads - 1) / beside) * ready) + bench.loads * settling)
    for links in chains.values():
        for link in links:
            wants = link.method.capabilities
            if not wants.needs_training:
                continue
            texts = len(data.train) + (len(data.unlabelled) if wants.signals else 0)
            share = link.result.layers / teacher.blueprint.layers
            total += texts * per_text * (config.train.epochs * TRAINING_COST * share + bool(wants.signals))
    return total


def _forward_seconds_per_text(
    teacher: CompressedModel, task: Task, data: TaskData, precision: Precision, device: str
) -> float:
    import torch

    step = max(1, len(data.train) // 64)
    examples = sorted(data.train[::step], key=lambda e: len(e.text))
    middle = examples[len(examples) // 4 :][:8]
    batch = task.collate(teacher.tokenizer, middle, task.encode(teacher.tokenizer, middle)).to(device)
    model = teacher.model.to(device)
    timings = []
    with torch.inference_mode(), autocast(precision, device):
        for _ in range(2):  # the first is slower
            start = time.perf_counter()
            model(**forward_inputs(model, batch.inputs)).logits.sum().item()  # waits for the device
            timings.append(time.perf_counter() - start)
    model.cpu()
    return min(timings) / max(1, len(batch.ids))
