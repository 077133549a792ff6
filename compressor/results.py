"""What `result.json` holds: typed, versioned, and read back strictly. A missing number is None, never 0."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from compressor.errors import StoreError

SCHEMA_VERSION = 3
NULL = "(first, loaded again)"  # the null arm, in raw timings: the teacher a second time
PADDED = "(first, padded)"  # the teacher on padded texts, in raw timings
OK = "ok"  # the other statuses are "failed(<reason>)" and "skipped(duplicate of <N>)"


def _later(default: Any) -> Any:
    """Return a field that files of this schema lack if they were written before it was there; they then hold the default."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageStep:
    """A method that was applied."""

    method: str
    distribution: str
    version: str
    config: Mapping[str, Any]
    seconds: float
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """A metric on one split. `ci95` is (low, high)."""

    value: float
    ci95: tuple[float, float]
    n: int
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """What a percentile of the calls does not exceed, with 99 % confidence; None where there were fewer calls than it needs."""

    level: float
    bound_ms: float | None
    needs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One runtime's timing; either the numbers or the refusal is set."""

    runtime: str
    threads: int
    batch_size: int
    precision: str = "fp32"  # of floating arithmetic
    latency_ms_p50: float | None = None
    ci95: tuple[float, float] | None = None  # of the median, in ms
    samples: int = 0
    same_prediction_rate: float | None = None  # timed predictions equal to those of the scoring run
    refusal: str | None = None
    percentiles: tuple[Percentile, ...] = ()
    rounds: int = 0  # processes that the samples come from: of each round one attempt, or all that count
    load_seconds: float | None = None  # libraries imported, files warm
    first_call_seconds: float | None = None
    unstable: tuple[str, ...] = ()  # why the machine's noise puts the numbers in doubt
    warmup_calls: int | None = _later(None)  # after each load, at least, before calls were timed
    cuda_peak_bytes: int | None = _later(None)  # what torch allocated on the device at most; None on the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How far a classifier's probabilities can be believed on one split; intervals are (low, high)."""

    expected_calibration_error: float  # 15 bins; 0 is best
    expected_calibration_error_ci95: tuple[float, float]
    negative_log_likelihood: float  # nats an example; 0 is best
    negative_log_likelihood_ci95: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often a candidate answers as the teacher does on one split; the other examples are counted by what became of them."""

    rate: float
    ci95: tuple[float, float]
    n: int
    gained: int  # wrong answers that became right
    lost: int  # right answers that became wrong
    changed: int  # wrong answers that became wrong in another way


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSpeed:
    """One runtime's timing in another scenario than single calls on tokens; either the numbers or the refusal is set.

    A call is a batch of texts: of raw text in `end_to_end`, of one shape in `surface`, one of several in `throughput`, whose
    figure is texts a second. The ratio is to the teacher in the same scenario, above 1 is faster; a teacher has none.
    """

    scenario: str  # end_to_end, throughput, surface
    runtime: str
    threads: int
    batch_size: int
    length: int | None = None  # tokens of each text, of a cell of the surface
    latency_ms_p50: float | None = None
    texts_per_second: float | None = None
    ci95: tuple[float, float] | None = None  # of the median, or of the texts a second
    samples: int = 0  # calls; for texts a second, passes over all batches
    rounds: int = 0
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    verdict: str | None = None
    null_ratio: float | None = None
    joules_per_text: float | None = None  # above what the machine takes at rest
    energy_unavailable: str | None = None
    refusal: str | None = None
    unstable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a model takes on paper; None has its reason beside it. No measured time follows from it."""

    macs_per_text: float | None = None  # multiply-accumulates at the replayed lengths; no look-ups
    macs_unavailable: str | None = None
    nominal_bits: float | None = None  # stored bits of all tensors over the parameters
    bits_unavailable: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateResult:
    """One model. Metrics of the test split bear the metric's name, those of other splits `metric@split`.

    `calibration` and `agreement` are by split; a split is left out where they mean nothing (scores, hidden words, and for
    calibration tags too), and the teacher has no agreement.
    """

    name: str
    role: str  # teacher, result, baseline
    lineage: tuple[LineageStep, ...]
    parameters: int
    size_bytes: int
    metrics: Mapping[str, MetricValue]
    latency: tuple[Latency, ...] = ()
    peak_memory_bytes: int | None = None  # above what the runtime alone needs
    non_zeros: int | None = None  # of the parameters; None where packed weights hide their zeros
    encoder_zero_share: float | None = None  # of the weights of the encoder's linears
    zipped_bytes: int | None = None  # of the weights' files, deflated
    path: str | None = None  # of the saved artifact, relative to the run folder
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    agreement: Mapping[str, Agreement] = field(default_factory=dict)
    # Types of tasks that every method of the chain takes, as the methods declare them.
    supported_tasks: tuple[str, ...] | None = _later(None)
    scenarios: tuple[ScenarioSpeed, ...] = _later(())
    work: Work | None = _later(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A verdict on one metric (`difference` in the metric's unit) or one runtime (`ratio` as a speed-up)."""

    candidate: str
    baseline: str
    verdict: str
    sentence: str
    ci95: tuple[float, float]
    detectable_difference: float  # found with 80 % power; for a runtime the ratio less 1
    metric: str | None = None
    difference: float | None = None
    runtime: str | None = None
    ratio: float | None = None
    null_ratio: float | None = None  # the instrument's own error: the teacher's second load against its first
    p_value: float | None = None  # of a metric, two-sided and paired, of this comparison alone
    margin: float | None = None  # what may be lost and still count as equivalent, in the metric's unit
    keeps_99: bool | None = None  # the whole interval lies above a loss of 1 % of the baseline's value
    keeps_999: bool | None = None  # ... of 0.1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run; the first candidate is the teacher. A run that failed or was skipped has no candidates."""

    status: str
    run_key: str
    task: str
    seed: int
    seconds_total: float
    task_type: str = ""
    label_names: tuple[str, ...] = ()  # of the classes or tags, in the order of the predictions
    candidates: tuple[CandidateResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds_measuring: float | None = _later(None)  # of seconds_total; what is left is loading, compression and writing
    schema_version: int = SCHEMA_VERSION

    @property
    def teacher(self) -> CandidateResult:
        """The model that the others are compared with."""
        return self.candidates[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values.

        Raises:
            StoreError: A number is not finite; it would not survive as JSON.
        """
        plain: dict[str, Any] = _plain(self, "result")
        return plain

    @classmethod
    def from_json(cls, data: object) -> RunResult:
        """Read what `to_json` gave.

        Raises:
            StoreError: Another schema version, a missing or unknown key, or a value of the wrong type.
        """
        version = data.get("schema_version") if isinstance(data, Mapping) else None
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"result has schema_version {version!r:.40}",
                allowed=str(SCHEMA_VERSION),
                hint="the version that wrote it, or the run again in another folder",
            )
        found: RunResult = _typed(cls, data, "result")
        return found


def _plain(value: Any, where: str) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"{where} is {value}", allowed="a finite number, or null")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise StoreError(f"{where} holds a {type(value).__name__}", allowed="plain JSON values")


def _typed(cls: Any, data: object, where: str) -> Any:
    """Build a dataclass; every field must be there, since a default would hide what was lost, but those of `_later`."""
    if not isinstance(data, Mapping):
        raise StoreError(f"{where} holds {data!r:.40}", allowed="an object")
    hints = _hints(cls)
    later = {f.name for f in fields(cls) if "later" in f.metadata}
    names = [f.name for f in fields(cls)]
    if missing := [n for n in names if n not in data and n not in later]:
        raise StoreError(f"{where} lacks {', '.join(missing)}", allowed=", ".join(names))
    if unknown := [k for k in data if k not in names]:
        raise StoreError(f"{where} holds unknown {', '.join(map(str, unknown))}", allowed=", ".join(names))
    return cls(**{n: _value(hints[n], data[n], f"{where}.{n}") for n in names if n in data})


@lru_cache(maxsize=32)  # a comparison reads thousands of results, and resolving annotations is most of that work
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _value(kind: Any, data: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if data is None else _value(arguments[0], data, where)
    if origin is tuple:
        expected = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(data, list) or expected not in (None, len(data)):
            raise StoreError(f"{where} holds {data!r:.40}", allowed=f"a list of {expected or 'any number of'} values")
        return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(data))
    if origin is not None:  # Mapping
        if not isinstance(data, Mapping):
            raise StoreError(f"{where} holds {data!r:.40}", allowed="an object")
        return {k: _value(arguments[1], v, f"{where}.{k}") for k, v in data.items()}
    if is_dataclass(kind):
        return _typed(kind, data, where)
    if kind is Any:
        return data
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if type(data) is not kind or (isinstance(data, float) and not math.isfinite(data)):
        raise StoreError(f"{where} holds {data!r:.40}", allowed=kind.__name__)
    return data
