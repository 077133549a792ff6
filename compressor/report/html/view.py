"""What the page shows, and nothing of where it came from: a builder fills a `Report`, the page draws it.

Texts are plain; the page escapes them. A missing number is None and is shown as a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compressor.compare.ranking import Mark
from compressor.report.grid import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A column of the matrix. `number` stands for the name where names would collide."""

    number: int
    name: str
    role: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One quantity of one model."""

    text: str
    spread: str = ""  # half of its interval
    against: str = ""  # difference or ratio with its interval
    verdict: str = ""  # one of the words of `compressor.compare.verdicts`
    note: str = ""
    title: str = ""  # shown on hover: what is too long for the cell
    mark: Mark | None = None  # whether it leads its row, or cannot be told from what does
    value: float | None = None  # for sorting


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantity of all models, in their order."""

    label: str
    cells: tuple[Cell, ...]
    unit: str = ""
    words: bool = False  # text to be read rather than numbers to be compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A model in a plane; an interval is (low, high)."""

    model: Model
    x: float
    y: float
    x_ci95: tuple[float, float] | None = None
    y_ci95: tuple[float, float] | None = None
    reference: bool = False  # the model that the others are compared with
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tradeoff:
    """Points of which one would like both coordinates good; higher y is better."""

    key: str  # short, for the tab and the name of the file
    x_label: str
    y_label: str
    points: tuple[Point, ...]
    x_higher_is_better: bool = True
    y_most: float | None = None  # what cannot be exceeded: the axis and the bars end there
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The calls of one model, in milliseconds."""

    model: Model
    calls_ms: tuple[float, ...]
    bounds_ms: Mapping[str, float] = field(
        default_factory=dict
    )  # of percentiles that could be bounded: `p90` and so on


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The calls of all models on one runtime."""

    key: str
    strips: tuple[Strip, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stair:
    """One part of a speed-up."""

    name: str
    ratio: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Staircase:
    """A model's speed-up on one runtime, and the parts that multiply to it."""

    model: Model
    runtime: str
    total: Stair
    parts: tuple[Stair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stairs:
    """Where the speed-ups over one reference come from."""

    reference: str
    staircases: tuple[Staircase, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A method that was applied to a model."""

    model: str
    text: str
    options: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page, from top to bottom."""

    title: str
    verdict: tuple[str, ...]  # the first sentence is set large
    facts: tuple[str, ...] = ()
    models: tuple[Model, ...] = ()
    rows: tuple[Row, ...] = ()
    marks: str = ""  # who bears none
    tradeoffs: tuple[Tradeoff, ...] = ()
    timings: tuple[Timing, ...] = ()
    stairs: Stairs | None = None
    speeds: tuple[Grid, ...] = ()  # cold start, other scenarios, work on paper
    flips: tuple[Grid, ...] = ()  # which answers changed
    slices: tuple[Grid, ...] = ()  # the metric on parts of the examples
    calibration: tuple[Grid, ...] = ()
    sentences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()  # what could not be shown, each with its reason
    conditions: tuple[str, ...] = ()  # under which the times were taken, where there are several
    method: str = ""  # a Markdown list: how it was measured
    lineage: tuple[Step, ...] = ()
    command: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
