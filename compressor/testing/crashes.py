"""Crashes on demand: a run that dies in the middle of its training, as under `kill -9` between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from compressor.training.progress import Bar, Progress


class CrashError(RuntimeError):
    """Stands for the end of a process."""


def crash_at_second_step() -> Progress:
    """Return a progress that raises `CrashError` at the second training step it is told of.

    The step is done and not yet in a checkpoint, so a run that goes on has to do it again, from the checkpoint of the first.
    """
    return _Crash()


class _Crash:
    def __init__(self) -> None:
        self.steps = 0

    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        yield self

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        self.steps += values is not None  # only training steps have values to show
        if self.steps == 2:
            raise CrashError("the second training step")

    def note(self, values: Mapping[str, float]) -> None:
        return None

    def recall(self, told: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        return None
