"""Zeros and the deflated size: counted from the files, None where packed integers hide them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor import store
from compressor.artifact import CompressedModel, Form, Head, parameter_count
from compressor.measure.zeros import ZerosResult, deflated_bytes, measure_zeros
from compressor.surgery import encoder_linears
from compressor.testing.tiny import tiny_bert, tiny_tokenizer


def saved(folder: Path, module: torch.nn.Module) -> Path:
    head = Head(task_type="classification", label_names=("bad", "good"))
    artifact = CompressedModel(
        form=Form.torch, config=module.config, tokenizer=tiny_tokenizer(), head=head, module=module
    )
    store.save(artifact, folder)
    return folder


def measured(form: Form, module: torch.nn.Module | None, folder: Path) -> ZerosResult:
    return measure_zeros(form, module, folder, deflated_bytes(folder))


def test_a_dense_and_a_pruned_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = tiny_bert(layers=2, hidden=64).eval()
    exact = sum(int((p == 0).sum()) for p in module.parameters())  # biases start at 0
    dense = measured(Form.torch, module, saved(tmp_path / "dense", module))
    assert dense.non_zeros == parameter_count(module) - exact
    assert dense.encoder_zero_share == 0.0
    weights = (tmp_path / "dense" / "model.safetensors").read_bytes()
    assert abs(dense.zipped_bytes - len(zlib.compress(weights, 6))) < 100
    linears, gone = encoder_linears(module), 0
    for linear in linears.values():
        chosen = torch.rand(linear.weight.shape) < 0.8
        linear.weight.data[chosen] = 0
        gone += int(chosen.sum())
    pruned = measured(Form.torch, module, saved(tmp_path / "pruned", module))
    assert pruned.non_zeros == dense.non_zeros - gone
    assert pruned.encoder_zero_share == pytest.approx(gone / sum(x.weight.numel() for x in linears.values()))
    assert pruned.zipped_bytes < 0.6 * dense.zipped_bytes
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("dense", "pruned")]
    assert sizes[0] == sizes[1]  # the zeros alone saved nothing


def test_packed_integers_hide_their_zeros(tmp_path: Path) -> None:
    module = tiny_bert(layers=1)
    folder = saved(tmp_path / "model", module)
    module.register_buffer("codes", torch.zeros(4, 4, dtype=torch.uint8))
    found = measured(Form.torch, module, folder)
    assert (found.non_zeros, found.encoder_zero_share) == (None, None)
    assert found.zipped_bytes > 0


@pytest.mark.parametrize("zero_point", [0, 7])
def test_a_graph_counts_elements_and_not_its_scales(tmp_path: Path, zero_point: int) -> None:
    import onnx
    from onnx import numpy_helper

    tensors = {
        "w_quantized": np.array([[0, 3], [-2, 0]], np.int8),
        "w_scale": np.array([0.5], np.float32),
        "w_zero_point": np.array([zero_point], np.int8),
        "v": np.array([1.0, 0.0, 2.0], np.float32),
    }
    graph = onnx.helper.make_graph(
        [], "g", [], [], initializer=[numpy_helper.from_array(value, name) for name, value in tensors.items()]
    )
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    found = measured(Form.onnx, None, tmp_path)
    assert found.non_zeros == (None if zero_point else 4)
    assert found.encoder_zero_share is None
    assert found.zipped_bytes == len(zlib.compress((tmp_path / "model.onnx").read_bytes(), 6))
