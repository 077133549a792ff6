"""Which examples two models answer differently, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from compressor.compare.predictions import PredictionTable, require_same_examples, softmax
from compressor.compare.statistics import Interval, wilson_interval


class Kind(StrEnum):
    """What became of an answer on the way from the baseline to the candidate."""

    lost = "lost"  # right, now wrong
    gained = "gained"  # wrong, now right
    changed = "changed"  # wrong, now wrong in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of `n` examples with Wilson's 95 % interval."""

    value: float
    ci95: Interval
    n: int

    @classmethod
    def of(cls, count: int, n: int) -> Rate:
        """Build it from a count."""
        return cls(value=count / n, ci95=wilson_interval(count, n), n=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One example that the two answer differently.

    Attributes:
        id: The example's.
        kind: What became of the answer.
        reference: The right answer: a class, or a list of tags.
        baseline: The baseline's answer.
        candidate: The candidate's.
        severity: For classes: by how much probability the one who is wrong prefers its class to the right one (the
            candidate, or the baseline where it was gained), 0 to 1; None without logits. For tags: how many differ.
        probabilities: Of each class, the baseline's and the candidate's; None for tags or without logits.
    """

    id: int
    kind: Kind
    reference: Any
    baseline: Any
    candidate: Any
    severity: float | None
    probabilities: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flips:
    """All flips, the worst first within each kind. How many of them another seed makes as well: `reseeding.py`."""

    agreement: Rate
    lost: tuple[Flip, ...]
    gained: tuple[Flip, ...]
    changed: tuple[Flip, ...]

    @property
    def flipped(self) -> Rate:
        """The share of examples that changed."""
        return Rate.of(len(self.lost) + len(self.gained) + len(self.changed), self.agreement.n)

    def worst(self, limit: int) -> tuple[Flip, ...]:
        """Return the worst ones: what was lost, then what is wrong in another way; what was gained is no harm."""
        return (*self.lost, *self.changed)[:limit]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreChange:
    """One example of a regression task."""

    id: int
    reference: float
    baseline: float
    candidate: float

    @property
    def change(self) -> float:
        """Candidate minus baseline, in the unit of the score."""
        return self.candidate - self.baseline


def find_flips(candidate: PredictionTable, baseline: PredictionTable, *, classes: int) -> Flips:
    """Compare two models' answers example by example; an example of a token task is right if all its tags are.

    Args:
        candidate: The candidate's answers: classes or lists of tags.
        baseline: The baseline's, of the same examples.
        classes: How many classes there are; logits of another number are not used.

    Raises:
        StoreError: The tables are of different examples.
        ValueError: The answers are scores, which all differ.
    """
    require_same_examples(candidate, baseline)
    _require_classes(candidate, baseline)
    tables = [candidate.class_logits(classes), baseline.class_logits(classes)]
    ours_NC, theirs_NC = (None if logits is None else softmax(logits) for logits in tables)
    found: dict[Kind, list[Flip]] = {kind: [] for kind in Kind}
    for i, (ours, theirs, right) in enumerate(
        zip(candidate.predictions, baseline.predictions, candidate.references, strict=True)
    ):
        if ours == theirs:
            continue
        kind = Kind.lost if theirs == right else Kind.gained if ours == right else Kind.changed
        severity: float | None = None
        probabilities = None
        if isinstance(right, list):
            severity = float(sum(a != b for a, b in zip(ours, theirs, strict=True)))
        elif ours_NC is not None and theirs_NC is not None:
            blamed, wrong = (theirs_NC, theirs) if kind is Kind.gained else (ours_NC, ours)
            severity = float(blamed[i, wrong] - blamed[i, right])
            probabilities = tuple(map(float, theirs_NC[i])), tuple(map(float, ours_NC[i]))
        found[kind].append(
            Flip(
                id=candidate.ids[i],
                kind=kind,
                reference=right,
                baseline=theirs,
                candidate=ours,
                severity=severity,
                probabilities=probabilities,
            )
        )
    n = len(candidate.ids)
    lost, gained, changed = (_worst_first(found[kind]) for kind in (Kind.lost, Kind.gained, Kind.changed))
    return Flips(
        agreement=Rate.of(n - len(lost) - len(gained) - len(changed), n),
        lost=lost,
        gained=gained,
        changed=changed,
    )


def score_changes(candidate: PredictionTable, baseline: PredictionTable) -> tuple[ScoreChange, ...]:
    """Return every example of a regression task, the largest absolute change first.

    Raises:
        StoreError: The tables are of different examples.
    """
    require_same_examples(candidate, baseline)
    rows = zip(candidate.ids, candidate.references, baseline.predictions, candidate.predictions, strict=True)
    changes = [
        ScoreChange(id=i, reference=float(right), baseline=float(theirs), candidate=float(ours))
        for i, right, theirs, ours in rows
    ]
    return tuple(sorted(changes, key=lambda c: (-abs(c.change), c.id)))


def _worst_first(flips: Sequence[Flip]) -> tuple[Flip, ...]:
    return tuple(sorted(flips, key=lambda f: (0.0 if f.severity is None else -f.severity, f.id)))


def _require_classes(*tables: PredictionTable) -> None:
    for table in tables:
        if any(isinstance(answer, float) for answer in table.predictions):
            raise ValueError("flips of scores, allowed: classes or lists of tags (see `score_changes`)")
