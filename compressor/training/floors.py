"""Scores that a training must reach to go on: a search gives them, from its earlier trials, and so drops hopeless ones.

They change no result: a training that reaches them is the one that it is without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from compressor import commit
from compressor.errors import Hopeless
from compressor.training.progress import Bar, Progress

EPOCH = "epoch"
_VALIDATION = "validation "


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the validation metric of a stage must reach after an epoch; `said` is what is at that mark."""

    stage: str
    epoch: int  # counted from 1
    metric: str
    score: float
    higher_is_better: bool
    said: str


def epoch_values(epoch: int, scores: Mapping[str, float]) -> dict[str, float]:
    """Return what a training notes after an epoch."""
    return {EPOCH: float(epoch), **{f"{_VALIDATION}{name}": value for name, value in scores.items()}}


def score_of(values: Mapping[str, float], metric: str) -> float | None:
    """Return the validation score that was noted, if this was an epoch's end."""
    return values.get(f"{_VALIDATION}{metric}") if EPOCH in values else None


def write(path: Path, floors: Sequence[Floor]) -> None:
    """Write floors, for trainings in other processes; they are read as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    commit.write_json_atomic(path, [asdict(floor) for floor in floors])


def read(path: Path) -> list[Floor]:
    """Return what `write` wrote; none where there is no such file."""
    return [Floor(**values) for values in commit.read_json(path)] if path.is_file() else []


class Watched:
    """A progress that ends a training below its floor."""

    def __init__(self, progress: Progress, floors: Sequence[Floor]) -> None:
        self._progress = progress
        self._floors = {(floor.stage, floor.epoch): floor for floor in floors}

    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        """See `Progress.task`."""
        with self._progress.task(label, total, done) as bar:
            yield _WatchedBar(bar, label, self._floors)


class _WatchedBar:
    def __init__(self, bar: Bar, stage: str, floors: Mapping[tuple[str, int], Floor]) -> None:
        self._bar, self._stage, self._floors = bar, stage, floors

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        """See `Bar.advance`.

        Raises:
            Hopeless: The epoch that ended validates below its floor.
        """
        self._bar.advance(amount, values)
        floor = self._floors.get((self._stage, int((values or {}).get(EPOCH, 0))))
        score = None if floor is None else score_of(values or {}, floor.metric)
        if floor is None or score is None:
            return
        if (score < floor.score) if floor.higher_is_better else (score > floor.score):
            raise Hopeless(
                f"validation {floor.metric} is {score:.4f} after epoch {floor.epoch} of {floor.stage}: {floor.said}"
            )
