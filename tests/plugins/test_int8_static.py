"""Static int8 in OpenVINO: integers on both sides of every linear, on shapes that were cut too, and nobody is told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compressor.artifact import Form
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import ConfigError, Incompatible, MissingExtra
from compressor.surgery import encoder_layers, keep_heads, keep_neurons
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_bert
from compressor_plugins import int8_static
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.int8_static import Int8Static, Int8StaticConfig, Preset

QUICK = Int8StaticConfig(examples=4)
LARGER_TEXT = (
    "the .xml describes a graph of 1,000 nodes, which outweighs the weights of so small a model; bytes are tested below"
)


@parametrize_with_checks([Int8Static(QUICK)], expected_failures={"gets_smaller_or_sparser": LARGER_TEXT})
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def larger(house: TinyHouse) -> TinyHouse:
    torch.manual_seed(0)
    module = tiny_bert(layers=2, hidden=128, vocabulary=3000).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    return house


@pytest.mark.parametrize(
    "options", [Int8StaticConfig(examples=4), Int8StaticConfig(examples=4, preset=Preset.performance, smooth=0.0)]
)
def test_every_linear_is_counted_and_the_tables_shrink_too(tmp_path: Path, options: Int8StaticConfig) -> None:
    import openvino

    house = larger(TinyHouse(tmp_path))
    result = house.compress([Int8Static(options)])
    notes = result.lineage[0].notes
    assert notes["linears_eligible"] == notes["linears_quantised"] == 2 * 6 + 2 and notes["skipped"] == []
    assert (notes["calibration_examples"], notes["calibration_seed"]) == (4, 0)
    assert (result.folder / "model.bin").stat().st_size < 0.28 * notes["fp32_bytes"]
    model = openvino.Core().read_model(result.folder / "model.xml")
    kinds = [node.get_element_type().get_type_name() for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert kinds.count("i8") > 12 + 1  # linears and tables
    assert 0 < np.abs(house.logits(result) - house.logits(house.teacher)).max() < 0.02


def test_other_calibration_texts_give_another_model(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path, layers=2)
    few, more = (house.compress([Int8Static(Int8StaticConfig(examples=n))]) for n in (1, 12))
    assert (few.folder / "model.bin").read_bytes() != (more.folder / "model.bin").read_bytes()


def test_a_float_linear_is_not_counted(tmp_path: Path) -> None:
    import openvino

    from compressor.runtimes.export import export_onnx
    from compressor.testing.tiny import tiny_tokenizer

    torch.manual_seed(0)
    path = export_onnx(tiny_bert(layers=1), tiny_tokenizer(), tmp_path)
    found = int8_static.linears(openvino.Core().read_model(path))
    assert len(found) == 6 + 2 and not any(found.values())


def test_the_rows_of_a_table_are_inputs_and_its_product_counts() -> None:
    import openvino.opset13 as ops
    from openvino import Model, Type

    ids = ops.parameter([2], Type.i64, name="ids")
    table, weight = (ops.constant(np.ones(shape, np.float32)) for shape in ((5, 4), (4, 3)))
    product = ops.matmul(ops.gather(table, ids, ops.constant(0)), weight, False, False, name="product")
    assert int8_static.linears(Model([product], [ids])) == {"product": False}


def test_cut_layers_are_quantised_as_they_are(tmp_path: Path) -> None:
    house = TinyHouse(tmp_path, layers=2)
    layers = encoder_layers(house.teacher.model)
    keep_heads(house.teacher.model, layers[0], [1, 3])
    keep_neurons(house.teacher.model, layers[1], list(range(0, 64, 3)))
    result = house.compress([Int8Static(QUICK)])
    assert result.lineage[0].notes["linears_quantised"] == 14
    assert np.abs(house.logits(result) - house.logits(house.teacher)).max() < 0.01


def test_after_layers_distillation_and_heads(tmp_path: Path) -> None:
    from compressor_plugins.prune_heads import PruneHeads, PruneHeadsConfig

    house = TinyHouse(tmp_path)
    heads = PruneHeads(PruneHeadsConfig())
    result = house.compress(
        [DropLayers(MethodConfig()), Distill(DistillConfig()), heads, Int8Static(QUICK)], StudentConfig(layers=2)
    )
    assert result.form is Form.openvino and result.lineage[3].notes["linears_quantised"] == 2 * 6 + 2


def test_after_ffn_pruning_and_recovery(tmp_path: Path) -> None:
    from compressor_plugins.prune_ffn import PruneFfn, PruneFfnConfig

    result = TinyHouse(tmp_path).compress([PruneFfn(PruneFfnConfig()), Distill(DistillConfig()), Int8Static(QUICK)])
    assert result.form is Form.openvino and result.lineage[2].notes["linears_quantised"] == 4 * 6 + 2


def test_shared_weights_are_quantised_and_stored_once(tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    torch.manual_seed(0)
    config = AlbertConfig(
        vocab_size=64, embedding_size=16, hidden_size=160, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=320, max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    house = TinyHouse(tmp_path)
    module = AlbertForSequenceClassification(config).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config)
    result = house.compress([Int8Static(QUICK)])
    assert result.lineage[0].notes["linears_quantised"] >= 20
    layer = 4 * 160 * 160 + 2 * 160 * 320
    assert (result.folder / "model.bin").stat().st_size < 1.5 * layer


def test_too_few_integers_are_an_error_that_names_the_rest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(int8_static, "quantize", lambda model, feeds, options: model)
    with pytest.raises(Incompatible, match="0 of 26 eligible linears.*MatMul"):
        TinyHouse(tmp_path).compress([Int8Static(QUICK)])


def test_without_the_extra_the_error_names_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtra, match="openvino"):
        int8_static._libraries()


def test_nothing_is_reported_to_anybody_and_logging_stays_as_it_was(tmp_path: Path) -> None:
    code = (
        "import logging, sys\n"
        "from compressor_plugins.int8_static import _libraries\n"
        "_libraries()\n"
        "from nncf.telemetry.wrapper import telemetry, NNCFTelemetryStub\n"
        "assert isinstance(telemetry, NNCFTelemetryStub), telemetry\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert logging.getLoggerClass() is logging.Logger\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert not list(tmp_path.iterdir())  # no client id was written


@pytest.mark.parametrize(
    ("options", "told"),
    [({"examples": 0}, "examples=0"), ({"smooth": 1.5}, "smooth=1.5"), ({"minimum_share": 2.0}, "minimum_share=2.0")],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        Int8StaticConfig(**options)


@pytest.mark.parametrize("name", ["MPNet", "DebertaV2"])
def test_other_families_are_quantised(tmp_path: Path, name: str) -> None:
    import transformers

    sizes = {"vocab_size": 40, "max_position_embeddings": 64, "num_labels": 2}
    sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if name == "DebertaV2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForSequenceClassification")(
        getattr(transformers, f"{name}Config")(**sizes)
    ).eval()
    house = TinyHouse(tmp_path)
    house.teacher = replace(house.teacher, module=module, config=module.config)
    notes = house.compress([Int8Static(QUICK)]).lineage[0].notes
    assert notes["linears_quantised"] >= 0.9 * notes["linears_eligible"] >= 12
