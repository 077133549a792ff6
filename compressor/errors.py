"""Every failure a user can meet, as one family.

A message says what was got, what is allowed and what to type next. `exit_code` is what
`python -m compressor` leaves the shell; the table stands in the README and does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar


class CompressorError(Exception):
    """Base of all errors that are the user's to mend; anything else is our bug.

    Args:
        got: What was found, with the option or file it was found in.
        allowed: What would have been accepted.
        hint: What to type next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, got: str, *, allowed: str = "", hint: str = "") -> None:
        super().__init__(got, allowed, hint)
        self.got = got
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.got]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.hint:
            lines.append(f"  try:     {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), self.got, self.allowed, self.hint)


def _restore(kind: type[CompressorError], got: str, allowed: str, hint: str) -> CompressorError:
    return kind(got, allowed=allowed, hint=hint)


@contextmanager
def told_as(make: Callable[[Exception], CompressorError]) -> Iterator[None]:
    """Raise what a library raises over a stranger's file as an error of ours, with the cause chained.

    Errors of ours stay as they are, and so does a lack of memory, which no file is to blame for.
    """
    try:
        yield
    except (CompressorError, MemoryError):
        raise
    except Exception as error:  # of every kind: what a file says reaches deep into libraries
        raise make(error) from error


class ConfigError(CompressorError):
    """An option, a name or a value is wrong; nothing was started."""

    exit_code = 2


class Incompatible(CompressorError):
    """The options are well formed but this model, task or chain cannot take them."""

    exit_code = 3


class DataError(CompressorError):
    """A data set is missing, empty, one-sided or holds values that cannot be trained on."""

    exit_code = 4


class AssetError(CompressorError):
    """Weights or data could not be fetched, or their hash is not the pinned one."""

    exit_code = 5


class TrainingError(CompressorError):
    """Training had to stop (a loss or gradient that is not finite, a teacher that learned nothing)."""

    exit_code = 6


class Hopeless(TrainingError):
    """A search ended a training that its earlier trials leave no hope for."""


class StoreError(CompressorError):
    """A folder is damaged, incomplete, already taken, or the disk is full."""

    exit_code = 7


class PluginError(CompressorError):
    """A plugin is broken, missing, or breaks the contract."""

    exit_code = 8


class MeasureError(CompressorError):
    """A measuring process crashed, hung, or its predictions disagree with the saved model."""

    exit_code = 9


class MissingExtra(CompressorError):
    """An optional stack is not installed; the message names the extra."""

    exit_code = 10

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        """Build the error for `package`, which the extra `extra` would install."""
        return cls(
            f"{package} is not installed",
            allowed=f"the extra '{extra}'",
            hint=f"pip install 'encoder-compressor[{extra}]'  (in a checkout: pip install -e '.[{extra}]')",
        )


class WrongVersion(MissingExtra):
    """A library is installed in a version that we do not work with; to a shell it is as good as missing."""
