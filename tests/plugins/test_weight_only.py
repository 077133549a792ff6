"""Weight-only int8 and int4 in torchao: the papers' grids, float32 arithmetic, bytes that are counted."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor import store
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible, MissingExtra
from compressor.measure.size import count_parameters
from compressor.runtimes.export import export_onnx
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder, tiny_inputs
from compressor.testing.house import TinyHouse
from compressor_plugins.drop_layers import DropLayers, MethodConfig
from compressor_plugins.weight_only import (
    Int4WeightOnly,
    Int4WeightOnlyConfig,
    Int8WeightOnly,
    Int8WeightOnlyConfig,
    pack,
    unpack,
)

METHODS = [Int8WeightOnly(Int8WeightOnlyConfig()), Int4WeightOnly(Int4WeightOnlyConfig())]
by_class = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@parametrize_with_checks(METHODS)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


def int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formula in numpy: values that are computed with, and the step of each."""
    step = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127.5)
    return np.clip(np.round(weight * (1 / step)), -128, 127) * step, step


def int4(weight: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for groups of `group` neighbouring inputs with a zero point."""
    blocks = weight.reshape(weight.shape[0], -1, group)
    low = np.minimum(blocks.min(axis=2, keepdims=True), 0)
    high = np.maximum(blocks.max(axis=2, keepdims=True), 0)
    step = (high - low) / np.float32(15)
    zero = np.clip(-8 - np.round(low / step), -8, 7)
    integers = np.clip(np.round(blocks * (1 / step)) + zero, -8, 7)
    assert len(np.unique(integers)) == 16
    return ((integers - zero) * step).reshape(weight.shape), np.repeat(step, group, axis=2).reshape(weight.shape)


@pytest.mark.parametrize(
    ("method", "formula"),
    [(METHODS[0], int8), *((Int4WeightOnly(Int4WeightOnlyConfig(group_size=g)), g) for g in (8, 32))],
    ids=["int8", "int4-8", "int4-32"],
)
def test_dequantised_weights_are_those_of_the_formula(house, method, formula) -> None:
    before = encoder_linears(house.teacher.model)
    result = house.compress([method])
    for name, linear in encoder_linears(result.model).items():
        original = before[name].weight.detach().numpy()
        expected, step = formula(original) if callable(formula) else int4(original, formula)
        found = linear.weight.dequantize().detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
        error = np.abs(found - original)
        half_steps = (
            0.5 if callable(formula) else 1.0
        )  # rounding the zero point costs up to half a step more at the ends
        assert error.max() > 0 and (error <= half_steps * 1.0001 * step).all()


def test_smaller_groups_are_closer(house) -> None:
    original = house.teacher.model.bert.encoder.layer[0].attention.self.query.weight.detach()
    errors = []
    for size in (8, 16, 32):
        result = house.compress([Int4WeightOnly(Int4WeightOnlyConfig(group_size=size))])
        found = result.model.bert.encoder.layer[0].attention.self.query.weight.dequantize().detach()
        errors.append(float((found - original).square().mean()))
    assert errors == sorted(errors) and errors[0] < errors[2] / 1.5


def test_packing_puts_two_weights_into_a_byte_and_loses_none() -> None:
    every = torch.cartesian_prod(torch.arange(-8, 8), torch.arange(-8, 8)).to(torch.int8).reshape(16, 32)
    packed = pack(every)
    assert packed.dtype == torch.uint8 and packed.shape == (16, 16)
    assert torch.equal(unpack(packed), every)


@pytest.mark.parametrize(("method", "bits"), [(METHODS[0], 8), (METHODS[1], 4)], ids=["int8", "int4"])
def test_the_bytes_of_a_linear_are_counted(house, tmp_path, method, bits) -> None:
    result = house.compress([method])
    store.save(result, tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate"
    parts = {k: v for k, v in stored.items() if k.startswith(name) and not k.endswith("bias")}
    small = [v for v in parts.values() if v.dtype in (torch.int8, torch.uint8)]
    assert max(v.numel() for v in small) == 64 * 32 * bits // 8
    inside = [v for k, v in stored.items() if "encoder.layer" in k and v.dtype == torch.float32]
    assert max(v.numel() for v in inside) < 32 * 32  # no float copy of a weight is left
    expected = count_parameters(house.teacher.form, house.teacher.module, None)
    assert count_parameters(result.form, store.load(tmp_path / "saved").module, None) == expected


@by_class
def test_it_ends_a_chain_and_nothing_follows(house, tmp_path, method) -> None:
    result = house.compress([DropLayers(MethodConfig()), method], StudentConfig(layers=2))
    assert result.lineage[1].notes["linears_eligible"] == result.lineage[1].notes["linears_quantised"] == 12
    store.save(result, tmp_path / "first")
    again = store.load(tmp_path / "first")
    assert again.quantised and np.array_equal(house.logits(again), house.logits(result))
    store.save(again, tmp_path / "second")
    assert np.array_equal(house.logits(store.load(tmp_path / "second")), house.logits(result))
    with pytest.raises(Incompatible, match="quantised, which is final"):
        house.check([method, DropLayers(MethodConfig())], StudentConfig(layers=2))


def test_transformers_reads_int8_and_is_kept_from_misreading_int4(house, tmp_path) -> None:
    from transformers import AutoModelForSequenceClassification

    folders = [tmp_path / "int8", tmp_path / "int4"]
    results = [house.compress([method]) for method in METHODS]
    for result, folder in zip(results, folders, strict=True):
        store.save(result, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folders[0]).eval()
    assert np.array_equal(house.logits(dataclasses.replace(results[0], module=model)), house.logits(results[0]))
    assert json.loads((folders[1] / "config.json").read_text())["model_type"] == store.MODEL_TYPE


@by_class
def test_an_export_computes_the_same(house, tmp_path, method) -> None:
    house = TinyHouse(tmp_path / "shallow", layers=1)
    result = house.compress([method])
    store.save(result, tmp_path / "saved")
    assert not any(m.weight.requires_grad for m in encoder_linears(result.model).values())
    again = store.load(tmp_path / "saved")
    export_onnx(again.model, again.tokenizer, tmp_path / "onnx")  # raises where logits differ by more than 1e-4


def test_a_group_that_does_not_divide_the_widths_is_refused_before_work_with_those_that_do(house) -> None:
    with pytest.raises(Incompatible, match=r"group_size=64 does not divide the encoder's widths, 32 and 64") as told:
        house.check([Int4WeightOnly(Int4WeightOnlyConfig(group_size=64))])  # 64 divides the inputs of ffn_out alone
    assert told.value.allowed == "8, 16, 32"


def test_linears_left_out_are_counted_where_fewer_are_allowed(house) -> None:
    lax = Int4WeightOnly(Int4WeightOnlyConfig(group_size=64, minimum_share=0.1))
    assert house.compress([lax]).lineage[0].notes["linears_quantised"] == 4


@by_class
def test_a_missing_library_is_named_with_its_extra_before_work(house, monkeypatch, method) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"encoder-compressor\[torchao\]"):
        house.check([method])


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        (Int8WeightOnlyConfig, {"minimum_share": 1.5}, "minimum_share=1.5"),
        (Int4WeightOnlyConfig, {"minimum_share": 0.0}, "minimum_share=0.0"),
        (Int4WeightOnlyConfig, {"group_size": 4}, "group_size=4"),
        (Int4WeightOnlyConfig, {"group_size": 33}, "group_size=33"),
    ],
)
def test_options_out_of_range_are_named(config, options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**options)


def test_a_token_task_quantises_too(house) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks import build_task
    from compressor.testing.tiny import tiny_bert

    house.task = build_task(TaskConfig(name="tags", type="token_classification", max_length=32), ("O", "B-X"))
    module = tiny_bert(layers=4, tokens=True, **house.task.config_overrides()).eval()
    house.teacher = dataclasses.replace(house.teacher, module=module, config=module.config, head=house.task.head)
    assert house.compress([METHODS[1]]).lineage[0].notes["linears_quantised"] == 24


@pytest.mark.parametrize("family", FAMILIES)
@by_class
def test_every_family_is_quantised_and_reloads(tmp_path, family, method) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    result = house.compress([method])
    notes = result.lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] >= (6 if family == "albert" else 18)
    store.save(result, tmp_path / "saved")
    with torch.inference_mode():
        found, expected, before = (
            a.model(**tiny_inputs()).logits for a in (store.load(tmp_path / "saved"), result, house.teacher)
        )
    assert torch.equal(found, expected)
    assert 0 < float((expected - before).abs().max()) < 1.5
