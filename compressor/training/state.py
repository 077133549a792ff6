"""Where a training stage stands, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One finished epoch: means of the loss terms over its examples, and validation scores after it."""

    epoch: int  # counted from 1
    train: Mapping[str, float]
    validation: Mapping[str, float]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What a stage came to. `seconds` and `tokens` cover all epochs, also those before an interruption."""

    epochs: tuple[EpochRecord, ...]
    best_epoch: int  # counted from 1
    best_score: float
    kept_epoch: int  # counted from 1: the epoch whose weights the model has, the best or the last one
    steps: int
    seconds: float
    tokens: int  # real tokens trained on
    precision: str
    resumed_from: str | None = None  # "step N", or "finished"
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Real tokens a second, validation included."""
        return self.tokens / max(self.seconds, 1e-9)

    def summary(self) -> dict[str, Any]:
        """Return what a lineage records of the stage, as JSON."""
        return {
            "epochs": len(self.epochs),
            "best_epoch": self.best_epoch,
            "kept_epoch": self.kept_epoch,
            "validation": dict(self.epochs[self.kept_epoch - 1].validation),
            "steps": self.steps,
            "tokens": self.tokens,
            "training_seconds": round(self.seconds, 3),
            "precision": self.precision,
            "resumed_from": self.resumed_from,
            "notes": list(self.notes),
        }


@dataclass(slots=True, kw_only=True)
class Position:
    """The moving part of a stage; JSON goes in and out without loss."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done
    position: int = 0  # optimizer steps done in the current epoch
    sums: dict[str, float] = field(default_factory=dict)  # of each term times examples, in the current epoch
    examples: int = 0  # in the current epoch
    seconds: float = 0.0  # in the current epoch
    tokens: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float | None = None

    def add(self, terms: Mapping[str, float], examples: int, tokens: int) -> None:
        """Count an optimizer step."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * examples
        self.step += 1
        self.position += 1
        self.examples += examples
        self.tokens += tokens

    def spend(self, seconds: float) -> None:
        """Count time."""
        self.seconds += seconds

    def end_epoch(self, scores: Mapping[str, float], best_score: float | None) -> EpochRecord:
        """Close the epoch; `best_score` is given if it is the best so far."""
        means = {name: total / max(self.examples, 1) for name, total in self.sums.items()}
        record = EpochRecord(epoch=self.epoch + 1, train=means, validation=dict(scores), seconds=self.seconds)
        self.history.append(record)
        if best_score is not None:
            self.best_epoch, self.best_score = record.epoch, best_score
        self.epoch, self.position, self.examples, self.sums, self.seconds = self.epoch + 1, 0, 0, {}, 0.0
        return record

    def facts(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> Position:
        """Rebuild it from what `facts` gave."""
        values = {name: facts[name] for name in cls.__dataclass_fields__}
        values["history"] = [EpochRecord(**entry) for entry in facts["history"]]
        return cls(**values)

    def result(
        self, *, keep_best: bool, precision: str, resumed_from: str | None, notes: Mapping[str, str]
    ) -> FitResult:
        """Return what a finished stage came to."""
        assert self.best_score is not None
        return FitResult(
            epochs=tuple(self.history),
            best_epoch=self.best_epoch,
            best_score=self.best_score,
            kept_epoch=self.best_epoch if keep_best else len(self.history),
            steps=self.step,
            seconds=sum(record.seconds for record in self.history),
            tokens=self.tokens,
            precision=precision,
            resumed_from=resumed_from,
            notes=notes,
        )
