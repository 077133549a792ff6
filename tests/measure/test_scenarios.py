"""Scenarios beyond single calls: the same experiment on other batches, through real processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compressor.config import BenchConfig
from compressor.measure import processes
from compressor.measure.accuracy import measure_accuracies
from compressor.measure.candidate import Candidate
from compressor.measure.energy import Energy
from compressor.measure.latency import LatencyResult
from compressor.measure.raw_texts import RawTexts, write_raw_texts
from compressor.measure.scenario_runs import measure_scenarios
from compressor.measure.scenarios import NOTHING, Plan, Scenario, plan_scenarios
from compressor.measure.surface import Cell, fill, surface_cells
from compressor.measure.workload import Replay
from compressor.testing.tiny import tiny_examples, tiny_tokenizer
from compressor.timing import scenario_records

POSITIONS = {"teacher": 64, "student": 64}


def planned(house, **wanted) -> Plan:
    bench = replace(house.bench, **wanted)
    return plan_scenarios(house.task, tiny_tokenizer(), tiny_examples(40), bench, POSITIONS, seed=0)


def test_nothing_is_planned_unless_it_was_asked_for(house) -> None:
    assert planned(house) == NOTHING == Plan()


def test_throughput_takes_whole_batches_of_neighbours_in_length(house) -> None:
    plan = planned(house, throughput=True, throughput_batch=8)
    assert plan.throughput is not None and plan.replayed == (Scenario.throughput,)
    assert [len(batch) for batch in plan.throughput.batches] == [8] * 4
    examples = {e.id: e for e in tiny_examples(40)}
    words = [[len(examples[i].text.split()) for i in batch] for batch in plan.throughput.batches]
    assert max(words[0]) <= min(words[-1])


def test_a_split_smaller_than_a_batch_makes_one_small_batch(house) -> None:
    plan = planned(house, throughput=True, throughput_batch=64)
    assert plan.throughput is not None
    assert [len(batch) for batch in plan.throughput.batches] == [40]


def test_lengths_that_a_model_has_no_positions_for_are_left_out_by_name() -> None:
    cells, left_out = surface_cells({"teacher": 512, "student": 100, "relative": None})
    assert {c.length for c in cells} == {16, 64} and {c.batch_size for c in cells} == {1, 8, 32}
    assert left_out == (
        "surface: length 128 left out, student takes 100 tokens",
        "surface: length 512 left out, student takes 100 tokens",
    )
    assert surface_cells({"relative": None}) == (
        tuple(Cell(b, n) for b in (1, 8, 32) for n in (16, 64, 128, 512)),
        (),
    )


def test_cells_are_filled_with_the_texts_own_tokens() -> None:
    batch = {
        "input_ids": np.array([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "token_type_ids": np.zeros((2, 4), np.int64),
    }
    filled = fill([batch], Cell(2, 5))
    assert filled["input_ids"].tolist() == [[2, 7, 8, 3, 2], [9, 3, 2, 7, 8]], "no padding, and no other id"
    assert filled["attention_mask"].tolist() == [[1] * 5] * 2
    assert filled["token_type_ids"].dtype == np.int64 and not filled["token_type_ids"].any()


def test_raw_texts_become_the_tensors_that_are_replayed(house, scored, tmp_path: Path) -> None:
    args = house.folder / "teacher", house.task, house.splits["test"], house.workload
    texts = RawTexts.load(write_raw_texts(tmp_path / "texts.json", *args))
    for i, expected in enumerate(Replay.load(scored[0].replay).inputs):
        found = texts.inputs(i)
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.fixture(scope="module")
def everything(house, tmp_path_factory):
    """Every scenario on torch and ONNX Runtime: what was planned, what was found, and how it was asked."""
    place = tmp_path_factory.mktemp("scenarios")
    bench: BenchConfig = replace(house.bench, runtimes=["torch", "onnxruntime"], repeats=0, blocks=6)
    bench = replace(bench, end_to_end=True, throughput=True, throughput_batch=8, surface=True)
    plan = plan_scenarios(house.task, tiny_tokenizer(), tiny_examples(40), bench, POSITIONS, seed=0)
    found = measure_accuracies(
        [Candidate(name, house.folder / name) for name in ("teacher", "student")],
        house.splits, house.task, place, bench=bench, workload=house.workload, export=True, plan=plan,
    )  # fmt: skip
    runs = measure_scenarios(found, plan, house.task, house.splits, house.workload, bench, place, seed=0)
    return plan, found, runs, place


def test_every_scenario_is_timed_on_every_runtime_with_its_predictions_checked(everything) -> None:
    plan, _, runs, _ = everything
    assert list(runs) == list(Scenario)
    shapes = {Scenario.end_to_end: (1, 3, 2, 8), Scenario.throughput: (1, 3, 2, 4), Scenario.surface: (1, 3, 2, 6)}
    for scenario, run in runs.items():
        assert [timed.runtime for timed in run.runtimes] == ["torch", "onnxruntime"]
        for timed in run.runtimes:
            assert not timed.refusals and list(timed.timed) == ["teacher", "student"]
            for samples in (*timed.timed.values(), timed.null):
                assert samples.samples_ns.shape == shapes[scenario] and (samples.samples_ns > 0).all()
                assert samples.same_prediction_rate == 1.0 and samples.max_logit_difference < 1e-4
                assert samples.energy is None
    assert [c.length for c in plan.surface] == [16, 64] * 3 and len(plan.left_out) == 2


def test_a_call_that_begins_with_the_text_holds_the_tokenizer(house, everything, tmp_path: Path) -> None:
    """The one-layer student computes for less time than tokenising takes."""
    from compressor.measure.latency import measure_latency

    _, found, runs, _ = everything
    bench = replace(house.bench, runtimes=["onnxruntime"], repeats=0)
    tokens = measure_latency(found, bench, tmp_path, seed=0).runtimes[0].timed["student"].p50_ms
    assert runs[Scenario.end_to_end].runtimes[1].timed["student"].p50_ms > 1.1 * tokens


def test_records_hold_figures_with_intervals_and_ratios_to_the_teacher(everything) -> None:
    plan, _, runs, _ = everything
    teacher = scenario_records("teacher", "teacher", runs, plan, seed=0)
    student = scenario_records("student", "teacher", runs, plan, seed=0)
    assert [(s.scenario, s.runtime, s.batch_size, s.length) for s in student] == [
        (s.scenario, s.runtime, s.batch_size, s.length) for s in teacher
    ]
    assert len(student) == 2 + 2 + 2 * 6
    assert all(s.ratio is None and s.verdict is None for s in teacher)
    for mine in student:
        assert mine.ratio_ci95[0] <= mine.ratio <= mine.ratio_ci95[1] and mine.null_ratio > 0 and mine.verdict
        if mine.scenario == "throughput":
            assert mine.latency_ms_p50 is None and mine.samples == 6 and mine.batch_size == 8
            sums = runs[Scenario.throughput].runtimes[0].timed["student"].samples_ns.sum(axis=-1)
            if mine.runtime == "torch":
                assert mine.texts_per_second == pytest.approx(np.median(32e9 / sums))
        else:
            assert mine.texts_per_second is None and mine.latency_ms_p50 > 0
    one = next(s for s in student if s.scenario == "surface" and (s.batch_size, s.length) == (8, 64))
    column = [tuple(c) for c in plan.surface].index((8, 64))
    samples = runs[Scenario.surface].runtimes[0].timed["student"].samples_ns[..., column]
    assert one.latency_ms_p50 == pytest.approx(np.median(samples) / 1e6) and one.samples == 6 and one.ci95 is not None


def test_joules_are_of_a_text_in_as_many_passes_as_were_counted(everything) -> None:
    plan, _, runs, _ = everything
    assert plan.throughput is not None and plan.throughput.texts == 32 and len(plan.throughput.batches) == 4
    counted = Energy(joules=64.0, seconds=12.0, calls=48, idle_watts=50.0)

    def with_energy(timed: LatencyResult) -> LatencyResult:
        return replace(timed, timed={name: replace(one, energy=counted) for name, one in timed.timed.items()})

    run = runs[Scenario.throughput]
    known = {Scenario.throughput: replace(run, runtimes=tuple(map(with_energy, run.runtimes)))}
    for record in scenario_records("student", "teacher", known, plan, seed=0):
        assert record.joules_per_text == pytest.approx(64.0 / (48 / 4 * 32)) and record.energy_unavailable is None


def test_whoever_fails_in_a_scenario_is_refused_there(
    house, everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openers
) -> None:
    _, found, _, _ = everything
    plan, bench = planned(house, end_to_end=True), replace(house.bench, runtimes=["torch"], repeats=0)
    monkeypatch.setattr(processes, "OPENER", "worker_openers:student_raises")
    runs = measure_scenarios(found, plan, house.task, house.splits, house.workload, bench, tmp_path, seed=0)
    (record,) = scenario_records("student", "teacher", runs, plan, seed=0)
    assert "the student broke" in record.refusal and record.latency_ms_p50 is None and record.ratio is None
