"""Work on paper against the formula, on every form that a model can have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.artifact import Form
from compressor.errors import MeasureError
from compressor.measure.size import count_parameters
from compressor.measure.work import measure_work, onnx_macs, openvino_macs, torch_macs
from compressor.runtimes.export import export_onnx
from compressor.testing.tiny import tiny_bert, tiny_tokenizer
from compressor.weights import save_weights
from compressor_plugins.int8_dynamic import quantize

LAYERS, WIDTH, HEADS = 2, 64, 4


def formula(batch: int, length: int) -> int:
    """Per layer 4 H^2 + 2 H F a token and 2 L H a token for the attention; pooler and classifier once a text."""
    linears = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * (2 * WIDTH)) * length
    attention = LAYERS * 2 * length * length * WIDTH
    return batch * (linears + attention + WIDTH * WIDTH + WIDTH * 2)


def inputs(batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 30, (batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_bert(layers=LAYERS, hidden=WIDTH, heads=HEADS).eval()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("work") / "onnx"
    export_onnx(model, tiny_tokenizer(), place)
    return place / "model.onnx"


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 16)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_torch_counts_what_the_formula_says(model, batch: int, length: int, attention: str) -> None:
    model.set_attn_implementation(attention)
    assert torch_macs(model, inputs(batch, length)) == formula(batch, length)


def test_a_kernel_that_the_counter_does_not_know_counts_by_its_shape(model) -> None:
    class Packed(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_zeros(*x.shape[:-1], self.out_features)

    import copy

    packed = copy.deepcopy(model)
    for layer in packed.bert.encoder.layer:
        layer.output.dense = Packed(layer.output.dense)
    assert torch_macs(packed, inputs(1, 7)) == formula(1, 7)


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 16)])
def test_a_graph_counts_the_same(exported: Path, batch: int, length: int) -> None:
    assert onnx_macs(exported, inputs(batch, length)) == formula(batch, length)


def test_an_int8_graph_counts_the_same(exported: Path, tmp_path: Path) -> None:
    quantize(exported, tmp_path / "model.onnx")
    assert onnx_macs(tmp_path / "model.onnx", inputs(2, 9)) == formula(2, 9)


def test_openvino_counts_the_same(exported: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.Core().read_model(exported), tmp_path / "model.xml", compress_to_fp16=False)
    assert openvino_macs(tmp_path / "model.xml", (3, 16)) == formula(3, 16)
    found = measure_work(Form.openvino, None, tmp_path, [inputs(1, 7)], 1000)
    assert found.macs_per_text == formula(1, 7) and found.nominal_bits > 0


def test_a_mean_over_texts_of_several_lengths(model, tmp_path: Path) -> None:
    save_weights(model, tmp_path)
    batches = [inputs(1, 7), inputs(1, 7), inputs(1, 16)]
    found = measure_work(Form.torch, model, tmp_path, batches, count_parameters(Form.torch, model, None))
    assert found.macs_per_text == (2 * formula(1, 7) + formula(1, 16)) / 3
    assert found.nominal_bits == 32.0, "every parameter is stored once, as float32"
    assert found.macs_unavailable is None and found.bits_unavailable is None


def test_bits_are_those_of_what_is_stored(model, tmp_path: Path) -> None:
    import copy

    half = copy.deepcopy(model).half()
    save_weights(half, tmp_path)
    assert measure_work(Form.torch, half, tmp_path, [], 100).macs_unavailable == "no texts were replayed"
    parameters = count_parameters(Form.torch, half, None)
    assert measure_work(Form.torch, half, tmp_path, [], parameters).nominal_bits == 16.0


def test_an_int8_graph_stores_fewer_bits(exported: Path, tmp_path: Path) -> None:
    quantize(exported, tmp_path / "model.onnx")
    before = measure_work(Form.onnx, None, exported.parent, [], count_parameters(Form.onnx, None, exported.parent))
    after = measure_work(Form.onnx, None, tmp_path, [], count_parameters(Form.onnx, None, tmp_path))
    assert before.nominal_bits == pytest.approx(32, rel=0.01)
    assert 8 <= after.nominal_bits < 16


def test_an_operator_that_hides_products_is_named(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Attention", ["x"], ["y"], domain="com.microsoft")
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph([node], "g", [value("x", floats, [1, 2])], [value("y", floats, [1, 2])])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(MeasureError, match="Attention"):
        onnx_macs(tmp_path / "model.onnx", {})
    found = measure_work(Form.onnx, None, tmp_path, [{"x": np.zeros((1, 2), np.int64)}], 10)
    assert found.macs_per_text is None and "Attention" in found.macs_unavailable


def test_weights_in_another_format_are_unavailable_by_name(model, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"0" * 10)
    found = measure_work(Form.torch, model, tmp_path, [], 10)
    assert found.nominal_bits is None and "pytorch_model.bin" in found.bits_unavailable
