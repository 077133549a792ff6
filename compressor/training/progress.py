"""A bar with time left on a terminal; a line in the log now and then everywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from rich.console import Console

_LOG = logging.getLogger("compressor")
_LOG_SECONDS: Final = 30.0


class Bar(Protocol):
    """One piece of work under way."""

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        """Add `amount` to what is done; `values` are shown beside it."""

    def note(self, values: Mapping[str, float]) -> None:
        """Take values that are of no step, such as an epoch's scores."""

    def recall(self, told: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Take what was told of steps and epochs before, in another process; it is no news, and shown nowhere."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, label: str, total: float, done: float = 0.0) -> AbstractContextManager[Bar]:
        """Show a piece of work of `total` units, `done` of which were done before."""


class TrainingProgress:
    """A bar on a terminal, lines in the log elsewhere.

    Args:
        console: Where bars are drawn; None: standard error.
    """

    def __init__(self, console: Console | None = None, logger: logging.Logger = _LOG) -> None:
        self._console = console
        self._logger = logger

    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        """See `Progress.task`."""
        from rich.console import Console

        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            yield _LogBar(self._logger, label, total, done)
            return
        with _terminal_bar(console, label, total, done) as bar:
            yield bar


class _Silence:
    @contextmanager
    def task(self, label: str, total: float, done: float = 0.0) -> Iterator[Bar]:
        yield _SilentBar()


def silent_progress() -> Progress:
    """Return a progress that shows nothing."""
    return _Silence()


class Prefixed:
    """A progress whose work is called `<prefix> <label>`."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self._progress, self._prefix = progress, prefix

    def task(self, label: str, total: float, done: float = 0.0) -> AbstractContextManager[Bar]:
        """See `Progress.task`."""
        return self._progress.task(f"{self._prefix} {label}", total, done)


class _SilentBar:
    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        return None

    def note(self, values: Mapping[str, float]) -> None:
        return None  # the training logs an epoch itself

    def recall(self, told: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        return None


class _LogBar(_SilentBar):
    def __init__(self, logger: logging.Logger, label: str, total: float, done: float) -> None:
        self.logger, self.label, self.total, self.done, self.before = logger, label, total, done, done
        self.start = self.spoke = time.monotonic()

    def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.spoke < _LOG_SECONDS:
            return
        self.spoke = now
        left_s = (now - self.start) * (self.total - self.done) / max(self.done - self.before, 1e-9)
        self.logger.info(
            "%s: %.0f of %.0f, about %s left  %s", self.label, self.done, self.total, _clock(left_s), _shown(values)
        )


@contextmanager
def _terminal_bar(console: Console, label: str, total: float, done: float) -> Iterator[Bar]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with RichProgress(*columns, console=console, transient=True, refresh_per_second=4) as drawn:
        key = drawn.add_task(label, total=int(total), completed=int(done), values="")

        class Drawn(_SilentBar):
            def advance(self, amount: float = 1.0, values: Mapping[str, float] | None = None) -> None:
                fields: dict[str, Any] = {"values": _shown(values)} if values else {}
                drawn.update(key, advance=amount, **fields)

        yield Drawn()


def _shown(values: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
