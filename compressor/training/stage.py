"""A training stage under way: its steps, its epochs, its checkpoints."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compressor.config import Precision, TrainConfig
from compressor.errors import PluginError, TrainingError
from compressor.training.batching import EncodedSplit, bucketed_order
from compressor.training.checkpoint import Checkpoints, Snapshot, rng_state, set_rng_state
from compressor.training.distributed import Ranks
from compressor.training.evaluate import evaluate
from compressor.training.floors import epoch_values
from compressor.training.interrupts import Interrupted, StopRequest
from compressor.training.journal import Told
from compressor.training.optimization import Optimizer
from compressor.training.outputs import run_model
from compressor.training.precision import autocast, resolve_precision, training_attention
from compressor.training.progress import Progress
from compressor.training.signals import FitHook, Loss, LossInputs, Outputs, TeacherSignals
from compressor.training.state import EpochRecord, FitResult, Position
from compressor.training.teacher_cache import TeacherOutputs


@dataclass(kw_only=True)
class Stage:
    """A stage under way: what it was given, and where it stands."""

    model: nn.Module
    loss: Loss
    train: EncodedSplit
    validation: EncodedSplit
    settings: TrainConfig
    seed: int
    ranks: Ranks
    teacher: TeacherOutputs | None
    student_signals: TeacherSignals
    extra: Mapping[str, nn.Module]
    hooks: Sequence[FitHook]
    progress: Progress
    label: str
    logger: logging.Logger
    at: Position = field(default_factory=Position)
    best: dict[str, Tensor] = field(default_factory=dict)
    resumed_from: str | None = None
    told: Told = field(default_factory=Told)
    optimizer: Optimizer = field(init=False)

    @property
    def precision(self) -> Precision:
        """The arithmetic that is used."""
        return resolve_precision(self.settings.precision, self.ranks.device)

    @property
    def group(self) -> int:
        """Examples of an optimizer step."""
        return self.settings.batch_size * self.settings.gradient_accumulation

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return math.ceil(len(self.train) / self.group) * self.settings.epochs

    def train_all(self, store: Checkpoints, stop: StopRequest) -> FitResult:
        """Run the epochs that are left and end with the chosen weights."""
        saved = time.monotonic()
        with self.progress.task(self.label, self.total_steps, self.at.step) as bar:
            bar.recall(self.told.lines())
            while self.at.epoch < self.settings.epochs:
                started = time.monotonic()
                order = bucketed_order(self.train.lengths, self.group, self.seed, self.at.epoch)
                self._modes(training=True)
                while self.at.position < len(order):
                    terms = self._step(order[self.at.position])
                    self.at.add(terms, len(order[self.at.position]), self._tokens(order[self.at.position]))
                    self.told.add(self.at.step, terms)
                    bar.advance(1, terms)
                    now = time.monotonic()
                    due = now - saved >= self.settings.checkpoint_seconds and self.at.position < len(order)
                    asked, due = self.ranks.agree(stop.signum is not None, due)
                    if asked or due:
                        self.at.spend(now - started)
                        started = now
                        self._write(store)
                        saved = time.monotonic()
                    if asked:
                        raise Interrupted(stop.signum or 15)
                self.at.spend(time.monotonic() - started)
                ended = self._end_epoch()
                self.told.add(self.at.step, ended)
                if self.at.epoch < self.settings.epochs:
                    self._write(store)
                    saved = time.monotonic()
                bar.note(ended)  # may end the training: its checkpoint is written
        if self.best:
            self.model.load_state_dict(self.best)
        if self.ranks.is_main:
            store.finish(self._snapshot(final=True))
        self.ranks.wait()
        return self._result()

    def resume(self, begun: Snapshot) -> None:
        """Continue from a checkpoint."""
        self._load(begun)
        self.optimizer.load_tensors(begun.parts["optimizer"])
        self.best = {k: v.to(self.ranks.device) for k, v in begun.parts["best"].items()}
        set_rng_state(begun.parts["rng"])
        if self.ranks.rank:  # only the main process's random state is kept; the others draw a new one
            torch.manual_seed(seed_of(self.seed, f"resumed at {self.at.step}", self.ranks.rank))
        self.resumed_from = f"step {self.at.step}"
        self.logger.info("training continues at step %d of %d", self.at.step, self.total_steps)

    def reload(self, done: Snapshot) -> FitResult:
        """Take over a finished stage."""
        self._load(done)
        self.resumed_from = "finished"
        with self.progress.task(self.label, self.total_steps, self.at.step) as bar:
            bar.recall(self.told.lines())
        result = self._result()
        self.logger.info("%s: finished before in %.0f s; its weights are reused", self.label, result.seconds)
        return result

    def _step(self, group: list[int]) -> dict[str, float]:
        """Take one optimizer step on a group of examples and return the loss terms' means over it.

        Raises:
            TrainingError: Something is not finite; no weight has changed.
        """
        number = self.at.step
        for hook in self.hooks:
            hook.before_forward(number, self.total_steps)
        size = self.settings.batch_size
        means: dict[str, Tensor] = {}
        for start in range(0, len(group), size):
            own, counted = self.ranks.share(group[start : start + size])
            weight = counted / len(group)
            terms = self._terms(own)
            self.ranks.accelerator.backward(torch.stack(list(terms.values())).sum() * weight)
            for name, term in terms.items():
                means[name] = means.get(name, torch.zeros_like(term)) + term.detach() * weight
        self.ranks.sum_gradients(self.optimizer.parameters)
        norm = self.optimizer.collect()
        values = torch.cat([self.ranks.sum(torch.stack(list(means.values()))), norm.float()[None]]).tolist()  # one sync
        found = dict(zip(means, values, strict=False))
        self._require_finite(number, found, values[-1])
        self.optimizer.step(number, values[-1])
        self.optimizer.clear()
        for hook in self.hooks:
            hook.after_step(number + 1, self.total_steps)
        return found

    def _terms(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.train.step_batch(indices, self.seed, self.at.step).to(self.ranks.device)
        taught = Outputs() if self.teacher is None else self.teacher.for_batch(indices, batch)
        with autocast(self.precision, self.ranks.device):
            with training_attention(self.precision, self.ranks.device, batch.inputs["input_ids"].shape[1]):
                student = run_model(self.model, batch.inputs, self.student_signals)
            inputs = LossInputs(
                task=self.train.task,
                batch=batch,
                student=student,
                teacher=taught,
                step=self.at.step,
                total_steps=self.total_steps,
            )
            terms = {name: term.float() for name, term in self.loss(inputs).items()}
        for name, term in terms.items():
            if term.ndim:
                raise PluginError(f"loss term '{name}' has shape {tuple(term.shape)}", allowed="a scalar for each term")
        if not terms:
            raise PluginError("the loss returned no terms", allowed="at least one named scalar")
        return terms

    def _require_finite(self, number: int, terms: Mapping[str, float], norm: float) -> None:
        bad = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if bad is None and math.isfinite(norm):
            return
        what = f"the gradient of {self.optimizer.first_bad()}" if bad is None else f"loss term '{bad}' ({terms[bad]})"
        self.optimizer.clear()
        raise TrainingError(
            f"{what} is not finite at step {number + 1} of {self.total_steps} (epoch {self.at.epoch + 1})",
            hint=f"a lower train.learning_rate (now {self.settings.learning_rate:g})"
            + (", or train.precision=fp32" if self.precision is Precision.bf16 else ""),
        )

    def _end_epoch(self) -> dict[str, float]:
        """Validate, remember the weights if no epoch was better, and return what is to be noted."""
        started = time.monotonic()
        found = evaluate(
            self.model, self.validation, precision=self.precision, device=self.ranks.device, ranks=self.ranks
        )
        metric = self.train.task.metrics[0]
        score = found.scores[metric.name]
        if not math.isfinite(score):
            raise TrainingError(f"validation {metric.name} is {score} after epoch {self.at.epoch + 1}")
        better = self.at.best_score is None or (
            score > self.at.best_score if metric.higher_is_better else score < self.at.best_score
        )
        if better and self.settings.keep_best:
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.at.spend(time.monotonic() - started)
        record = self.at.end_epoch(dict(found.scores), score if better else None)
        self.logger.info("epoch %d of %d: %s", record.epoch, self.settings.epochs, _worded(record))
        assert self.at.best_score is not None
        return epoch_values(record.epoch, self.settings.epochs, found.scores, best=self.at.best_score)

    def _write(self, store: Checkpoints) -> None:
        if self.ranks.is_main:
            store.write(self._snapshot(final=False))
        self.ranks.wait()

    def _snapshot(self, *, final: bool) -> Snapshot:
        parts: dict[str, Mapping[str, Tensor]] = {"model": self.model.state_dict()}
        for name, module in self.extra.items():
            parts[f"extra-{name}"] = module.state_dict()
        for number, hook in enumerate(self.hooks):
            parts[f"hook-{number}"] = hook.state_dict()
        if not final:
            parts |= {"optimizer": self.optimizer.tensors(), "best": self.best, "rng": rng_state()}
        return Snapshot(parts=parts, facts=self.at.facts(), told=self.told.text)

    def _load(self, snapshot: Snapshot) -> None:
        self.model.load_state_dict(dict(snapshot.parts["model"]))
        for name, module in self.extra.items():
            module.load_state_dict(dict(snapshot.parts[f"extra-{name}"]))
        for number, hook in enumerate(self.hooks):
            hook.load_state_dict(snapshot.parts[f"hook-{number}"])
        self.at = Position.of_facts(snapshot.facts)
        self.told = Told(snapshot.told)

    def _modes(self, *, training: bool) -> None:
        for module in (self.model, *self.extra.values()):
            module.train(training)

    def _tokens(self, group: list[int]) -> int:
        return int(self.train.lengths[group].sum())

    def _result(self) -> FitResult:
        notes = {} if self.teacher is None else self.teacher.notes
        return self.at.result(
            keep_best=self.settings.keep_best,
            precision=self.precision.value,
            resumed_from=self.resumed_from,
            notes=notes,
        )


def _worded(record: EpochRecord) -> str:
    values = {**record.train, **{f"validation {k}": v for k, v in record.validation.items()}}
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())


def seed_of(seed: int, stage: str, rank: int) -> int:
    """Derive the seed of a stage's dropout on one rank."""
    return int(hashlib.sha256(f"{seed}:{stage}:{rank}".encode()).hexdigest()[:12], 16)
