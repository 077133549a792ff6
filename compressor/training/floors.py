"""Scores that a training must reach to go on: a search sets them by its earlier trials, and so drops hopeless ones.

They change no result: a training that reaches them is the one that it is without.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from compressor import commit
from compressor.errors import Hopeless
from compressor.training.progress import Bar, Progress

BASELINE: Final = "baseline"  # first word of the stages of a run's baselines: no floor is theirs
_EPOCH: Final = "epoch"
_EPOCHS: Final = "epochs"
_SCORE: Final = "validation {}"
_BEST: Final = "validation best"


class Mark(NamedTuple):
    """The end of an epoch; those of trainings of other lengths are other marks, for the learning rate falls over the whole."""

    stage: str
    epoch: int  # counted from 1
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What the first metric of the task must have reached on validation by a mark; `said` is why."""

    mark: Mark
    metric: str
    score: float
    higher_is_better: bool
    said: str


def epoch_values(epoch: int, epochs: int, scores: Mapping[str, float], *, best: float) -> dict[str, float]:
    """Return what a training notes of an epoch; `best` is the best score so far of the first metric."""
    told = {_SCORE.format(name): value for name, value in scores.items()}
    return {_EPOCH: float(epoch), _EPOCHS: float(epochs), **told, _BEST: best}


def mark_of(stage: str, values: Mapping[str, float]) -> Mark | None:
    """Return the mark that noted values are of; None: they are a step's."""
    return Mark(stage, int(values[_EPOCH]), int(values[_EPOCHS])) if {_EPOCH, _EPOCHS} <= set(values) else None


def score_of(values: Mapping[str, float], metric: str) -> float | None:
    """Return the score at a mark."""
    return values.get(_SCORE.format(metric))


def write(path: Path, floors: Sequence[Floor]) -> None:
    """Write floors, for trainings in other processes; they are read as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    commit.write_json_atomic(path, [asdict(floor) for floor in floors])


def read(path: Path) -> list[Floor]:
    """Return what `write` wrote; none where there is no such file."""
    if not path.is_file():
        return []
    return [Floor(**{**values, "mark": Mark(*values["mark"])}) for values in commit.read_json(path)]


class Watched:
    """A progress that ends a training below its floor; for a run of one process, since the others would wait for it."""

    def __init__(self, progress: Progress, floors: Sequence[Floor]) -> None:
        self._progress = progress
        self._floors = {floor.mark: floor for floor in floors}

    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        """See `Progress.task`."""
        with self._progress.task(label, total, done) as bar:
            yield _WatchedBar(bar, label, self._floors)


class _WatchedBar:
    def __init__(self, bar: Bar, stage: str, floors: Mapping[Mark, Floor]) -> None:
        self._bar, self._stage, self._floors = bar, stage, floors

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        self._bar.advance(amount, values)

    def recall(self, told: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        self._bar.recall(told)

    def note(self, values: Mapping[str, float]) -> None:
        """See `Bar.note`.

        Raises:
            Hopeless: No epoch so far has reached the floor.
        """
        self._bar.note(values)
        mark = mark_of(self._stage, values)
        floor = None if mark is None else self._floors.get(mark)
        if floor is None:
            return
        best = values[_BEST]
        if best < floor.score if floor.higher_is_better else best > floor.score:
            after = f"{floor.mark.epoch} of {floor.mark.epochs} epochs of {self._stage}"
            raise Hopeless(f"validation {floor.metric} is {best:.4f} at best after {after}: {floor.said}")
