"""The one training loop: every method, the teacher's fine-tuning and the baselines go through `fit`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.config import TrainConfig
from compressor.training.batching import EncodedSplit
from compressor.training.checkpoint import Checkpoints, digest, held
from compressor.training.distributed import Ranks, join_ranks
from compressor.training.interrupts import Interrupted, stop_requests
from compressor.training.optimization import Groups, Optimizer, frozen_embeddings
from compressor.training.outputs import eager_attention
from compressor.training.progress import Progress, TrainingProgress, silent_progress
from compressor.training.quick_dropout import quick_dropout
from compressor.training.row_gradients import row_gradients
from compressor.training.signals import FitHook, Loss, TeacherSignals
from compressor.training.stage import Stage, seed_of
from compressor.training.state import EpochRecord, FitResult
from compressor.training.teacher_cache import TeacherOutputs

__all__ = ["EpochRecord", "FitResult", "Interrupted", "fit"]

_NONE = TeacherSignals()
_LOG = logging.getLogger("compressor")


def fit(
    model: nn.Module,
    loss: Loss,
    *,
    train: EncodedSplit,
    validation: EncodedSplit,
    settings: TrainConfig,
    seed: int = 0,
    stage: str = "train",
    device: str = "cpu",
    teacher: TeacherOutputs | None = None,
    student_signals: TeacherSignals = _NONE,
    extra_modules: Mapping[str, nn.Module] | None = None,
    parameter_groups: Groups | None = None,
    hooks: Sequence[FitHook] = (),
    checkpoints: Path | None = None,
    progress: Progress | None = None,
    label: str = "training",
    logger: logging.Logger = _LOG,
) -> FitResult:
    """Train `model` in place and leave it in eval mode, with its best epoch's weights if `settings.keep_best`.

    A stage that was finished before under `checkpoints` is loaded, one that was begun is continued bit-identically (at
    equal threads), one that another run is at work on is waited for. Torch's random state, grad mode and every
    `requires_grad` are as before afterwards.

    Args:
        model: A module whose forward takes the batch's inputs and returns logits.
        loss: Named scalar terms; their sum is minimised. It runs inside autocast.
        train: May hold unlabelled examples, for which the teacher is the only target.
        validation: Labelled; the task's first metric chooses the epoch, ties the earlier one.
        settings: `batch_size` is counted over all ranks.
        seed: With `stage`, decides order and dropout.
        stage: Name of this stage.
        device: `cpu` or `cuda`.
        teacher: Outputs of the teacher on `train`.
        student_signals: Inner outputs of the model that the loss reads.
        extra_modules: Modules trained along.
        parameter_groups: In torch's form; extra modules that are in none are added.
        hooks: Called around each optimizer step; their state is checkpointed.
        checkpoints: Folder of this stage alone.
        progress: Where progress is shown.
        label: What the progress bar says.
        logger: Where checkpoints and warnings are reported.

    Raises:
        TrainingError: A loss term, gradient or teacher logit is not finite. The weights are those before the step.
        Interrupted: SIGINT or SIGTERM came; a checkpoint was written.
        StoreError: The checkpoints belong to other settings.
    """
    ranks = join_ranks(device)
    extra = dict(extra_modules or {})
    for module in (model, *extra.values()):
        module.to(ranks.device)
    run = Stage(
        model=model,
        loss=loss,
        train=train,
        validation=validation,
        settings=settings,
        seed=seed,
        ranks=ranks,
        teacher=teacher,
        student_signals=student_signals,
        extra=extra,
        hooks=hooks,
        progress=(progress or TrainingProgress()) if ranks.is_main else silent_progress(),
        label=label,
        logger=logger,
    )
    identity = _identity(run, stage)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_own_randomness(seed, stage, ranks))
        stack.enter_context(_left_in_eval_mode([model, *extra.values()]))
        stack.enter_context(held(checkpoints, ranks, logger))
        store = Checkpoints(checkpoints, identity, logger)
        done = store.finished()
        if not ranks.agree(done is None)[0]:
            assert done is not None
            return run.reload(done)
        if ranks.is_main:
            store.tidy()
        if teacher is not None:
            teacher.fill()
        stack.enter_context(frozen_embeddings(model, settings.freeze_embeddings))
        stack.enter_context(eager_attention(model, bool(student_signals.attention)))
        stack.enter_context(quick_dropout([model, *extra.values()], wanted=ranks.device == "cpu"))
        local = ranks.world == 1 and ranks.device == "cpu"
        tables = stack.enter_context(row_gradients([model, *extra.values()], wanted=local))
        run.optimizer = Optimizer(model, extra, parameter_groups, settings, run.total_steps, tables)
        begun = store.newest()
        if begun is not None:
            run.resume(begun)
        stop = stack.enter_context(stop_requests())
        return run.train_all(store, stop)


def _identity(run: Stage, stage: str) -> dict[str, Any]:
    """Return what a checkpoint must share with this call to be continued."""
    settings = {k: v for k, v in asdict(run.settings).items() if k not in ("checkpoint_seconds", "cache_gb")}
    shapes = [(name, tuple(p.shape)) for m in (run.model, *run.extra.values()) for name, p in m.named_parameters()]
    tokens = hashlib.sha256(run.train.flat["input_ids"].tobytes() + run.train.lengths.tobytes()).hexdigest()
    return {
        "stage": stage,
        "seed": run.seed,
        "settings": {k: getattr(v, "value", v) for k, v in settings.items()},
        "precision": run.precision.value,
        "parameters": digest(shapes),
        "training tokens": tokens[:16],
        "ranks": run.ranks.world,
        "signals": digest([str(run.student_signals), str(run.teacher.signals if run.teacher else None)]),
        "kept hidden states": run.teacher is not None and run.teacher.keeps_hidden,  # kept ones are rounded to bf16
    }


@contextmanager
def _own_randomness(seed: int, stage: str, ranks: Ranks) -> Iterator[None]:
    devices = [torch.cuda.current_device()] if ranks.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(seed, stage, ranks.rank))
        yield


@contextmanager
def _left_in_eval_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    try:
        yield
    finally:
        for module in modules:
            module.eval()
            module.zero_grad(set_to_none=True)
