"""What a run keeps of timed calls: whom a ratio is to, what checks it, and what is said of doubt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from compressor.compare.verdicts import Word
from compressor.measure.latency import Complaint, LatencyResult, LatencyRun, LatencySamples, Round
from compressor.measure.noise import Conditions
from compressor.results import NULL
from compressor.timing import compare_speeds, latency_record


def samples(ms: float, seed: int, noise: float = 0.002) -> LatencySamples:
    rng = np.random.default_rng(seed)
    return LatencySamples(
        samples_ns=(1e6 * ms * rng.lognormal(0, noise, (1, 12, 1, 12))).astype(np.int64),
        load_seconds=0.5,
        first_call_seconds=0.01,
        warmup_calls=14,
        same_prediction_rate=1.0,
        max_logit_difference=0.0,
    )


def timed(null_ms: float | None = 10.0, refusals: Mapping[str, str] | None = None, **ms: float) -> LatencyResult:
    each = {"teacher": 10.0, "distill": 5.0, "both": 2.5} | ms
    return LatencyResult(
        runtime="onnxruntime",
        threads=1,
        batch_size=1,
        timed={name: samples(value, i) for i, (name, value) in enumerate(each.items())},
        null=None if null_ms is None else samples(null_ms, 9),
        refusals=refusals or {},
    )


def run_of(result: LatencyResult, *complaints: Complaint) -> LatencyRun:
    quiet = Conditions(seconds=1.0, pressure=0.0, steal=0.0, throttled=0, on_battery=False)
    return LatencyRun(
        runtimes=(result,), rounds=(Round(number=0, attempt=0, kept=True, complaints=complaints, conditions=quiet),)
    )


def test_the_ratio_to_the_teacher_is_to_both_its_loads() -> None:
    found = compare_speeds("distill", "teacher", timed(null_ms=10.1), seed=0)
    assert found.speed_up.ratio == pytest.approx(2 * np.sqrt(1.01), rel=1e-3)
    assert found.null_ratio == pytest.approx(1 / 1.01, rel=1e-3)


@pytest.mark.parametrize("null_ms", [10.0, 10.3, None])
def test_the_ratio_to_a_baseline_is_to_it_alone_and_the_teachers_second_load_checks_it(null_ms: float | None) -> None:
    found = compare_speeds("both", "distill", timed(null_ms), seed=0)
    assert found.speed_up.ratio == pytest.approx(2.0, rel=2e-3) and found.word is Word.faster
    assert found.null_ratio == (None if null_ms is None else pytest.approx(10.0 / null_ms, rel=2e-3))
    assert found.unstable is (null_ms == 10.3)


def test_a_check_that_strays_doubts_a_baselines_ratio_too() -> None:
    near = {"both": 4.9}  # two per cent
    assert compare_speeds("both", "distill", timed(**near), seed=0).word is Word.faster
    doubtful = compare_speeds("both", "distill", timed(null_ms=10.3, **near), seed=0)
    assert doubtful.word is Word.inconclusive and "two loads of one model" in doubtful.sentence()


def test_a_model_is_not_compared_with_itself_nor_with_one_that_was_not_timed() -> None:
    assert compare_speeds("teacher", "teacher", timed(), seed=0) is None
    assert compare_speeds("distill", "nobody", timed(), seed=0) is None


def test_a_second_load_that_failed_is_told_in_every_row() -> None:
    result = timed(null_ms=None, refusals={NULL: "RuntimeError: it broke"})
    for name in ("teacher", "distill"):
        (told,) = latency_record(name, "teacher", result, run_of(result), seed=0).unstable
        assert (
            told == "nothing checked the instrument, for the teacher's second load was refused: RuntimeError: it broke"
        )
    whole = timed()
    assert latency_record("distill", "teacher", whole, run_of(whole), seed=0).unstable == ()


def test_a_record_says_how_it_was_warmed_up_and_what_was_complained_of_on_its_runtime() -> None:
    result = timed()
    said = run_of(
        result, Complaint("torch", "elsewhere"), Complaint(None, "everywhere"), Complaint("onnxruntime", "here")
    )
    found = latency_record("distill", "teacher", result, said, seed=0)
    assert found.warmup_calls == 14 and found.unstable == ("everywhere", "here")


def test_a_ratio_that_is_hardly_known_is_told() -> None:
    result = timed()
    result = LatencyResult(
        runtime="onnxruntime", threads=1, batch_size=1, null=result.null, refusals={},
        timed={**result.timed, "distill": samples(5.0, 3, noise=0.3)},
    )  # fmt: skip
    (told,) = latency_record("distill", "teacher", result, run_of(result), seed=0).unstable
    assert told.startswith("the ratio of distill is known to ")
