"""Half precision on disk: values rounded as the formats say, half the bytes, float32 wherever it runs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from compressor import store
from compressor.config import StudentConfig
from compressor.errors import Incompatible
from compressor.measure.size import count_parameters
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder, tiny_inputs
from compressor.testing.house import TinyHouse
from compressor_plugins.drop_layers import DropLayers, MethodConfig
from compressor_plugins.half import Half, HalfConfig, HalfType

KINDS = pytest.mark.parametrize("kind", list(HalfType))


@parametrize_with_checks([Half(HalfConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


def rounded(values: np.ndarray, kind: HalfType) -> np.ndarray:
    """Round float32 to the nearest value of the format, ties to even, by its bits."""
    if kind is HalfType.fp16:
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return (upper << 16).astype(np.uint32).view(np.float32)


@KINDS
def test_weights_are_rounded_to_the_nearest_value_of_the_format(house, kind) -> None:
    result = house.compress([Half(HalfConfig(dtype=kind))])
    before = house.teacher.model.state_dict()
    largest = 0.0
    for name, after in result.model.state_dict().items():
        original = before[name].numpy()
        assert after.dtype == before[name].dtype
        if after.dtype != torch.float32:
            continue
        assert np.array_equal(after.numpy(), rounded(original, kind)), name
        normal = np.abs(original) > 2.0**-14  # fp16 holds smaller ones with fewer digits
        error = np.abs(after.numpy() - original)[normal] / np.abs(original)[normal]
        largest = max(largest, float(error.max(initial=0.0)))
    unit = 2.0**-8 if kind is HalfType.bf16 else 2.0**-11
    assert unit / 4 < largest <= unit


@KINDS
def test_the_file_is_half_as_large_and_reads_back_as_float32(house, tmp_path, kind) -> None:
    result = house.compress([Half(HalfConfig(dtype=kind))])
    store.save(house.teacher, tmp_path / "teacher")
    store.save(result, tmp_path / "half")
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("teacher", "half"))
    assert whole.keys() == half.keys()
    assert sum(v.nbytes for v in half.values()) * 2 == sum(v.nbytes for v in whole.values())
    again = store.load(tmp_path / "half")
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert np.array_equal(house.logits(again), house.logits(result))
    assert count_parameters(again.form, again.module, None) == count_parameters(
        house.teacher.form, house.teacher.module, None
    )
    store.save(again, tmp_path / "again")
    twice = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(twice[name], value) for name, value in half.items())


@KINDS
def test_transformers_reads_the_folder_and_widens_it(house, tmp_path, kind) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification

    result = house.compress([Half(HalfConfig(dtype=kind))])
    store.save(result, tmp_path / "half")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "half").eval()
    assert model.dtype == torch.float32
    assert np.array_equal(house.logits(dataclasses.replace(result, module=model)), house.logits(result))
    assert AutoModel.from_pretrained(tmp_path / "half", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_weight_beyond_fp16_is_refused_and_fits_bf16(house) -> None:
    with torch.no_grad():
        house.teacher.model.classifier.weight[0, 0] = 70_000.0
    with pytest.raises(Incompatible, match=r"classifier\.weight holds 7e\+04") as caught:
        house.compress([Half(HalfConfig(dtype=HalfType.fp16))])
    assert "method.half.dtype=bf16" in str(caught.value)
    wide = house.compress([Half(HalfConfig(dtype=HalfType.bf16))])
    assert wide.model.classifier.weight[0, 0].item() == 70_144


def test_it_ends_a_chain_and_nothing_follows(house, tmp_path) -> None:
    result = house.compress([DropLayers(MethodConfig()), Half(HalfConfig())], StudentConfig(layers=2))
    store.save(result, tmp_path / "saved")
    assert np.array_equal(house.logits(store.load(tmp_path / "saved")), house.logits(result))
    with pytest.raises(Incompatible, match="put 'drop_layers' before 'half'"):
        house.check([Half(HalfConfig()), DropLayers(MethodConfig())], StudentConfig(layers=2))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_stored_in_half(tmp_path, family) -> None:
    house = house_of(tmp_path, tiny_encoder(family))
    result = house.compress([Half(HalfConfig())])
    store.save(result, tmp_path / "saved")
    again = store.load(tmp_path / "saved")
    with torch.inference_mode():
        found, expected = (a.model(**tiny_inputs()).logits for a in (again, result))
    assert torch.equal(found, expected)
    assert {v.dtype for v in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.float16}
