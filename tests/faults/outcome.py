"""What a fault suite found: how often a promise was tried, how often it was kept, and each time that it was not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Counts of one promise.

    Attributes:
        promise: What was promised, in a sentence.
        tried: Cases.
        kept: Cases in which the promise was kept.
        failures: A line for each other case.
    """

    promise: str
    tried: int
    kept: int
    failures: tuple[str, ...] = ()
