"""Accuracy, latency, memory and size of saved artifacts, through real processes."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from compressor import store
from compressor.artifact import CompressedModel, Form, Head, parameter_count
from compressor.compare.attribution import read_cells
from compressor.errors import MeasureError
from compressor.measure import noise, processes
from compressor.measure.accuracy import measure_accuracy
from compressor.measure.candidate import Candidate
from compressor.measure.energy import Energy, Meter
from compressor.measure.environment import environment
from compressor.measure.examples import read_examples
from compressor.measure.latency import Complaint, measure_latency
from compressor.measure.latency_job import Arms
from compressor.measure.memory import measure_memory
from compressor.measure.samples import write_samples
from compressor.measure.schedule import Arm
from compressor.measure.size import count_parameters, measure_size
from compressor.measure.workload import Replay, pad_replay
from compressor.results import NULL, PADDED
from compressor.runtimes import get_runtime
from compressor.tasks.base import Padding
from compressor.testing.tiny import tiny_bert
from compressor_plugins.int8_dynamic import quantize


def test_scores_are_those_of_the_saved_model(house, scored) -> None:
    examples = read_examples(house.splits["test"])
    for result in scored:
        artifact = store.load(result.candidate.folder)
        found = result.splits["test"]
        assert found.ids == tuple(e.id for e in examples)
        assert found.references == tuple(e.label for e in examples)
        features = house.task.encode(artifact.tokenizer, examples)
        batch = house.task.collate(artifact.tokenizer, examples, features)
        with torch.inference_mode():
            logits = artifact.model(**batch.inputs).logits
        assert found.predictions == tuple(house.task.predict(logits, batch))
        saved = np.array(pq.read_table(found.file)["logits"].to_pylist())
        np.testing.assert_allclose(saved, logits.numpy(), atol=1e-5)
        right = np.mean(np.array(found.predictions) == np.array(found.references))
        assert found.metrics == {"accuracy": pytest.approx(right)}
        assert result.parameters == parameter_count(artifact.model)
        assert result.exact
        assert result.onnx is not None


def test_latency_on_every_runtime_in_one_experiment(house, scored, tmp_path: Path) -> None:
    run = measure_latency(scored, house.bench, tmp_path, seed=0)
    assert [found.runtime for found in run.runtimes] == house.bench.runtimes
    for found in run.runtimes:
        if why := get_runtime(found.runtime).available():
            assert set(found.refusals.values()) == {why}
            continue
        assert found.refusals == {}
        assert list(found.timed) == ["teacher", "student"]
        for samples in (*found.timed.values(), found.null):
            assert samples.samples_ns.shape == (1, 3, 2, house.bench.texts)  # six blocks in three loads
            assert (samples.samples_ns > 0).all()
            assert samples.same_prediction_rate == 1.0
            assert samples.max_logit_difference < 1e-4
            assert samples.warmup_calls >= house.bench.warmup_calls and samples.load_seconds > 0
        assert found.timed["student"].p50_ms < found.timed["teacher"].p50_ms
    assert [(r.number, r.attempt, r.kept) for r in run.rounds if r.kept] == [(0, run.rounds[-1].attempt, True)]


@pytest.mark.parametrize(
    ("rounds", "loads", "doubtful", "counting"),
    [
        (3, 4, (1, 4, 5, 6), (2, 3, 6)),  # the first attempt of the first round, and every one of the third
        (1, 4, (1,), (2,)),
        (1, 4, (1, 2, 3), (1, 2, 3)),
        (1, 3, (1, 2, 3), (3,)),  # no whole pairs
        (1, 1, (1, 2, 3), (3,)),
    ],
)
def test_a_doubtful_round_is_run_again_and_if_it_stays_doubtful_every_attempt_may_count(
    house, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, loads: int, doubtful, counting
) -> None:
    monkeypatch.setattr(noise.Conditions, "complaints", lambda self: [])  # whatever else runs here
    bench = replace(house.bench, runtimes=["torch"], rounds=rounds, loads=loads, blocks=12, repeats=2)
    judged: list = []

    def judge(samples) -> list[Complaint]:
        judged.append(samples)
        return [Complaint("torch", "as the test wants it")] if len(judged) in doubtful else []

    run = measure_latency(scored, bench, tmp_path, seed=0, judge=judge)
    found = run.runtimes[0].timed["student"].samples_ns
    kept = [judged[i - 1][Arm("torch", "student")] for i in counting]
    # One round that was asked for stays one, with the loads of every attempt.
    np.testing.assert_array_equal(found, np.stack(kept) if rounds > 1 else np.concatenate(kept)[None])
    assert [i for i, r in enumerate(run.rounds, 1) if r.kept] == list(counting)
    assert [i for i, r in enumerate(run.rounds, 1) if r.complaints] == list(doubtful)
    numbers = [(r.number, r.attempt) for r in run.rounds]
    assert numbers == (
        [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)] if rounds > 1 else [(0, i) for i in range(len(judged))]
    )


TOLD = Energy(joules=900.0, seconds=60.0, calls=100, idle_watts=2.0)


class SecondOnly(Meter):
    """Tells the energy of the second attempt, and of no other."""

    attempts = 0

    def end(self, samples, *, threads: int) -> dict[Arm, Energy]:
        self.attempts += 1
        return dict.fromkeys(
            samples, TOLD if self.attempts == 2 else replace(TOLD, joules=None, reason="others computed")
        )


def test_an_attempt_that_cannot_tell_the_energy_does_not_hide_what_another_tells(house, scored, tmp_path: Path) -> None:
    bench = replace(house.bench, runtimes=["torch"], loads=4, blocks=4, repeats=1)

    def judge(samples) -> list[Complaint]:
        return [Complaint("torch", "as the test wants it")]

    run = measure_latency(scored, bench, tmp_path, seed=0, judge=judge, meter=SecondOnly())
    found = run.runtimes[0].timed["student"]
    assert [r.kept for r in run.rounds] == [True, True] and found.samples_ns.shape[:2] == (1, 8)
    assert found.energy == TOLD


def test_raw_samples_are_written_with_their_load(house, scored, tmp_path: Path) -> None:
    run = measure_latency(scored, replace(house.bench, runtimes=["torch"], repeats=0), tmp_path, seed=0)
    write_samples(run.runtimes[0], tmp_path / "timings" / "torch.parquet")
    table = pq.read_table(tmp_path / "timings" / "torch.parquet").to_pydict()
    assert set(table) == {"candidate", "round", "load", "block", "text", "ns"}
    mine = [ns for name, ns in zip(table["candidate"], table["ns"], strict=True) if name == "student"]
    assert mine == run.runtimes[0].timed["student"].samples_ns.ravel().tolist()
    assert set(table["candidate"]) == {"teacher", "student", NULL}


def test_between_loads_the_models_are_gone(house, scored) -> None:
    arms = Arms({"runtime": "torch", "threads": 1, "opener": processes.OPENER, "cores": []})
    place = {"folder": str(house.folder / "student"), "form": "torch", "replay": str(scored[1].replay)}
    for _ in range(2):
        arms.load("student", **place)
        arms.load("refused since", **place)  # as the null arm is with its teacher, when it has been loaded already
        model = weakref.ref(arms._sessions["student"].model)
        arms.reply({"do": "begin"})
        for text in range(house.bench.texts):
            arms.call("student", text)
        assert not gc.isenabled() and model() is not None
        assert arms.end() == {
            "student": {"same_prediction_rate": 1.0, "max_logit_difference": pytest.approx(0, abs=1e-5)}
        }
        assert gc.isenabled() and model() is None


@pytest.mark.skipif(bool(get_runtime("torch_compile").available()), reason="no C++ compiler")
def test_compiled_models_are_loaded_more_often_than_torch_compiles_one_code(house, scored, tmp_path: Path) -> None:
    bench = replace(house.bench, runtimes=["torch_compile"], loads=4, blocks=4, repeats=0)  # of 3 arms: torch allows 8
    found = measure_latency(scored, bench, tmp_path, seed=0).runtimes[0]
    assert found.refusals == {} and found.timed["student"].samples_ns.shape == (1, 4, 1, bench.texts)


def test_the_teacher_is_timed_on_padded_texts_too(house, scored, tmp_path: Path) -> None:
    padding = Padding.of(store.load(scored[0].candidate.folder).tokenizer)
    path = tmp_path / "padded.npz"
    pad_replay(Replay.load(scored[0].replay), padding, house.task.config.max_length).save(path)
    bench = replace(house.bench, runtimes=["onnxruntime", "torch"], repeats=0)
    other, found = measure_latency(scored, bench, tmp_path, seed=0, padded=path).runtimes
    assert other.padded is None and PADDED not in other.refusals
    assert found.padded.same_prediction_rate == 1.0 and found.padded.max_logit_difference < 1e-4
    assert found.padded.p50_ms > found.timed["teacher"].p50_ms
    write_samples(found, tmp_path / "timings" / "torch.parquet")
    assert set(read_cells(tmp_path)) >= {("teacher", "torch"), (PADDED, "torch"), (NULL, "torch")}


def test_a_teacher_that_padding_changes_is_said_not_to_be_timed_padded(house, scored, tmp_path: Path) -> None:
    padded = pad_replay(Replay.load(scored[0].replay), Padding.of(store.load(scored[0].candidate.folder).tokenizer), 64)
    replace(padded, expected=tuple(logits + 0.01 for logits in padded.expected)).save(tmp_path / "padded.npz")
    bench = replace(house.bench, runtimes=["torch"], repeats=0)
    found = measure_latency(scored, bench, tmp_path, seed=0, padded=tmp_path / "padded.npz").runtimes[0]
    assert found.padded is None and "logits differ" in found.refusals[PADDED]
    assert list(found.timed) == ["teacher", "student"]


def test_int8_is_scored_and_timed_as_it_is(house, scored, tmp_path: Path) -> None:
    teacher = store.load(house.folder / "teacher")
    made = tmp_path / "made"
    made.mkdir()
    quantize(scored[0].onnx / "model.onnx", made / "model.onnx")
    store.save(teacher.evolve(folder=made, form=Form.onnx), tmp_path / "int8")
    result = measure_accuracy(
        Candidate("int8", tmp_path / "int8", Form.onnx),
        house.splits,
        house.task,
        tmp_path / "jobs",
        bench=house.bench,
        workload=house.workload,
    )
    assert not result.exact
    assert result.onnx is None
    assert abs(result.parameters - scored[0].parameters) / scored[0].parameters < 0.02
    run = measure_latency(
        [scored[0], result], replace(house.bench, runtimes=["onnxruntime", "torch"]), tmp_path, seed=0
    )
    found, refused = run.runtimes
    assert list(found.timed) == ["teacher", "int8"]
    assert found.timed["int8"].same_prediction_rate == 1.0
    assert "form onnx" in refused.refusals["int8"]


def test_memory_grows_with_the_model(house, scored, tmp_path: Path) -> None:
    size_bytes = {}
    results = []
    for name, vocabulary in (("small", 40), ("large", 400_000)):
        model = tiny_bert(layers=1, hidden=32, vocabulary=vocabulary).eval()
        tokenizer = store.load(house.folder / "teacher").tokenizer
        head = Head(task_type="classification", label_names=("bad", "good"))
        store.save(
            CompressedModel(form=Form.torch, config=model.config, tokenizer=tokenizer, head=head, module=model),
            tmp_path / name,
        )
        size_bytes[name] = parameter_count(model) * 4
        results.append(replace(scored[0], candidate=Candidate(name, tmp_path / name)))
    found = measure_memory(results, house.bench, tmp_path)
    grown = found["large"].peak_bytes - found["small"].peak_bytes
    # At least the table itself, at most the mapped file and a copy of it beside it.
    assert 0.9 < grown / (size_bytes["large"] - size_bytes["small"]) < 2.3
    assert found["large"].model_bytes == found["large"].peak_bytes - found["large"].control_bytes


def test_label_orders_must_be_equal(house, tmp_path: Path) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks import build_task

    turned = build_task(TaskConfig(), ("good", "bad"))
    with pytest.raises(MeasureError, match="bad, good"):
        measure_accuracy(Candidate("it", house.folder / "teacher"), house.splits, turned, tmp_path, bench=house.bench)


def test_size_counts_what_is_shipped_once(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    (tmp_path / "config.json").write_bytes(b"0" * 10)
    (tmp_path / "manifest.json").write_bytes(b"0" * 99)
    (tmp_path / "report.md").write_bytes(b"0" * 99)
    (tmp_path / "again.safetensors").hardlink_to(tmp_path / "model.safetensors")
    found = measure_size(tmp_path)
    assert (found.size_bytes, found.weights_bytes) == (1010, 1000)


def test_shared_parameters_count_once() -> None:
    model = tiny_bert(layers=2)
    alone = count_parameters(Form.torch, model, None)
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]
    layer = sum(p.numel() for p in model.bert.encoder.layer[0].parameters())
    assert count_parameters(Form.torch, model, None) == alone - layer


def test_environment_is_plain_and_keeps_secrets(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("HF_TOKEN", "very-secret")
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    found = environment(threads=1)
    text = json.dumps(found, allow_nan=False)
    assert "very-secret" not in text
    assert found["packages"]["torch"]
    assert len(found["installed_sha256"]) == 64 and {"load_average", "cpu_pressure"} <= set(found)
    assert all(not isinstance(v, float) or math.isfinite(v) for v in found.values())


@pytest.mark.parametrize("kind", ["token_classification", "regression"])
def test_other_tasks_take_the_same_way(tmp_path: Path, kind: str) -> None:
    from compressor.config import BenchConfig, TaskConfig
    from compressor.measure.examples import write_examples
    from compressor.measure.workload import choose_workload
    from compressor.tasks import build_task
    from compressor.testing.tiny import tiny_examples, tiny_tokenizer

    tokens = kind == "token_classification"
    names = ("O", "B-X") if tokens else ()
    task = build_task(TaskConfig(type=kind, max_length=64), names)
    torch.manual_seed(0)
    model = tiny_bert(layers=1, labels=2 if tokens else 1, tokens=tokens).eval()
    tokenizer = tiny_tokenizer()
    artifact = CompressedModel(form=Form.torch, config=model.config, tokenizer=tokenizer, head=task.head, module=model)
    store.save(artifact, tmp_path / "model")
    examples = tiny_examples(20, kind=kind)
    bench = BenchConfig(texts=6, blocks=4, loads=4, repeats=0, batch_size=2, timeout_s=120)
    workload = choose_workload(task, tokenizer, examples, split="test", texts=6, batch_size=2, seed=0)
    assert [len(batch) for batch in workload.batches] == [2, 2, 2]
    result = measure_accuracy(
        Candidate("model", tmp_path / "model"),
        {"test": write_examples(tmp_path / "test.jsonl", examples)},
        task,
        tmp_path,
        bench=bench,
        workload=workload,
        export=True,
    )
    assert set(result.splits["test"].metrics) == {m.name for m in task.metrics}
    assert result.splits["test"].references == tuple(task.references(examples))
    padded = tmp_path / "padded.npz"
    pad_replay(Replay.load(result.replay), Padding.of(tokenizer), 64).save(padded)
    runtimes = ["onnxruntime", "torch"]
    run = measure_latency([result], replace(bench, runtimes=runtimes), tmp_path, seed=0, padded=padded)
    for found in run.runtimes:
        assert found.refusals == {}
        assert found.timed["model"].samples_ns.shape == (1, 4, 1, 3)
        assert found.timed["model"].max_logit_difference < 1e-4
    assert run.runtimes[1].padded.max_logit_difference < 1e-4
