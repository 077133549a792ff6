"""Which runs are one run: what decides the numbers is in the key, and nothing else."""

from __future__ import annotations

import ast
import inspect
import sys
from importlib import metadata
from pathlib import Path

import pytest

from compressor import machine, registry, runkey
from compressor.config import BenchConfig, ChainStep, RunConfig, StudentConfig, TaskConfig, TeacherConfig, TrainConfig
from compressor.machine import chosen
from compressor.runkey import own_libraries, run_key

METHODS = registry.load()
IMPORTED = {"torch_pruning": "torch-pruning"}  # whose distribution is not called as it is imported


def steps(*names: str) -> list[ChainStep]:
    return [ChainStep(name=n, config=METHODS.get(n).method.Config()) for n in names]


def config(*chain: str, **settings: object) -> RunConfig:
    return RunConfig(**{"chain": steps(*chain), "student": StudentConfig(layers=2), **settings})  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def code_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash no code: the keys of one test are of one code."""
    monkeypatch.setattr(runkey, "own_code", lambda *_: "code")
    monkeypatch.setattr(runkey, "plugin_code", lambda *_: "code")


@pytest.mark.parametrize(
    ("settings", "chain"),
    [
        ({"task": TaskConfig(unlabelled="imdb_sentences")}, ["finetune"]),
        ({"task": TaskConfig(unlabelled_limit=100)}, ["finetune"]),
        ({"task": TaskConfig(unlabelled_limit=100)}, ["distill"]),  # of no text
        ({"task": TaskConfig(accept_licence=True)}, ["finetune"]),
        ({"bench": BenchConfig(throughput_batch=8)}, ["finetune"]),
        ({"bench": BenchConfig(device="cuda", runtimes=["torch", "onnxruntime", "openvino"])}, ["finetune"]),
        ({"bench": BenchConfig(price_per_hour=2.0)}, ["finetune"]),
        ({"train": TrainConfig(cache_gb=1.0)}, ["finetune"]),
        ({"train": TrainConfig(checkpoint_seconds=5.0)}, ["distill"]),
        ({"teacher": TeacherConfig(train=TrainConfig(cache_gb=1.0, checkpoint_seconds=5.0))}, ["distill"]),
        ({"teacher": TeacherConfig(revision="main")}, ["distill"]),  # of a packaged one
        ({"student": StudentConfig(layers=3)}, ["int8_dynamic"]),
        ({"train": TrainConfig(epochs=9)}, ["drop_layers"]),
    ],
)
def test_what_the_chain_does_not_read_makes_no_other_run(settings, chain) -> None:
    assert run_key(config(*chain, **settings), METHODS) == run_key(config(*chain), METHODS)


@pytest.mark.parametrize(
    ("settings", "chain"),
    [
        ({"task": TaskConfig(unlabelled="imdb_sentences")}, ["distill"]),
        ({"task": TaskConfig(unlabelled="imdb_sentences")}, ["prune_vocab"]),
        ({"task": TaskConfig(max_length=64)}, ["finetune"]),
        ({"bench": BenchConfig(texts=5)}, []),
        ({"bench": BenchConfig(device="cuda")}, []),  # it names other runtimes
        ({"bench": BenchConfig(timeout_s=60.0)}, []),  # what it stops is missing in the result
        ({"train": TrainConfig(cache_gb=0.0)}, ["distill"]),  # kept hidden states are rounded
        ({"train": TrainConfig(epochs=9)}, ["finetune"]),
        ({"teacher": TeacherConfig(train=TrainConfig(epochs=9))}, []),
        ({"student": StudentConfig(layers=3)}, ["distill"]),
        ({"seed": 1}, ["finetune"]),
    ],
)
def test_what_is_read_makes_another_run(settings, chain) -> None:
    assert run_key(config(*chain, **settings), METHODS) != run_key(config(*chain), METHODS)


def test_the_text_limit_counts_with_the_text() -> None:
    few, many = (config("distill", task=TaskConfig(unlabelled="imdb_sentences", unlabelled_limit=n)) for n in (10, 20))
    assert run_key(few, METHODS) != run_key(many, METHODS)
    assert run_key(few, METHODS) != run_key(config("distill"), METHODS)


def test_a_setting_that_a_baseline_reads_counts() -> None:
    def with_baseline(layers: int) -> RunConfig:
        return config("int8_dynamic", baselines={"finetune": steps("finetune")}, student=StudentConfig(layers=layers))

    assert run_key(with_baseline(2), METHODS) != run_key(with_baseline(3), METHODS)


@pytest.mark.parametrize(
    ("library", "chain", "runtimes"),
    [
        ("numpy", [], ["torch"]),
        ("tokenizers", [], ["torch"]),
        ("datasets", [], ["torch"]),
        ("onnxruntime", [], ["torch", "onnxruntime"]),
        ("onnxruntime", ["int8_dynamic"], ["torch"]),  # what scores its result
        ("onnx", [], ["openvino"]),
        ("openvino", [], ["openvino"]),
        ("nncf", ["int8_static"], ["torch"]),
        ("torchao", ["int8_torchao"], ["torch"]),
        ("torchao", ["int4_weight_only"], ["torch"]),
        ("bitsandbytes", ["bnb_nf4"], ["torch"]),
        ("torch-pruning", ["prune_structured"], ["torch"]),
    ],
)
def test_a_library_in_another_version_makes_another_run(
    library: str, chain: list[str], runtimes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(*chain, bench=BenchConfig(runtimes=runtimes))
    before, real = run_key(asked, METHODS), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == library else real(name))
    assert run_key(asked, METHODS) != before


@pytest.mark.parametrize("library", ["openvino", "torchao", "bitsandbytes", "nncf", "optuna", "wandb"])
def test_a_library_that_the_run_does_not_use_makes_no_other_run(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = config("finetune", bench=BenchConfig(runtimes=["torch", "onnxruntime"]))
    before, real = run_key(asked, METHODS), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99.0" if name == library else real(name))
    assert run_key(asked, METHODS) == before


@pytest.mark.parametrize("name", sorted(METHODS.methods))
def test_a_method_declares_the_libraries_that_it_imports(name: str) -> None:
    source = Path(inspect.getfile(METHODS.get(name).method)).read_text(encoding="utf-8")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    known = {"compressor", "compressor_plugins", "torch", "transformers", "numpy", "scipy", "tokenizers", "safetensors"}
    foreign = {IMPORTED.get(head, head) for head in found - set(sys.stdlib_module_names) - known}
    assert foreign <= own_libraries(config(name, bench=BenchConfig(runtimes=["torch"])), METHODS)


def test_what_auto_stands_for_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(RunConfig())
    assert run_key(RunConfig(), METHODS) == run_key(RunConfig(device=found.device, threads=found.threads), METHODS)
    before = run_key(RunConfig(), METHODS)
    monkeypatch.setattr(machine, "usable_cores", lambda: found.threads + 1)
    assert run_key(RunConfig(), METHODS) != before, "more cores train with more threads"
    assert run_key(RunConfig(threads=found.threads), METHODS) == before


def test_what_auto_stands_for_on_a_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = run_key(RunConfig(), METHODS)
    assert on_gpu == run_key(RunConfig(device="cuda"), METHODS) != run_key(RunConfig(device="cpu"), METHODS)
