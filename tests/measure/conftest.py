"""A saved tiny teacher and student, scored once for the whole folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the workers find `worker_openers` through PYTHONPATH


@dataclass(frozen=True)
class House:
    """Artifacts by name, the task, the splits and the workload."""

    folder: Path
    task: object
    splits: dict[str, Path]
    workload: object
    bench: object


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    from compressor import store
    from compressor.artifact import CompressedModel, Form
    from compressor.config import BenchConfig, TaskConfig
    from compressor.measure.examples import write_examples
    from compressor.measure.workload import choose_workload
    from compressor.tasks import build_task
    from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer

    folder = tmp_path_factory.mktemp("measure")
    task = build_task(TaskConfig(max_length=64), ("bad", "good"))
    for name, layers in (("teacher", 6), ("student", 1)):
        torch.manual_seed(0)
        model = tiny_bert(
            layers=layers,
            hidden=64,
            num_labels=2,
            **{k: v for k, v in task.config_overrides().items() if k != "num_labels"},
        ).eval()
        artifact = CompressedModel(
            form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=task.head, module=model
        )
        store.save(artifact, folder / name)
    bench = BenchConfig(texts=8, blocks=6, loads=3, warmup_calls=5, warmup_seconds=0.0, timeout_s=120)
    examples = tiny_examples(40)
    splits = {"test": write_examples(folder / "test.jsonl", examples)}
    workload = choose_workload(task, tiny_tokenizer(), examples, split="test", texts=bench.texts, batch_size=1, seed=0)
    return House(folder, task, splits, workload, bench)


@pytest.fixture(scope="session")
def scored(house: House) -> list[object]:
    from compressor.measure.accuracy import measure_accuracies
    from compressor.measure.candidate import Candidate

    return measure_accuracies(
        [Candidate(name, house.folder / name) for name in ("teacher", "student")],
        house.splits,
        house.task,
        house.folder / "jobs",
        bench=house.bench,
        workload=house.workload,
        export=True,
    )


@pytest.fixture
def openers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let workers import `worker_openers`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    yield
