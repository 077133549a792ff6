"""The table of runtimes: what each takes and how it refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.artifact import Form
from compressor.config import RUNTIMES as CONFIGURED
from compressor.errors import ConfigError, MeasureError, MissingExtra
from compressor.runtimes import RUNTIMES, get_runtime, runtime_for
from compressor.runtimes import openvino as openvino_file
from compressor.runtimes import torch_eager as torch_file
from compressor.runtimes.export import export_onnx
from compressor.runtimes.torch_eager import TorchSession
from compressor.testing.tiny import tiny_bert, tiny_tokenizer


def test_the_config_and_the_table_name_the_same_runtimes() -> None:
    assert tuple(RUNTIMES) == CONFIGURED


def test_each_form_has_a_runtime_that_executes_its_own_bytes() -> None:
    assert {form: runtime_for(form).name for form in Form} == {
        Form.torch: "torch",
        Form.onnx: "onnxruntime",
        Form.openvino: "openvino",
    }
    for form in Form:
        assert runtime_for(form).accepts(form)
    assert not RUNTIMES["torch"].accepts(Form.onnx)


def test_an_unknown_runtime_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="torch, onnxruntime, openvino"):
        get_runtime("tensorrt")


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="exactly one"):
        RUNTIMES["onnxruntime"].load(tmp_path, Form.onnx, 1)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_file, "find_spec", lambda _: None)
    assert RUNTIMES["openvino"].available()
    with pytest.raises(MissingExtra, match=r"encoder-compressor\[openvino\]"):
        RUNTIMES["openvino"].load(tmp_path, Form.openvino, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    model = tiny_bert(layers=2, hidden=64).eval()
    folder = tmp_path_factory.mktemp("tiny")
    export_onnx(model, tiny_tokenizer(), folder)
    rng = np.random.default_rng(0)
    batches = []
    for length in (7, 12, 30):
        ids = rng.integers(5, model.config.vocab_size, (1, length))
        batches.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    with torch.inference_mode():
        expected = [model(**{k: torch.from_numpy(v) for k, v in b.items()}).logits.numpy() for b in batches]
    return model, folder, batches, expected


compiling = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own, on import


@compiling
@pytest.mark.parametrize("name", list(RUNTIMES))
def test_every_runtime_computes_the_model(tiny, name: str) -> None:
    model, folder, batches, expected = tiny
    runtime = RUNTIMES[name]
    if why := runtime.available():
        pytest.skip(why)
    with runtime.load(folder, Form.torch, 1, open_model=lambda _: copy.deepcopy(model)) as session:
        found = [session.run(batch) for batch in batches]
    for ours, right in zip(found, expected, strict=True):
        difference = np.abs(ours - right).max()
        assert ours.dtype == np.float32
        assert difference < (1e-5 if runtime.precision == "fp32" else 0.03)
    worst = max(np.abs(ours - right).max() for ours, right in zip(found, expected, strict=True))
    assert runtime.precision == "fp32" or worst > 1e-5  # it did compute in bfloat16


@compiling
def test_one_compilation_serves_every_length(tiny) -> None:
    model, folder, batches, _ = tiny
    runtime = RUNTIMES["torch_compile"]
    if why := runtime.available():
        pytest.skip(why)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with runtime.load(folder, Form.torch, 1, open_model=lambda _: copy.deepcopy(model)) as session:
        for batch in batches:
            session.run(batch)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]


def test_bfloat16_is_not_tried_where_it_is_emulated_or_weights_are_integers(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder, _, _ = tiny
    packed = copy.deepcopy(model)
    packed.register_buffer("codes", torch.zeros(4, 4, dtype=torch.int8))
    with pytest.raises(MeasureError, match="integers"):
        RUNTIMES["torch_bf16"].load(folder, Form.torch, 1, open_model=lambda _: packed)
    for file in (torch_file, openvino_file):
        monkeypatch.setattr(file, "native_bf16", lambda device: False)
    assert "no bfloat16" in RUNTIMES["torch_bf16"].available()
    if not RUNTIMES["openvino"].available():
        assert "no bfloat16" in RUNTIMES["openvino_bf16"].available()


def test_half_precision_on_cuda_is_refused_for_integers_before_the_device_is_touched(tiny) -> None:
    model, folder, _, _ = tiny
    packed = copy.deepcopy(model)
    packed.register_buffer("codes", torch.zeros(4, 4, dtype=torch.int8))
    with pytest.raises(MeasureError, match="integers.*float16"):
        RUNTIMES["torch_fp16_cuda"].load(folder, Form.torch, 1, open_model=lambda _: packed)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_model_saved_in_halves_computes_in_the_precision_that_the_runtime_names(tiny, precision, dtype) -> None:
    model, _, batches, expected = tiny
    session = TorchSession(copy.deepcopy(model).half(), precision=precision)
    assert {p.dtype for p in session.model.parameters()} == {dtype}
    assert np.abs(session.run(batches[0]) - expected[0]).max() < 0.03


def test_without_a_device_cuda_runtimes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cuda = [runtime for runtime in RUNTIMES.values() if runtime.device == "cuda"]
    assert {r.name for r in on_cuda} == {name for name in CONFIGURED if name.endswith("_cuda")}
    assert all("no CUDA device" in str(runtime.available()) for runtime in on_cuda)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in RUNTIMES["torch_compile"].available()
