"""Dynamic int8: every linear, no float32 left over, close to the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compressor.artifact import Form
from compressor.errors import ConfigError, Incompatible
from compressor.runtimes import get_runtime, onnx_graph
from compressor.runtimes.export import export_onnx
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert, tiny_tokenizer
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig, quantize


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = tiny_bert(layers=2, hidden=128, vocabulary=2000)
    return export_onnx(model, tiny_tokenizer(), tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def outlying(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A model whose columns and rows differ in size, so that one scale for all would be another."""
    torch.manual_seed(0)
    model = tiny_bert(layers=2, hidden=32, vocabulary=60)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(torch.linspace(1, 9, len(parameter))[:, None])
    return model, export_onnx(model, tiny_tokenizer(), tmp_path_factory.mktemp("outlying"))


@pytest.mark.parametrize("embeddings", [False, True])
def test_every_linear_is_quantised(exported: Path, tmp_path: Path, embeddings: bool) -> None:
    report = quantize(exported, tmp_path / "model.onnx", embeddings=embeddings)
    assert report.linears_quantised == report.linears_eligible == 2 * 6 + 2  # six a layer; pooler, classifier
    assert report.skipped == ()
    assert report.int8_bytes == (tmp_path / "model.onnx").stat().st_size
    table = 2000 * 128
    assert report.int8_bytes < report.fp32_bytes - (table * 3 if embeddings else 0) - 2 * 8 * 128 * 128 * 2.5
    ids = np.array([[2, 7, 8, 9, 10, 3]], np.int64)
    batch = {"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1}
    logits = []
    for folder, form in ((exported.parent, Form.torch), (tmp_path, Form.onnx)):
        with get_runtime("onnxruntime").load(folder, form, 1) as session:
            logits.append(session.run(batch))
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05


def stored(folder: Path) -> dict[str, np.ndarray]:
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(folder / "model.onnx")).graph.initializer}


def quantised(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, levels: int = 127, **options) -> dict:
    """Quantise for a processor whose products of 8 bits saturate (63 levels) or do not (127), whatever this one's."""
    monkeypatch.setattr(onnx_graph, "weight_levels", lambda: levels)
    quantize(path, folder / "model.onnx", **options)
    return stored(folder)


@pytest.mark.parametrize(("levels", "largest"), [(127, 127), (63, 64)])
def test_weights_are_the_nearest_integers_with_a_scale_a_column(
    outlying, tmp_path, monkeypatch, levels, largest
) -> None:
    model, path = outlying
    found = quantised(path, tmp_path, monkeypatch, levels)
    packed = {name.removesuffix("_quantized"): found[name] for name in found if name.endswith("_quantized")}
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(packed) == len(linears) == 2 * 6 + 2
    for linear in linears:
        weight = linear.weight.detach().numpy().T
        scale = np.abs(weight).max(axis=0) / largest
        expected = np.rint(weight / scale)
        (name,) = [n for n, v in packed.items() if v.shape == weight.shape and np.array_equal(v, expected)]
        np.testing.assert_allclose(found[f"{name}_scale"], scale, rtol=1e-6)
        assert not found[f"{name}_zero_point"].any() and np.abs(expected).max(axis=0).min() == largest


def test_tables_have_a_scale_a_row(outlying, tmp_path, monkeypatch) -> None:
    model, path = outlying
    found = quantised(path, tmp_path, monkeypatch, embeddings=True)
    for kind in ("word_embeddings", "position_embeddings"):
        rows = getattr(model.bert.embeddings, kind).weight.detach().numpy()
        largest = np.abs(rows).max(axis=1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1)  # the padding row is all zeros
        name = next(n for n in found if n.endswith(f"{kind}.weight.int8")).removesuffix(".int8")
        np.testing.assert_allclose(found[f"{name}.scale"], scale, rtol=1e-6)
        np.testing.assert_array_equal(found[f"{name}.int8"], np.rint(rows / scale.astype(np.float32)))


def test_inputs_get_scale_and_zero_point_at_each_call_and_products_are_of_integers(
    outlying, tmp_path, monkeypatch
) -> None:
    _, path = outlying
    found = quantised(path, tmp_path, monkeypatch)
    model = onnx.load(str(tmp_path / "model.onnx"))
    rounding = {n.output[0]: n for n in model.graph.node if n.op_type == "DynamicQuantizeLinear"}
    products = [n for n in model.graph.node if n.op_type == "MatMulInteger"]
    assert len(products) == 2 * 6 + 2
    texts = [np.array([ids], np.int64) for ids in ([2, 7, 8, 9, 10, 3], [2, 30, 3])]
    feeds = [{"input_ids": t, "token_type_ids": t * 0, "attention_mask": t * 0 + 1} for t in texts]
    names = [name for p in products for name in (*rounding[p.input[0]].input, *rounding[p.input[0]].output, *p.output)]
    scales: dict[str, set[float]] = {}
    for values in onnx_graph.observe(model, names, feeds):
        for product in products:
            node = rounding[product.input[0]]
            x, integers, scale, zero = (values[name] for name in (*node.input, *node.output))
            low, high = min(x.min(), 0), max(x.max(), 0)
            assert scale == pytest.approx((high - low) / 255, rel=1e-5)
            assert zero == np.clip(np.rint(-low / scale), 0, 255)
            np.testing.assert_allclose(integers, np.clip(x / scale + zero, 0, 255), atol=0.501)
            product_of_integers = (integers.astype(np.int64) - int(zero)) @ found[product.input[1]].astype(np.int64)
            np.testing.assert_array_equal(values[product.output[0]], product_of_integers)
            scales.setdefault(node.input[0], set()).add(float(scale))
    assert any(len(seen) == 2 for seen in scales.values())  # another text, another scale


def test_a_graph_without_linears_is_refused(tmp_path: Path) -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "in.onnx"))
    with pytest.raises(Incompatible):
        quantize(tmp_path / "in.onnx", tmp_path / "out.onnx")


def test_too_few_quantised_linears_are_an_error_that_names_the_rest(tmp_path: Path, monkeypatch) -> None:
    import compressor_plugins.int8_dynamic as module

    house = TinyHouse(tmp_path)
    report = module.Int8Report(
        linears_quantised=3, linears_eligible=99, skipped=("MatMul_7", "MatMul_9"), fp32_bytes=2, int8_bytes=1
    )
    monkeypatch.setattr(module, "quantize", lambda *args, **kwargs: report)
    with pytest.raises(Incompatible, match="3 of 99 eligible linears.*MatMul_7"):
        house.compress([Int8Dynamic(Int8DynamicConfig())])


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="minimum_share"):
        Int8DynamicConfig(minimum_share=0.0)


def tiny_albert(hidden: int) -> torch.nn.Module:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=64, embedding_size=16, hidden_size=hidden, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=2 * hidden, max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    return AlbertForSequenceClassification(config).eval()


@pytest.mark.parametrize(("hidden", "how"), [(160, "Transpose"), (32, "copies")])
def test_shared_weights_are_quantised_and_stay_shared(tmp_path: Path, hidden: int, how: str) -> None:
    path = export_onnx(tiny_albert(hidden), tiny_tokenizer(), tmp_path / "export")
    graph = onnx.load(str(path)).graph
    stored = {i.name: tuple(i.dims) for i in graph.initializer}
    behind = [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in stored]
    copies = [name for name, shape in stored.items() if shape == (hidden, 2 * hidden)]
    assert bool(behind) == (how == "Transpose") and (len(copies) == 3) == (how == "copies")
    report = quantize(path, tmp_path / "model.onnx")
    assert report.linears_quantised == report.linears_eligible == 1 + 3 * 6 + 2  # six a layer, and no layer is skipped
    layer = 4 * hidden * hidden + 2 * hidden * 2 * hidden
    packed = [
        i for i in onnx.load(str(tmp_path / "model.onnx")).graph.initializer if i.data_type == onnx.TensorProto.INT8
    ]
    matrices = [int(np.prod(i.dims)) for i in packed if len(i.dims) == 2]
    assert sum(matrices) == layer + 16 * hidden + hidden * hidden + 2 * hidden  # one layer's weights for three layers


def test_an_albert_artifact_is_quantised_and_works(tmp_path: Path) -> None:
    from dataclasses import replace

    house = TinyHouse(tmp_path)
    model = tiny_albert(160)
    house.teacher = replace(house.teacher, module=model, config=model.config)
    result = house.compress([Int8Dynamic(Int8DynamicConfig(embeddings=True))])
    assert result.form is Form.onnx and result.lineage[0].notes["linears_quantised"] == 21
    difference = np.abs(house.logits(result) - house.logits(house.teacher)).max()
    assert 0 < difference < 0.02


def test_after_sharing_layers(tmp_path: Path) -> None:
    from compressor_plugins.albert import Albert, AlbertConfig

    house = TinyHouse(tmp_path)
    result = house.compress([Albert(AlbertConfig()), Int8Dynamic(Int8DynamicConfig())])
    notes = result.lineage[1].notes
    assert result.form is Form.onnx and notes["linears_quantised"] == notes["linears_eligible"] == 2 * 6 + 3
    assert notes["skipped"] == [] and np.isfinite(house.logits(result)).all()
