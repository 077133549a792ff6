"""int8 in torchao: the paper's grid, one scale a token, a folder that transformers alone reads."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor import store
from compressor.config import StudentConfig
from compressor.errors import ConfigError, Incompatible, MeasureError, MissingExtra
from compressor.runtimes.export import export_onnx
from compressor.surgery import encoder_linears
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder, tiny_inputs
from compressor.testing.house import TinyHouse
from compressor_plugins.drop_layers import DropLayers, MethodConfig
from compressor_plugins.int8_torchao import Int8Torchao, Int8TorchaoConfig

LOAD_WITH_TRANSFORMERS = """
import sys
import numpy as np, torch, transformers
folder, inputs, out = sys.argv[1:]
whole = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
encoder = transformers.AutoModel.from_pretrained(folder).eval()
assert not any(name.partition(".")[0].startswith("compressor") for name in sys.modules)
tensors = {k: torch.from_numpy(v) for k, v in np.load(inputs).items()}
with torch.inference_mode():
    np.savez(out, logits=whole(**tensors).logits, hidden=encoder(**tensors).last_hidden_state)
"""


@parametrize_with_checks([Int8Torchao(Int8TorchaoConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


def quantised(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The docstring's formula in numpy; [N, K] float32 -> int8 values and [N, 1] scales."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127.5)
    return np.clip(np.round(weight * (1 / scale)), -128, 127), scale  # not weight / scale: ties would fall elsewhere


def test_weights_are_those_of_the_formula_and_off_by_half_a_step(house) -> None:
    before = encoder_linears(house.teacher.model)
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    for name, linear in encoder_linears(result.model).items():
        original = before[name].weight.detach().numpy()
        integers, scale = quantised(original)
        assert np.array_equal(linear.weight.qdata.numpy(), integers)
        np.testing.assert_allclose(linear.weight.scale.numpy(), scale, rtol=1e-6)
        error = np.abs(linear.weight.dequantize().detach().numpy() - original)
        assert (error <= scale / 2 * 1.0001).all() and error.max() > 0


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_linear_computes_what_int8_arithmetic_gives(house, asymmetric) -> None:
    before = encoder_linears(house.teacher.model)
    result = house.compress([Int8Torchao(Int8TorchaoConfig(asymmetric=asymmetric))])
    name, linear = next(iter(encoder_linears(result.model).items()))
    x_ND = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)) + 0.7
    weights, weight_scale = quantised(before[name].weight.detach().numpy())
    x = x_ND.numpy()
    if asymmetric:
        low, high = np.minimum(x.min(1, keepdims=True), 0), np.maximum(x.max(1, keepdims=True), 0)
        scale = (high - low) / np.float32(255)
        zero = np.clip(-128 - np.round(low / scale), -128, 127)
    else:
        scale, zero = np.abs(x).max(1, keepdims=True) / np.float32(127.5), 0
    tokens = np.clip(np.round(x * (1 / scale)) + zero, -128, 127) - zero
    expected = (tokens @ weights.T) * scale * weight_scale.T + before[name].bias.detach().numpy()
    with torch.inference_mode():
        found = linear(x_ND).numpy()
        plain = before[name](x_ND).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert 0 < np.abs(found - plain).max() < 0.02


def test_every_linear_of_the_layers_is_int8_and_none_beside(house) -> None:
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    assert result.lineage[0].notes == {"linears_quantised": 24, "linears_eligible": 24}
    kinds = {
        name: type(m.weight).__name__ for name, m in result.model.named_modules() if isinstance(m, torch.nn.Linear)
    }
    assert {name for name, kind in kinds.items() if kind == "Int8Tensor"} == set(encoder_linears(result.model))
    assert kinds["classifier"] == kinds["bert.pooler.dense"] == "Parameter"


def test_an_example_does_not_depend_on_its_batch_mates(house) -> None:
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    batch = house.batch(result)
    with torch.inference_mode():
        together = result.model(**batch.inputs).logits
        alone = result.model(**{k: v[:1] for k, v in batch.inputs.items()}).logits
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_transformers_alone_reads_the_folder_to_the_last_bit(house, tmp_path) -> None:
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    store.save(result, tmp_path / "saved")
    assert (
        json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    )
    inputs = house.batch(result).inputs
    np.savez(tmp_path / "inputs.npz", **{k: v.numpy() for k, v in inputs.items()})
    paths = [str(tmp_path / name) for name in ("saved", "inputs.npz", "out.npz")]
    command = [sys.executable, "-c", LOAD_WITH_TRANSFORMERS, *paths]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = np.load(tmp_path / "out.npz")
    with torch.inference_mode():
        assert np.array_equal(found["logits"], result.model(**inputs).logits.numpy())
        assert np.array_equal(found["hidden"], result.model.base_model(**inputs).last_hidden_state.numpy())


def test_it_ends_a_chain_that_people_use(house, tmp_path) -> None:
    chain = [DropLayers(MethodConfig()), Int8Torchao(Int8TorchaoConfig())]
    result = house.compress(chain, StudentConfig(layers=2))
    assert result.lineage[1].notes["linears_eligible"] == 12
    store.save(result, tmp_path / "saved")
    assert np.array_equal(house.logits(store.load(tmp_path / "saved")), house.logits(result))
    with pytest.raises(Incompatible, match="quantised, which is final"):
        house.check([Int8Torchao(Int8TorchaoConfig()), Int8Torchao(Int8TorchaoConfig())])


def test_saving_again_after_a_forward_changes_nothing(house, tmp_path) -> None:
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    store.save(result, tmp_path / "first")
    again = store.load(tmp_path / "first")
    before = house.logits(again)
    store.save(again, tmp_path / "second")
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "second")]
    assert files[0].keys() == files[1].keys() and all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert np.array_equal(house.logits(store.load(tmp_path / "second")), before)


def test_too_few_quantised_linears_are_an_error_that_names_the_rest(house, monkeypatch) -> None:
    import torchao.quantization

    real = torchao.quantization.quantize_

    def lazy(model, settings, filter_fn):
        real(model, settings, filter_fn=lambda module, name: filter_fn(module, name) and "layer.0" not in name)

    monkeypatch.setattr(torchao.quantization, "quantize_", lazy)
    with pytest.raises(Incompatible, match=r"18 of 24 eligible linears.*layer\.0\.attention\.self\.query"):
        house.compress([Int8Torchao(Int8TorchaoConfig())])
    assert (
        house.compress([Int8Torchao(Int8TorchaoConfig(minimum_share=0.5))]).lineage[0].notes["linears_quantised"] == 18
    )


def test_an_export_is_refused_in_the_exporters_words(tmp_path) -> None:
    result = TinyHouse(tmp_path, layers=1).compress([Int8Torchao(Int8TorchaoConfig())])
    with pytest.raises(MeasureError, match=r"No ONNX function found for <OpOverload\(op='aten\._int_mm'"):
        export_onnx(result.model, result.tokenizer, tmp_path / "onnx")


def test_a_missing_library_is_named_with_its_extra_before_work(house, monkeypatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"encoder-compressor\[torchao\]"):
        house.check([Int8Torchao(Int8TorchaoConfig())])


def test_a_share_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="minimum_share"):
        Int8TorchaoConfig(minimum_share=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_quantised_and_reloads(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    result = house.compress([Int8Torchao(Int8TorchaoConfig())])
    notes = result.lineage[0].notes
    assert notes["linears_quantised"] == notes["linears_eligible"] >= (6 if family == "albert" else 18)
    store.save(result, tmp_path / "saved")
    with torch.inference_mode():
        found, expected, before = (
            a.model(**tiny_inputs()).logits for a in (store.load(tmp_path / "saved"), result, house.teacher)
        )
    assert torch.equal(found, expected)
    assert 0 < float((expected - before).abs().max()) < 1.5
