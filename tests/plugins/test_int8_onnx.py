"""Static int8 in ONNX Runtime: ranges as the formulas say, integers everywhere, the same on shapes that were cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from compressor.artifact import Form
from compressor.errors import ConfigError, Incompatible
from compressor.runtimes import get_runtime, onnx_graph
from compressor.runtimes.export import export_onnx
from compressor.surgery import encoder_layers, keep_heads, keep_neurons
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert, tiny_tokenizer
from compressor_plugins import int8_onnx
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.int8_onnx import Calibration, Int8Onnx, Int8OnnxConfig

QUICK = Int8OnnxConfig(examples=8)


@parametrize_with_checks([Int8Onnx(QUICK)])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


# ranges, against numpy


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = tiny_bert(layers=2, hidden=64, vocabulary=500)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that rounding shows
    return export_onnx(model, tiny_tokenizer(), tmp_path_factory.mktemp("export"))


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    found = []
    for length in draw.integers(5, 12, count):
        ids = draw.integers(5, 30, (1, length))
        found.append({"input_ids": ids, "token_type_ids": ids * 0, "attention_mask": ids * 0 + 1})
    return found


def hidden_input(exported: Path) -> tuple[onnx.ModelProto, str, list[np.ndarray]]:
    """Return the graph, the tensor that the first linear reads, and its values on the feeds."""
    model = onnx_graph.read_graph(exported)
    name = onnx_graph.weight_linears(model.graph)[0].input[0]
    return model, name, [next(onnx_graph.observe(model, [name], [feed]))[name] for feed in feeds(6)]


def test_minmax_is_the_range_that_was_seen_and_moves_with_the_texts(exported: Path) -> None:
    model, name, values = hidden_input(exported)
    got = int8_onnx.calibrate(model, [name], feeds(6), QUICK)[name]
    assert got == (min(v.min() for v in values), max(v.max() for v in values))
    assert got != int8_onnx.calibrate(model, [name], feeds(1), QUICK)[name]


def test_percentile_equals_numpy(exported: Path) -> None:
    model, name, values = hidden_input(exported)
    options = Int8OnnxConfig(calibration=Calibration.percentile, percentile=98.0)
    got = int8_onnx.calibrate(model, [name], feeds(6), options)[name]
    expected = np.percentile(np.concatenate([v.ravel() for v in values]), [1.0, 99.0])
    np.testing.assert_allclose(got, expected, rtol=0.01)


@pytest.mark.parametrize("symmetric", [False, True])
def test_least_squares_finds_the_smallest_error_that_a_grid_finds(symmetric: bool) -> None:
    values = np.concatenate([np.random.default_rng(0).normal(size=20_000), [40.0]])
    counts, edges = np.histogram(values, bins=2048)

    def error(low: float, high: float) -> float:
        scale, zero = onnx_graph.affine(low, high, symmetric=symmetric)
        return float(((scale * (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) - values) ** 2).sum())

    low, high = int8_onnx.least_squares_range(counts, edges, symmetric=symmetric)
    steps = [i / 32 for i in range(1, 33)]
    best = min(error(values.min() * i, 40.0 * j) for i in steps for j in steps)
    assert error(low, high) <= 1.02 * best < error(values.min(), 40.0)


def test_entropy_cuts_a_lonely_outlier_and_keeps_a_flat_range() -> None:
    draw = np.random.default_rng(0)
    counts, edges = np.histogram(np.concatenate([draw.normal(size=50_000), [60.0]]), bins=2048)
    low, high = int8_onnx.entropy_range(counts, edges)
    assert 2.5 < high < 30 and edges[0] <= low < -2.5
    flat, edges = np.histogram(np.linspace(-1, 1, 100_000), bins=2048)
    assert int8_onnx.entropy_range(flat, edges)[1] > 0.9


def test_smoothing_is_equation_4() -> None:
    a, w = np.array([8.0, 2.0, 0.0], np.float32), np.array([0.5, 0.25, 1.0], np.float32)
    np.testing.assert_allclose(
        int8_onnx.smoothing(a, w, 0.75), [8**0.75 / 0.5**0.25, 2**0.75 / 0.25**0.25, 1.0], rtol=1e-6
    )


def test_groups_join_what_shares_a_tensor_or_a_weight() -> None:
    pairs = [("x", "q"), ("x", "k"), ("y", "o"), ("z", "q"), ("u", "f")]
    assert int8_onnx.groups(pairs) == [(["y"], ["o"]), (["x", "z"], ["q", "k"]), (["u"], ["f"])]


def logits(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, feed)[0] for feed in feeds(4)])


def test_smoothing_changes_no_output_and_evens_the_columns(exported: Path) -> None:
    model = onnx_graph.read_graph(exported)
    before = logits(model)
    names = int8_onnx.activations(model, [n.name for n in onnx_graph.weight_linears(model.graph)])
    int8_onnx.smooth(model, feeds(4), 0.9)
    np.testing.assert_allclose(logits(model), before, atol=1e-4)
    after = int8_onnx.activations(model, [n.name for n in onnx_graph.weight_linears(model.graph)])
    assert after == [f"{name}.smooth" for name in names]

    def unevenness(name: str) -> float:
        peaks = np.abs(np.concatenate([v[name][0] for v in onnx_graph.observe(model, [name], feeds(4))])).max(axis=0)
        return float(peaks.max() / np.median(peaks))

    assert unevenness(after[0]) < unevenness(names[0])


# the file


def test_scales_and_integers_equal_the_library_s_own_static_quantiser(exported: Path, tmp_path: Path, caplog) -> None:
    from onnx import numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        left = iter(feeds(6))

        def get_next(self):
            return next(self.left, None)

    model = onnx_graph.read_graph(exported)
    onnx.save(model, str(tmp_path / "in.onnx"))
    linears = onnx_graph.weight_linears(model.graph)
    nodes, weights = [n.name for n in linears], [n.input[1] for n in linears]
    quantize_static(
        str(tmp_path / "in.onnx"), str(tmp_path / "theirs.onnx"), Reader(), quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul"], nodes_to_quantize=nodes, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )  # fmt: skip
    names = int8_onnx.activations(model, nodes)
    ranges = int8_onnx.calibrate(model, names, feeds(6), QUICK)
    scales = {name: onnx_graph.affine(*ranges[name]) for name in names}
    before = logits(model)
    onnx_graph.quantise(model, scales, nodes, per_channel=True, levels=127)
    theirs_model = onnx.load(str(tmp_path / "theirs.onnx"))
    ours, theirs = ({i.name: numpy_helper.to_array(i) for i in m.graph.initializer} for m in (model, theirs_model))
    for name in names:
        assert theirs[f"{name}_zero_point"] == ours[f"{name}.zero"]
        assert theirs[f"{name}_scale"] == pytest.approx(ours[f"{name}.scale"], rel=1e-6)
    for name in weights:
        np.testing.assert_allclose(theirs[f"{name}_scale"], ours[f"{name}.scale"], rtol=1e-6)
        np.testing.assert_array_equal(theirs[f"{name}_quantized"], ours[f"{name}.int8"])
    # Theirs also rounds what the residual sums read.
    assert 0 < np.abs(logits(model) - before).max() < np.abs(logits(theirs_model) - before).max()


def optimised(path: Path, folder: Path) -> list[str]:
    """Return the operations that ONNX Runtime makes of a file."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [n.op_type for n in onnx.load(str(folder / "optimised.onnx")).graph.node]


@pytest.mark.parametrize(
    ("options", "products"),
    [
        (Int8OnnxConfig(examples=4), 0),
        (Int8OnnxConfig(examples=4, attention=True, calibration=Calibration.mse, smooth=0.8), 4),
        (Int8OnnxConfig(examples=4, symmetric=True, per_channel=False, calibration=Calibration.entropy), 0),
    ],
)
def test_integer_kernels_are_used_for_every_linear(tmp_path: Path, options: Int8OnnxConfig, products: int) -> None:
    house = TinyHouse(tmp_path, layers=2)
    result = house.compress([Int8Onnx(options)])
    notes = result.lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] == 2 * 6 + 2
    assert notes["attention_products"] == products and notes["tables"] == 2
    assert (notes["calibration_examples"], notes["calibration_seed"]) == (4, 0)
    operations = optimised(result.folder / "model.onnx", tmp_path)
    assert operations.count("MatMulIntegerToFloat") == 14 + products
    assert np.abs(house.logits(result) - house.logits(house.teacher)).max() < 0.01


def test_bytes_shrink_to_a_quarter(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path)
    module = tiny_bert(layers=2, hidden=256, vocabulary=4000).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    whole = house.compress([Int8Onnx(Int8OnnxConfig(examples=2))]).lineage[0].notes
    assert whole["int8_bytes"] < 0.28 * whole["fp32_bytes"]
    tables = house.compress([Int8Onnx(Int8OnnxConfig(examples=2, embeddings=False))]).lineage[0].notes
    assert tables["int8_bytes"] - whole["int8_bytes"] == pytest.approx(3 * 4064 * 256, rel=0.02)


def test_cut_layers_are_quantised_as_they_are(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path, layers=2)
    layers = encoder_layers(house.teacher.model)
    keep_heads(house.teacher.model, layers[0], [1, 3])
    keep_neurons(house.teacher.model, layers[1], list(range(0, 64, 3)))
    result = house.compress([Int8Onnx(QUICK)])
    assert result.lineage[0].notes["linears_quantised"] == 14
    assert np.abs(house.logits(result) - house.logits(house.teacher)).max() < 0.01


def test_after_distillation(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Distill(DistillConfig()), Int8Onnx(QUICK)])
    assert result.form is Form.onnx and result.lineage[1].notes["linears_quantised"] == 2 * 6 + 2


def test_after_distilbert(tmp_path: Path) -> None:
    from compressor_plugins.distilbert import DistilBert, DistilBertConfig

    result = TinyHouse(tmp_path).compress([DistilBert(DistilBertConfig()), Int8Onnx(QUICK)])
    notes = result.lineage[1].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] >= 2 * 6 + 2


def test_too_few_integers_are_an_error_that_names_the_rest(tmp_path: Path, monkeypatch) -> None:
    quantise = onnx_graph.quantise
    monkeypatch.setattr(onnx_graph, "quantise", lambda m, s, nodes, **o: quantise(m, s, list(nodes)[:3], **o))
    with pytest.raises(Incompatible, match="3 of 26 eligible linears.*MatMul"):
        TinyHouse(tmp_path).compress([Int8Onnx(QUICK)])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"examples": 0}, "examples=0"),
        ({"percentile": 101.0}, "percentile=101.0"),
        ({"smooth": 1.0}, "smooth=1.0"),
        ({"minimum_share": 0.0}, "minimum_share=0.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        Int8OnnxConfig(**options)


@pytest.mark.parametrize("name", ["MPNet", "DistilBert", "Albert", "DebertaV2"])
def test_other_families_are_quantised(tmp_path: Path, name: str) -> None:
    import transformers

    sizes = {"vocab_size": 40, "max_position_embeddings": 64, "num_labels": 2}
    if name == "DistilBert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if name == "Albert":
        sizes["embedding_size"] = 16
    if name == "DebertaV2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForSequenceClassification")(
        getattr(transformers, f"{name}Config")(**sizes)
    ).eval()
    house = TinyHouse(tmp_path)
    house.teacher = replace(house.teacher, module=module, config=module.config)
    result = house.compress([Int8Onnx(QUICK)])
    batch = house.batch(result)
    with get_runtime("onnxruntime").load(result.folder, Form.onnx, 1) as session:
        got = session.run({k: v.numpy() for k, v in batch.inputs.items()})
    with torch.inference_mode():
        names = {k: v for k, v in batch.inputs.items() if k != "token_type_ids" or name not in ("MPNet", "DistilBert")}
        expected = module(**names).logits.numpy()
    assert np.abs(got - expected).max() < 0.02
    assert result.lineage[0].notes["linears_quantised"] >= 12


@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_other_task_types(tmp_path: Path, kind: str) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks import build_task
    from compressor.tasks.data import TaskData
    from compressor.testing.tiny import tiny_examples

    house = TinyHouse(tmp_path)
    names = ("O", "B-X") if kind == "token_classification" else ()
    house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), names)
    draws = (tuple(tiny_examples(16, seed=seed, kind=kind)) for seed in range(3))
    house.data = TaskData(**dict(zip(("train", "validation", "test"), draws, strict=True)), fingerprint=kind)
    module = tiny_bert(layers=2, tokens=kind == "token_classification", **house.task.config_overrides()).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    result = house.compress([Int8Onnx(QUICK)])
    assert result.lineage[0].notes["linears_quantised"] == result.lineage[0].notes["linears_eligible"]
    assert house.logits(result).shape == house.logits(house.teacher).shape
