"""What a fault suite found, so that a command can print it as a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """A promise, how often it was put to the test, and how often it was kept; `failures` says what went wrong."""

    promise: str
    tried: int
    kept: int
    failures: tuple[str, ...] = ()
