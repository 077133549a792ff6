"""The loss terms of every step and the scores of every epoch, as a file of the run: what a curve is drawn from.

A stage keeps its own with its checkpoints, so that a run that goes on with it, or takes it over, has the whole curve.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

from compressor.training.progress import Bar, Progress

_FLUSH_S: Final = 2.0


class Journal:
    """A progress that also writes: one JSON line a step and one an epoch, `{"stage": ..., "step": ..., NAME: VALUE, ...}`.

    Args:
        progress: Where progress is shown.
        path: The file; it appears with the first step.
    """

    def __init__(self, progress: Progress, path: Path) -> None:
        self._progress, self._path = progress, path

    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        """See `Progress.task`."""
        with self._progress.task(label, total, done) as bar:
            noted = _Noted(bar, self._path, label, int(done))
            try:
                yield noted
            finally:
                noted.close()


class _Noted:
    def __init__(self, bar: Bar, path: Path, stage: str, done: int) -> None:
        self._bar, self._path, self._stage, self._done = bar, path, stage, done
        self._stream: TextIOWrapper | None = None
        self._flushed = time.monotonic()

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        self._bar.advance(amount, values)
        self._done += int(amount)
        if values:
            self._write(self._done, values)

    def note(self, values: Mapping[str, float]) -> None:
        self._bar.note(values)
        self._write(self._done, values)

    def recall(self, told: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        self._bar.recall(told)
        for step, values in told:
            self._write(step, values)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._stream is None:
            self._stream = self._path.open("a", encoding="utf-8")
        line = {"stage": self._stage, "step": step, **{name: float(value) for name, value in values.items()}}
        self._stream.write(json.dumps(line) + "\n")
        if time.monotonic() - self._flushed > _FLUSH_S:
            self._flushed = time.monotonic()
            self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class Told:
    """What a stage has told of its steps and epochs so far. Its name is not in it: each run calls the stage in its own way.

    Args:
        text: As `text` gave it in another process.
    """

    def __init__(self, text: bytes = b"") -> None:
        self._text = bytearray(text)

    @property
    def text(self) -> bytes:
        """One JSON line a step and one an epoch."""
        return bytes(self._text)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, or of an epoch that ended with it."""
        self._text += json.dumps([step, {name: float(value) for name, value in values.items()}]).encode() + b"\n"

    def lines(self) -> list[tuple[int, dict[str, float]]]:
        """Return everything, in order."""
        return [(step, values) for step, values in map(json.loads, self._text.splitlines())]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the steps and epochs of a journal, in order; a last line that was cut off is left out, no file holds none."""
    if not path.is_file():
        return []
    steps = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(step, dict) and {"stage", "step"} <= set(step):
            steps.append(step)
    return steps
