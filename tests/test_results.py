"""`result.json`: what is written is read back, and nothing is filled in."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from compressor.errors import StoreError
from compressor.results import (
    SCHEMA_VERSION,
    Agreement,
    Calibration,
    CandidateResult,
    Comparison,
    Latency,
    LineageStep,
    MetricValue,
    RunResult,
    ScenarioSpeed,
    Work,
)


def make_result(**changes: Any) -> RunResult:
    """Return a result with a teacher, a result, a baseline, a refusal and verdicts."""

    def model(name: str, role: str, scale: float, *latency: Latency) -> CandidateResult:
        step = LineageStep(
            method="distill", distribution="encoder-compressor", version="0.1.0", config={"alpha": 0.5}, seconds=61.5
        )
        calibration = Calibration(
            expected_calibration_error=0.058,
            expected_calibration_error_ci95=(0.039, 0.073),
            negative_log_likelihood=0.367,
            negative_log_likelihood_ci95=(0.326, 0.413),
            n=2136,
        )
        agreement = Agreement(rate=0.94, ci95=(0.929, 0.949), n=2136, gained=51, lost=77, changed=0)
        value = MetricValue(value=0.9 * scale, ci95=(0.88 * scale, 0.92 * scale), n=2136, higher_is_better=True)
        return CandidateResult(
            name=name,
            role=role,
            lineage=() if role == "teacher" else (step,),
            parameters=int(33_360_770 * scale),
            size_bytes=int(134_179_021 * scale),
            metrics={"accuracy": value, "accuracy@counterfactual": value},
            latency=latency,
            peak_memory_bytes=None if role == "baseline" else 296_947_712,
            path=f"candidates/{name}",
            non_zeros=int(33_360_000 * scale),
            encoder_zero_share=0.0,
            zipped_bytes=int(107_840_424 * scale),
            calibration={"test": calibration},
            agreement={} if role == "teacher" else {"test": agreement},
        )

    def timed(runtime: str, p50: float) -> Latency:
        return Latency(
            runtime=runtime,
            threads=1,
            batch_size=1,
            latency_ms_p50=p50,
            ci95=(p50 * 0.99, p50 * 1.01),
            samples=480,
            same_prediction_rate=1.0,
        )

    runtimes = ("torch", "onnxruntime", "openvino")
    refused = Latency(runtime="openvino", threads=1, batch_size=1, refusal="RuntimeError: no such operation")
    values: dict[str, Any] = {
        "status": "ok",
        "run_key": "abc",
        "task": "rotten_tomatoes",
        "task_type": "classification",
        "label_names": ("negative", "positive"),
        "seed": 0,
        "seconds_total": 1234.5,
        "candidates": (
            model("teacher", "teacher", 1.0, *(timed(r, 10.0) for r in runtimes)),
            model("finetune", "baseline", 0.7, *(timed(r, 6.0) for r in runtimes)),
            model("distill", "result", 0.68, timed("torch", 5.0), timed("onnxruntime", 4.0), refused),
        ),
        "comparisons": (
            Comparison(
                candidate="distill",
                baseline="teacher",
                metric="accuracy",
                difference=-0.012,
                ci95=(-0.02, -0.003),
                detectable_difference=0.013,
                verdict="inconclusive",
                sentence="Whether distill keeps teacher's accuracy is not known.",
                p_value=0.011,
                margin=0.009,
                keeps_99=False,
                keeps_999=False,
            ),
            Comparison(
                candidate="distill",
                baseline="teacher",
                runtime="torch",
                ratio=1.98,
                ci95=(1.95, 2.01),
                detectable_difference=0.04,
                verdict="faster",
                sentence="distill is faster than teacher on torch.",
                null_ratio=1.001,
            ),
        ),
        "environment": {"cpu": "some cpu", "packages": {"torch": "2.13.0"}, "cores": 2},
        "notes": (),
    }
    return RunResult(**(values | changes))


def test_round_trip() -> None:
    result = make_result()
    assert RunResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_teacher_is_first() -> None:
    assert make_result().teacher.role == "teacher"


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every schema key, skipping free-form parts."""
    found: list[tuple[Any, ...]] = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if at and at[-1] in ("metrics", "calibration", "agreement"):
                found += paths(inner, (*at, key))
                continue
            found.append((*at, key))
            if key not in ("config", "notes", "environment"):
                found += paths(inner, (*at, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            found += paths(inner, (*at, i))
    return found


def test_flags_and_numbers_that_are_not_known_are_null_and_stay_so() -> None:
    result = make_result()
    runtime = result.to_json()["comparisons"][1]
    assert [runtime[key] for key in ("p_value", "margin", "keeps_99", "keeps_999")] == [None] * 4
    assert RunResult.from_json(result.to_json()).comparisons[1].keeps_99 is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("comparisons", 0, "p_value"), "0.01"),
        (("comparisons", 0, "keeps_99"), 1),
        (("candidates", 1, "agreement", "test", "lost"), 1.5),
        (("candidates", 1, "agreement", "test"), None),
        (("candidates", 0, "calibration"), []),
        (("label_names",), "negative"),
    ],
)
def test_statistics_of_the_wrong_type_are_errors(place: tuple[Any, ...], value: Any) -> None:
    data = make_result().to_json()
    *parents, key = place
    inner: Any = data
    for parent in parents:
        inner = inner[parent]
    inner[key] = value
    with pytest.raises(StoreError):
        RunResult.from_json(data)


def test_another_schema_says_what_to_do() -> None:
    with pytest.raises(StoreError, match="the run again in another folder"):
        RunResult.from_json(make_result().to_json() | {"schema_version": 2})


LATER = {
    "scenarios": (),
    "work": None,
    "supported_tasks": None,
}  # of a candidate: written by every run now, and not by the first ones


@pytest.mark.parametrize("key", LATER)
def test_what_older_files_of_this_schema_lack_is_not_known(key: str) -> None:
    data = make_result().to_json()
    for candidate in data["candidates"]:
        del candidate[key]
    assert {getattr(c, key) for c in RunResult.from_json(data).candidates} == {LATER[key]}
    for name in {*LATER, "role"} & set(data["candidates"][0]):
        del data["candidates"][0][name]
    with pytest.raises(StoreError, match="lacks role"):
        RunResult.from_json(data)


def test_scenarios_and_work_are_read_back() -> None:
    speed = ScenarioSpeed(
        scenario="throughput", runtime="torch", threads=1, batch_size=32, texts_per_second=101.5, ci95=(99.0, 104.0),
        samples=12, rounds=1, ratio=1.9, ratio_ci95=(1.8, 2.0), verdict="faster", null_ratio=1.001,
        energy_unavailable="this machine shows no energy counters (RAPL)",
    )  # fmt: skip
    work = Work(macs_per_text=2.5e8, nominal_bits=32.0)
    result = make_result()
    result = replace(result, candidates=tuple(replace(c, scenarios=(speed,), work=work) for c in result.candidates))
    assert RunResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_every_missing_key_is_an_error_but_for_those_that_came_later() -> None:
    data = make_result().to_json()
    keys = paths(data)
    assert len(keys) > 100
    for *parents, key in keys:
        if parents[:1] == ["candidates"] and parents[2:] == [] and key in LATER:
            continue
        if (parents[2:3] == ["latency"] and key in {"cuda_peak_bytes", "warmup_calls"}) or key == "seconds_measuring":
            continue
        damaged = copy.deepcopy(data)
        place = damaged
        for parent in parents:
            place = place[parent]
        del place[key]
        with pytest.raises(StoreError):
            RunResult.from_json(damaged)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema_version", SCHEMA_VERSION - 1),
        ("schema_version", SCHEMA_VERSION + 1),
        ("status", None),
        ("seed", "0"),
        ("seconds_total", True),
        ("candidates", {}),
        ("candidates", [3]),
        ("notes", "text"),
        ("environment", []),
        ("surplus", 1),
    ],
)
def test_wrong_values_are_errors(key: str, value: Any) -> None:
    with pytest.raises(StoreError):
        RunResult.from_json(make_result().to_json() | {key: value})


@pytest.mark.parametrize("data", [None, [], "ok", {}, {"schema_version": SCHEMA_VERSION}])
def test_what_is_no_result_is_an_error(data: Any) -> None:
    with pytest.raises(StoreError):
        RunResult.from_json(data)


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(StoreError, match="seconds_total"):
        make_result(seconds_total=float("nan")).to_json()


def test_an_int_is_read_as_the_float_it_stands_for() -> None:
    assert RunResult.from_json(make_result().to_json() | {"seconds_total": 3}).seconds_total == 3.0
