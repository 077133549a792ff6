"""bitsandbytes: LLM.int8() and NF4 by the papers' formulas, saved and loaded as often as one likes."""

from __future__ import annotations

import dataclasses
import json
from statistics import NormalDist

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor import store
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible, MeasureError, MissingExtra
from compressor.measure.size import count_parameters
from compressor.runtimes.export import export_onnx
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder, tiny_inputs
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor_plugins.bnb import BnbInt8, BnbInt8Config, BnbNf4, BnbNf4Config
from compressor_plugins.drop_layers import DropLayers, MethodConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig

METHODS = [BnbInt8(BnbInt8Config()), BnbNf4(BnbNf4Config())]
by_class = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@parametrize_with_checks(METHODS)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


def wide(house: TinyHouse, **shape) -> TinyHouse:
    torch.manual_seed(1)
    module = tiny_bert(**({"layers": 2, "hidden": 64} | shape), **house.task.config_overrides()).eval()
    house.teacher = dataclasses.replace(house.teacher, module=module, config=module.config)
    return house


def normal_float_values() -> np.ndarray:
    """The 16 values of NF4 as the paper describes them: evenly spaced quantiles of N(0, 1), 8 above 0, 7 below, and 0 itself.

    The outermost quantile lies half way between those that 15 and 16 bins would have.
    """
    edge = 1 - (1 / 30 + 1 / 32) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(edge, 0.5, 9)[:-1]]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(edge, 0.5, 8)[:-1]]
    values = np.sort([*below, 0.0, *above])
    return (values / np.abs(values).max()).astype(np.float32)


def nf4(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The formula in numpy: values computed with, and the size of each one's block; blocks of 64 run on through the rows."""
    flat = weight.reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
    size = np.abs(blocks).max(axis=1, keepdims=True)
    values = normal_float_values()
    nearest = values[np.abs((blocks / size)[:, :, None] - values).argmin(axis=-1)]
    shaped = [(a * np.ones_like(blocks)).reshape(-1)[: len(flat)].reshape(weight.shape) for a in (nearest * size, size)]
    return shaped[0], shaped[1]


def test_the_values_of_nf4_are_those_of_appendix_e(house) -> None:
    result = house.compress([BnbNf4(BnbNf4Config())])
    codes = result.model.bert.encoder.layer[0].output.dense.weight.quant_state.code.numpy()
    appendix_e = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    np.testing.assert_allclose(codes[:5], appendix_e, rtol=1e-6)
    np.testing.assert_allclose(codes, normal_float_values(), atol=1e-6)


@pytest.mark.parametrize(("hidden", "heads"), [(64, 4), (32, 4), (48, 4), (30, 2), (56, 4)])
def test_nf4_weights_are_those_of_the_formula_whatever_the_width(house, hidden, heads) -> None:
    before = encoder_linears(wide(house, hidden=hidden, heads=heads).teacher.model)
    result = house.compress([BnbNf4(BnbNf4Config(double_quant=False))])
    widest_gap = np.diff(normal_float_values()).max()
    x = torch.randn(5, hidden, generator=torch.Generator().manual_seed(0))
    for name, linear in encoder_linears(result.model).items():
        original = before[name].weight.detach().numpy()
        expected, size = nf4(original)
        found = linear.float_weight().detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert (np.abs(found - original) <= size * widest_gap / 2 * 1.0001).all() and np.abs(found - original).max() > 0
        if linear.in_features == hidden:
            with torch.inference_mode():
                expected_ND = x.numpy() @ expected.T + before[name].bias.detach().numpy()
                np.testing.assert_allclose(linear(x).numpy(), expected_ND, atol=1e-6)


def test_double_quantisation_moves_block_sizes_by_little_and_saves_bytes(house, tmp_path) -> None:
    wide(house, hidden=512, layers=1)
    once, twice = (house.compress([BnbNf4(BnbNf4Config(double_quant=d))]) for d in (False, True))
    query = [r.model.bert.encoder.layer[0].attention.self.query for r in (once, twice)]
    a, b = (linear.float_weight().detach() for linear in query)
    assert 0 < (a - b).abs().max() < 0.02 * a.abs().max()
    stored = []
    for name, result in (("once", once), ("twice", twice)):
        store.save(result, tmp_path / name)
        parts = load_file(tmp_path / name / "model.safetensors")
        stored.append(sum(v.nbytes for k, v in parts.items() if "self.query.weight" in k) * 8 / (512 * 512))
    assert 4.5 < stored[0] < 4.52 and 4.127 < stored[1] < 4.18  # bits a weight; the tables of values are the rest


def outlier_product(x: np.ndarray, weight: np.ndarray, threshold: float) -> np.ndarray:
    """LLM.int8() in numpy, section 3: outlying input columns in float, the rest int8 by int8; float16 rounding as theirs."""
    x16, w16 = x.astype(np.float16).astype(np.float32), weight.astype(np.float16).astype(np.float32)
    size_w = np.abs(w16).max(axis=1, keepdims=True)
    int_w = np.round(w16 * (127 / size_w).astype(np.float32))
    outlying = (np.abs(x16) >= threshold).any(axis=0) & (threshold > 0)
    rest = np.where(np.abs(x16) >= threshold, 0, x16) if threshold else x16
    size_x = np.abs(rest).max(axis=1, keepdims=True)
    int_x = np.round((rest.astype(np.float16) * (127 / size_x).astype(np.float32)).astype(np.float32))
    int_x[:, outlying] = 0
    inner = (int_x @ int_w.T) * size_x * size_w.T / 127**2
    return inner + x[:, outlying] @ (int_w * size_w / 127)[:, outlying].T


@pytest.mark.parametrize("threshold", [0.0, 2.5])
def test_int8_products_are_those_of_the_paper(house, threshold) -> None:
    before = encoder_linears(house.teacher.model)
    result = house.compress([BnbInt8(BnbInt8Config(threshold=threshold))])
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(3))
    x[2, 5], x[4, 17] = 9.0, -7.0
    for name, linear in encoder_linears(result.model).items():
        original = before[name].weight.detach().numpy()
        w16 = original.astype(np.float16).astype(np.float32)
        size = np.abs(w16).max(axis=1, keepdims=True)
        integers = linear.weight.data.numpy()
        np.testing.assert_allclose(integers, w16 / size * 127, atol=0.501)
        error = np.abs(integers * size / 127 - original)
        assert error.max() > 0 and (error <= size / 127 * 0.501 + np.abs(original) * 2**-11).all()
        if linear.in_features == 32:
            with torch.inference_mode():
                found = linear(x).numpy() - before[name].bias.detach().numpy()
            expected = outlier_product(x.numpy(), original, threshold)
            np.testing.assert_allclose(found, expected, atol=1e-3)
            assert np.abs(found - x.numpy() @ original.T).max() > 0


def test_outlying_inputs_in_float_are_nearer_to_the_original(house) -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(3))
    x[:, 7] *= 40
    errors = []
    for threshold in (0.0, 6.0):
        result = house.compress([BnbInt8(BnbInt8Config(threshold=threshold))])
        pair = [m.bert.encoder.layer[0].attention.self.query for m in (result.model, house.teacher.model)]
        with torch.inference_mode():
            errors.append(float((pair[0](x) - pair[1](x)).abs().mean()))
    assert errors[1] < errors[0] / 1.5


@by_class
def test_it_is_saved_after_a_forward_as_before_it(house, tmp_path, method) -> None:
    result = house.compress([method])
    store.save(result, tmp_path / "first")
    logits = house.logits(result)
    store.save(result, tmp_path / "second")  # the same object, after a forward
    again = store.load(tmp_path / "second")
    assert np.array_equal(house.logits(again), logits)
    store.save(again, tmp_path / "third")  # a loaded one, after a forward
    assert np.array_equal(house.logits(store.load(tmp_path / "third")), logits)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second", "third")]
    for other in files[1:]:
        assert other.keys() == files[0].keys() and all(torch.equal(other[name], files[0][name]) for name in other)


@by_class
def test_parameters_are_counted_as_before_and_bytes_shrink(house, tmp_path, method) -> None:
    wide(house, hidden=128)
    result = house.compress([method])
    store.save(result, tmp_path / "saved")
    expected = count_parameters(house.teacher.form, house.teacher.module, None)
    assert count_parameters(result.form, store.load(tmp_path / "saved").module, None) == expected
    inside = [v for k, v in load_file(tmp_path / "saved" / "model.safetensors").items() if "encoder.layer" in k]
    assert not any(v.dtype == torch.float32 and v.numel() >= 128 * 128 for v in inside)
    assert result.lineage[0].notes == {"linears_quantised": 12, "linears_eligible": 12}
    kinds = {name: type(m) for name, m in result.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert kinds["classifier"] is kinds["bert.pooler.dense"] is torch.nn.Linear  # a head of two classes stays as it is


@by_class
def test_transformers_reads_the_folder_to_the_last_bit(house, tmp_path, method) -> None:
    from transformers import AutoModelForSequenceClassification

    result = wide(house).compress([method])
    store.save(result, tmp_path / "saved")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    for module in theirs.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # compute in float32, as this package does
    assert type(theirs.bert.encoder.layer[0].output.dense).__module__ == "bitsandbytes.nn.modules"
    assert np.array_equal(house.logits(dataclasses.replace(result, module=theirs)), house.logits(result))


def test_a_width_that_transformers_would_misread_is_kept_from_it(house, tmp_path) -> None:
    result = house.compress([BnbNf4(BnbNf4Config())])  # 32 inputs: blocks of 64 cross rows
    store.save(result, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == store.MODEL_TYPE
    assert np.array_equal(house.logits(store.load(tmp_path / "saved")), house.logits(result))


@by_class
def test_it_ends_a_chain_and_nothing_follows(house, tmp_path, method) -> None:
    result = house.compress([DropLayers(MethodConfig()), method], StudentConfig(layers=2))
    store.save(result, tmp_path / "saved")
    assert np.array_equal(house.logits(store.load(tmp_path / "saved")), house.logits(result))
    for after in (DropLayers(MethodConfig()), Int8Dynamic(Int8DynamicConfig()), method):
        with pytest.raises(Incompatible, match="quantised, which is final"):
            house.check([method, after], StudentConfig(layers=2))


@by_class
def test_an_export_is_refused_in_the_exporters_words(house, tmp_path, method) -> None:
    result = wide(house, layers=1).compress([method])
    with pytest.raises(MeasureError, match=r"No ONNX function found for <OpOverload\(op='bitsandbytes\."):
        export_onnx(result.model, result.tokenizer, tmp_path / "onnx")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@by_class
def test_cuda_computes_what_the_cpu_does(house, tmp_path, method) -> None:
    result = wide(house).compress([method])
    store.save(result, tmp_path / "saved")
    inputs = house.batch(result).inputs
    with torch.inference_mode():
        expected = result.model(**inputs).logits
        model = store.load(tmp_path / "saved").model.cuda()
        found = model(**{name: values.cuda() for name, values in inputs.items()}).logits
        original = house.teacher.model(**inputs).logits
    assert found.device.type == "cuda"
    assert (expected - original).abs().max() > 0
    torch.testing.assert_close(
        found.float().cpu(), expected, rtol=0, atol=0.5 * float((expected - original).abs().max())
    )


@by_class
def test_a_missing_library_is_named_with_its_extra_before_work(house, monkeypatch, method) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"encoder-compressor\[bitsandbytes\]"):
        house.check([method])


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        (BnbInt8Config, {"threshold": -1.0}, "threshold=-1.0"),
        (BnbInt8Config, {"minimum_share": 0.0}, "minimum_share=0.0"),
        (BnbNf4Config, {"minimum_share": 2.0}, "minimum_share=2.0"),
    ],
)
def test_options_out_of_range_are_named(config, options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        config(**options)


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
