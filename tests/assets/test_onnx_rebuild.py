"""Names and orientation recovered from a graph; a wrong transpose is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.assets import onnx_rebuild
from compressor.errors import AssetError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PREFIX = "model.0."


def _graph(path: Path, biases: tuple[str, ...], prefix: str = "") -> dict[str, np.ndarray]:
    """Write words -> linear (square, nameless weight) -> pooler Gemm; return the arrays."""
    rng = np.random.default_rng(0)
    arrays = {
        "embeddings.word_embeddings.weight": rng.normal(size=(7, 4)),
        "embeddings.position_ids": np.arange(4),
        "onnx::MatMul_1": rng.normal(size=(4, 4)),
        "pooler.dense.weight": rng.normal(size=(4, 4)),
    } | {name: rng.normal(size=4) for name in biases}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    helper = onnx.helper
    nodes = [
        helper.make_node("MatMul", ["x", prefix + "onnx::MatMul_1"], ["y0"], name="linear"),
        helper.make_node("MatMul", ["y0", "x"], ["scores"], name="scores"),
    ]
    for number, name in enumerate(biases):
        nodes.append(helper.make_node("Add", [prefix + name, "y0"], [f"z{number}"]))
    nodes.append(helper.make_node("Gemm", ["x", prefix + "pooler.dense.weight"], ["p"], transB=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [4, 4])],
        [onnx.numpy_helper.from_array(array, prefix + name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph), path)
    return arrays


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_linear_weights_are_named_by_their_bias_and_transposed(tmp_path: Path, prefix: str) -> None:
    bias = "encoder.layer.0.attention.self.query.bias"
    arrays = _graph(tmp_path / "g.onnx", (bias,), prefix)
    tensors = onnx_rebuild.bert_tensors(tmp_path / "g.onnx", prefix=prefix)
    weight = bias.replace(".bias", ".weight")
    assert set(tensors) == {
        "embeddings.word_embeddings.weight",
        "pooler.dense.weight",
        bias,
        weight,
    }
    np.testing.assert_array_equal(tensors[weight], arrays["onnx::MatMul_1"].T)
    np.testing.assert_array_equal(tensors["pooler.dense.weight"], arrays["pooler.dense.weight"])


@pytest.mark.parametrize("biases", [(), ("encoder.a.bias", "encoder.b.bias")])
def test_a_linear_layer_without_exactly_one_bias_is_refused(tmp_path: Path, biases: tuple[str, ...]) -> None:
    _graph(tmp_path / "g.onnx", biases)
    with pytest.raises(AssetError, match="the ONNX linear layer linear adds"):
        onnx_rebuild.bert_tensors(tmp_path / "g.onnx")


class _Value:
    def __init__(self, name: str, rank: int) -> None:
        self.name = name
        self.shape = ["?"] * rank


class _Session:
    """Stands for ONNX Runtime, answering with a PyTorch model of its own."""

    model: object = None

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def get_inputs(self) -> list[_Value]:
        return [_Value("input_ids", 2), _Value("attention_mask", 2)]

    def get_outputs(self) -> list[_Value]:
        return [_Value("mask", 2), _Value("hidden", 3)]

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        import torch

        assert names == ["hidden"]
        assert feed["input_ids"].shape[0] == 1
        with torch.inference_mode():
            batch = {name: torch.from_numpy(value) for name, value in feed.items()}
            return [type(self).model(**batch).last_hidden_state.numpy()]  # type: ignore[operator]


def test_a_transposed_square_matrix_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "movie", ".", ",", "terrible"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Session)
    monkeypatch.setattr(_Session, "model", model)
    onnx_rebuild.require_same_output(tmp_path, tmp_path / "g.onnx")
    dense = model.encoder.layer[0].attention.output.dense
    dense.weight.data = dense.weight.data.T.contiguous()
    with pytest.raises(AssetError, match="differs from its ONNX original"):
        onnx_rebuild.require_same_output(tmp_path, tmp_path / "g.onnx")
    dense.weight.data.fill_(float("nan"))
    with pytest.raises(AssetError, match="nan"):
        onnx_rebuild.require_same_output(tmp_path, tmp_path / "g.onnx")
