"""How long a run will take, from a few timed forwards and counted tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.artifact import CompressedModel
from compressor.config import BenchConfig, Precision, RunConfig
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
# What `compressor.measure` does in the further scenarios, which lies above this module:
THROUGHPUT_BATCHES, THROUGHPUT_LOADS = 4, 6  # after each load every batch is called once, untimed
SURFACE_BLOCKS, SURFACE_LOADS = 6, 3
SURFACE_TOKENS = 29_520  # of all shapes together


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the teacher reads texts in batches of eight: seconds and tokens of one, padding included."""

    seconds: float
    tokens: float


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
    pace = _pace(teacher, task, data, resolve_precision(config.train.precision, device), device)
    bench, models = config.bench, 1 + len(chains)
    timed = pace
    if bench.padded or bench.throughput or bench.surface:
        timed = _pace(teacher, task, data, Precision.fp32, _usable(bench.device), threads=bench.threads)
    total = SCORE_SECONDS * models + _timing_seconds(bench, models, timed, longest=task.config.max_length)
    for links in chains.values():
        for link in links:
            wants = link.method.capabilities
            if not wants.needs_training:
                continue
            texts = len(data.train) + (len(data.unlabelled) if wants.signals else 0)
            share = link.result.layers / teacher.blueprint.layers
            total += texts * pace.seconds * (config.train.epochs * TRAINING_COST * share + bool(wants.signals))
    return total


def _timing_seconds(bench: BenchConfig, models: int, pace: Pace, *, longest: int) -> float:
    """Return the seconds of all scenarios; in those of whole batches every model is charged like the teacher."""
    arms = (models + 1) * len(bench.runtimes)  # with the null arm
    calls = CALLS_SECONDS * bench.blocks * bench.texts / 240
    ready = LOAD_SECONDS + CALLS_SECONDS * bench.warmup_calls / 240
    beside = min(len(bench.runtimes), max(1, usable_cores() // bench.threads))  # loads at a time
    settling = max(bench.warmup_seconds, arms * CALLS_SECONDS * 2 / 240)
    single = bench.rounds * (arms * (calls + (1 + (bench.loads - 1) / beside) * ready) + bench.loads * settling)
    total = single * (1 + bench.end_to_end)
    if bench.padded:
        total += bench.rounds * calls * max(1.0, longest / pace.tokens)
    if bench.throughput:
        loads = THROUGHPUT_LOADS if bench.loads % THROUGHPUT_LOADS == 0 else bench.loads
        texts = max(bench.texts, THROUGHPUT_BATCHES * bench.throughput_batch)
        total += bench.rounds * arms * (bench.blocks + loads) * texts * pace.seconds
    if bench.surface:
        total += arms * (SURFACE_BLOCKS + SURFACE_LOADS) * SURFACE_TOKENS * pace.seconds / pace.tokens
    return total


def _usable(device: str) -> str:
    import torch

    return device if device == "cpu" or torch.cuda.is_available() else "cpu"


def _pace(
    teacher: CompressedModel, task: Task, data: TaskData, precision: Precision, device: str, *, threads: int = 0
) -> Pace:
    """Time a forward of the teacher, with so many threads if they are given."""
    import torch

    step = max(1, len(data.train) // 64)
    examples = sorted(data.train[::step], key=lambda e: len(e.text))
    middle = examples[len(examples) // 4 :][:8]
    batch = task.collate(teacher.tokenizer, middle, task.encode(teacher.tokenizer, middle)).to(device)
    model = teacher.model.to(device)
    timings, before = [], torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with torch.inference_mode(), autocast(precision, device):
            for _ in range(2):  # the first is slower
                start = time.perf_counter()
                model(**forward_inputs(model, batch.inputs)).logits.sum().item()  # waits for the device
                timings.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    model.cpu()
    texts = max(1, len(batch.ids))
    return Pace(seconds=min(timings) / texts, tokens=batch.inputs["input_ids"].numel() / texts)
