"""Quantisation-aware training: what is rounded while it learns, and that the file holds the very same integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compressor.artifact import Form
from compressor.errors import ConfigError, Incompatible
from compressor.runtimes import onnx_graph
from compressor.surgery import encoder_layers, encoder_linears, keep_heads, keep_neurons
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor.workbench import Workbench
from compressor_plugins import qat
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.qat import Qat, QatConfig

RNG = np.random.default_rng(11)


@parametrize_with_checks([Qat(QatConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


# the formulas, against numpy


def rounded_by_numpy(values: np.ndarray, scale: np.ndarray | float, zero: int, low: int, high: int) -> np.ndarray:
    return scale * (np.clip(np.rint(values / scale) + zero, low, high) - zero)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_rounded_by_equation_12(per_channel: bool) -> None:
    weight_type, _ = qat._modules()
    weight = RNG.normal(size=(5, 7)).astype(np.float32)
    weight[2] = 0.0
    scale = np.abs(weight).max(axis=1 if per_channel else None, keepdims=True) / 127
    expected = rounded_by_numpy(weight, np.where(scale > 0, scale, 1), 0, -127, 127)
    got = weight_type(per_channel, 127)(torch.tensor(weight)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(weight_type(per_channel, 7)(torch.tensor(weight)).numpy() - expected).max() > 1e-2  # levels matter


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_are_averages_and_inputs_are_rounded_within_them(symmetric: bool) -> None:
    _, range_type = qat._modules()
    module = range_type(0.9, symmetric)
    low = high = None
    for scale in (1.0, 3.0, 0.5):
        batch = (RNG.normal(size=(4, 6)) * scale + 0.3).astype(np.float32)
        low = batch.min() if low is None else 0.9 * low + 0.1 * batch.min()
        high = batch.max() if high is None else 0.9 * high + 0.1 * batch.max()
        got = module(torch.tensor(batch)).numpy()
    assert module.low.item() == pytest.approx(low, rel=1e-5) and module.high.item() == pytest.approx(high, rel=1e-5)
    found = onnx_graph.affine(float(low), float(high), symmetric=symmetric)
    np.testing.assert_allclose(got, rounded_by_numpy(batch, found.scale, found.zero, 0, 255), atol=1e-5)
    module.eval()
    module(torch.full((2, 2), 100.0))
    assert module.high.item() == pytest.approx(high, rel=1e-5)  # only training moves a range


def test_what_was_clipped_gets_no_gradient() -> None:
    _, range_type = qat._modules()
    module = range_type(0.9, True)
    module.low.fill_(-1.0), module.high.fill_(1.0), module.batches.fill_(1.0)
    module.eval()
    values = torch.tensor([-3.0, -0.5, 0.0, 0.999, 1.5], requires_grad=True)
    module(values).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_the_rounded_weights_give_the_same_integers_to_whoever_rounds_them_again() -> None:
    weight_type, _ = qat._modules()
    weight = RNG.normal(size=(1024, 2048)).astype(np.float32)
    rounded = weight_type(True, 127)(torch.tensor(weight)).numpy()
    integers, scale = onnx_graph.round_weight(rounded, 0, 127)
    np.testing.assert_allclose(integers * scale[:, None], rounded, rtol=1e-6)
    others, _ = onnx_graph.round_weight(weight, 0, 127)
    assert 0 < (others != integers).sum() < 50  # of two million: dividing by a scale is not multiplying by its inverse


@pytest.mark.parametrize("per_channel", [True, False])
def test_rows_of_tables_are_rounded_and_their_gradient_passes(per_channel: bool) -> None:
    model = tiny_bert(layers=1, vocabulary=40)
    table = model.bert.embeddings.word_embeddings
    weight = table.weight.detach().numpy().copy()
    scale = np.abs(weight).max(axis=1 if per_channel else None, keepdims=True) / 127
    with qat.rounded(model, QatConfig(per_channel=per_channel), 127):
        rows = table(torch.tensor([[3, 9]]))
        rows.sum().backward()
    expected = rounded_by_numpy(weight, np.where(scale > 0, scale, 1), 0, -127, 127)[[3, 9]]
    np.testing.assert_allclose(rows[0].detach().numpy(), expected, atol=1e-6)
    assert table.weight.grad[3].tolist() == [1.0] * 32


def test_a_model_is_as_before_but_for_its_rounded_weights_when_training_has_ended() -> None:
    model = tiny_bert(layers=2).eval()
    names, before = set(model.state_dict()), {k: v.clone() for k, v in model.state_dict().items()}
    ids = {"input_ids": torch.tensor([[2, 7, 8, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    linears = {f"{name}.weight" for name in encoder_linears(model)}
    with qat.rounded(model, QatConfig(), 127) as ranges:
        assert set(ranges) == set(encoder_linears(model)) and len(ranges) == 12
        model.train()
        model(**ids)
        model.eval()
        assert all(one.high > one.low for one in ranges.values())
        used = {f"{name}.weight": linear.weight.clone() for name, linear in encoder_linears(model).items()}
    after = model.state_dict()
    assert set(after) == names and all(torch.equal(after[k], before[k]) for k in names - linears)
    assert all(torch.equal(after[k], used[k]) and not torch.equal(after[k], before[k]) for k in linears)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert type(encoder_linears(model)[next(iter(ranges))]) is nn.Linear


# from training to integers


class Kept(Workbench):
    """Keeps the ranges that training ended with, and the weights."""

    ranges: dict = {}
    weights: dict = {}

    def fit(self, model, *args, **kwargs):
        result = super().fit(model, *args, **kwargs)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        Kept.ranges = {k: v.item() for k, v in state.items() if "input_range" in k}
        Kept.weights = {k: v.numpy() for k, v in state.items() if "parametrizations" in k}
        return result


def stored(path: Path) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}


def test_the_file_holds_the_trained_scales_and_the_rounded_weights(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path, layers=2)
    result = house.compress([Qat(QatConfig())], bench=Kept)
    found = stored(result.folder / "model.onnx")
    scales = sorted({float(v) for k, v in found.items() if k.endswith(".scale") and v.ndim == 0})
    trained = {k.removesuffix(".low"): v for k, v in Kept.ranges.items() if k.endswith(".low")}
    expected = {max(-low, Kept.ranges[f"{name}.high"]) / 127 for name, low in trained.items()}
    np.testing.assert_allclose(scales, sorted(expected), rtol=1e-5)
    assert len(trained) == 12 and len(scales) == 2 * 4  # query, key and value read one tensor
    packed = [v for k, v in found.items() if v.dtype == np.int8 and v.ndim == 2]
    for weight in Kept.weights.values():
        rounded = np.rint(weight / (np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)))
        assert any(v.shape == rounded.T.shape and np.array_equal(v, rounded.T) for v in packed)


@pytest.mark.parametrize("options", [QatConfig(), QatConfig(symmetric=False, per_channel=False, alpha=1.0)])
def test_integer_kernels_give_the_outputs_of_the_model_that_was_trained(tmp_path: Path, options: QatConfig) -> None:
    house = TinyHouse(tmp_path, layers=2)
    house.train = replace(house.train, epochs=2)
    result = house.compress([Qat(options)])
    notes = result.lineage[0].notes
    assert (
        notes["largest_linear_error"] < 1e-5
        and notes["logit_error"] < 1e-2
        and notes["linears_quantised"] == 12
        and notes["tables"] == 2
    )
    runtime = ort.SessionOptions()
    runtime.log_severity_level = 4
    runtime.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(str(result.folder / "model.onnx"), runtime, providers=["CPUExecutionProvider"])
    operations = [n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert operations.count("MatMulIntegerToFloat") == 12


def test_bytes_are_at_most_35_percent_or_a_warning_says_so(tmp_path: Path, caplog) -> None:
    house = TinyHouse(tmp_path, layers=2)
    module = tiny_bert(layers=2, hidden=192, vocabulary=2000).eval()
    small, house.teacher = house.teacher, replace(house.teacher, module=module, config=module.config)
    notes = house.compress([Qat(QatConfig())]).lineage[0].notes
    assert notes["int8_bytes"] < 0.35 * notes["fp32_bytes"]
    assert "float32 file" not in caplog.text
    house.teacher = small
    notes = house.compress([Qat(QatConfig())]).lineage[0].notes
    assert notes["int8_bytes"] > 0.35 * notes["fp32_bytes"]  # 32 dimensions: the graph is most of the file
    share = 100 * notes["int8_bytes"] / notes["fp32_bytes"]
    assert f"the int8 file has {notes['int8_bytes']:,} bytes, {share:.0f}% of the float32 file's" in caplog.text


def test_logits_beyond_the_tolerance_are_refused_and_the_default_is_tight(tmp_path: Path, monkeypatch) -> None:
    found = {"largest_linear_error": 0.0, "logit_error": 0.11}
    monkeypatch.setattr(qat, "compare", lambda *args: found)
    house = TinyHouse(tmp_path, layers=2)
    with pytest.raises(Incompatible, match=r"differs from the trained model.*'logit_error': 0.11"):
        house.compress([Qat(QatConfig())])
    assert house.compress([Qat(QatConfig(tolerance=0.12))]).lineage[0].notes["logit_error"] == 0.11


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch) -> None:
    quantise = onnx_graph.quantise
    monkeypatch.setattr(onnx_graph, "quantise", lambda *args, **options: quantise(*args, **(options | {"levels": 100})))
    with pytest.raises(Incompatible, match="differs from the trained model.*largest_linear_error"):
        TinyHouse(tmp_path, layers=2).compress([Qat(QatConfig())])


def test_a_deep_model_with_outliers_is_the_same_linear_by_linear(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path)
    torch.manual_seed(0)
    module = tiny_bert(layers=8, hidden=64).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.mul_(4 if parameter.dim() == 2 else 1)
            if "LayerNorm.weight" in name:
                parameter[5] = 25.0  # one column far above the others
    house.teacher = replace(house.teacher, module=module, config=module.config)
    notes = house.compress([Qat(QatConfig())]).lineage[0].notes
    assert notes["largest_linear_error"] < 1e-5 and notes["logit_error"] < 0.1


def test_cut_layers_and_a_distilled_source(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path)
    layers = encoder_layers(house.teacher.model)
    keep_heads(house.teacher.model, layers[1], [0, 2])
    keep_neurons(house.teacher.model, layers[3], list(range(0, 64, 3)))
    result = house.compress([Distill(DistillConfig()), Qat(QatConfig())])
    assert result.form is Form.onnx and result.lineage[1].notes["linears_quantised"] == 2 * 6


@pytest.mark.parametrize(("name", "linears"), [("Albert", 6), ("MPNet", 12), ("DistilBert", 12), ("DebertaV2", 12)])
def test_other_families(tmp_path: Path, name: str, linears: int) -> None:
    import transformers

    sizes = {"vocab_size": 40, "max_position_embeddings": 64, "num_labels": 2}
    if name == "DistilBert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForSequenceClassification")(
        getattr(transformers, f"{name}Config")(**sizes)
    ).eval()
    house = TinyHouse(tmp_path)
    house.teacher = replace(house.teacher, module=module, config=module.config)
    notes = house.compress([Qat(QatConfig())]).lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] == linears
    assert notes["largest_linear_error"] < 1e-5 and notes["logit_error"] < 1e-2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ema_decay": 1.0}, "ema_decay=1.0"),
        ({"alpha": -0.5}, "alpha=-0.5"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"hidden_weight": -1.0}, "hidden_weight=-1.0"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        QatConfig(**options)


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
    result = house.compress([Qat(QatConfig())])
    assert result.lineage[0].notes["linears_quantised"] == result.lineage[0].notes["linears_eligible"]
    assert house.logits(result).shape == house.logits(house.teacher).shape
