"""Exports: right for every head and family, with what the files must and must not hold."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from compressor.artifact import Form
from compressor.errors import MeasureError
from compressor.runtimes import get_runtime
from compressor.runtimes.export import _check_against_torch, export_onnx
from compressor.testing.tiny import tiny_bert, tiny_tokenizer

SIZES = {"vocab_size": 40, "max_position_embeddings": 80, "num_labels": 3}
BERT_LIKE = SIZES | {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def family(name: str) -> Any:
    import transformers as t

    if name == "roberta":
        return t.RobertaForSequenceClassification(t.RobertaConfig(**BERT_LIKE))
    if name == "mpnet":
        return t.MPNetForSequenceClassification(t.MPNetConfig(**BERT_LIKE))
    if name == "electra":
        return t.ElectraForSequenceClassification(t.ElectraConfig(embedding_size=8, **BERT_LIKE))
    config = t.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SIZES)
    return t.DistilBertForSequenceClassification(config)


def inputs(tokens: list[int], padded: int = 0) -> dict[str, np.ndarray]:
    ids = np.array([tokens + [0] * padded], np.int64)
    return {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": (ids != 0).astype(np.int64)}


@pytest.mark.parametrize("tokens", [False, True])
def test_bert_heads_run_alike_on_every_runtime(tmp_path: Path, tokens: bool) -> None:
    torch.manual_seed(0)
    model = tiny_bert(layers=2, labels=3, tokens=tokens).train()
    path = export_onnx(model, tiny_tokenizer(), tmp_path)
    assert model.training
    model.eval()
    batch = inputs([2, 7, 8, 9, 3], padded=2)
    with get_runtime("torch").load(tmp_path, Form.torch, 1, open_model=lambda _: model) as session:
        expected = session.run(batch)
    for name in ("onnxruntime", "openvino"):
        if why := get_runtime(name).available():
            pytest.skip(why)
        with get_runtime(name).load(path.parent, Form.torch, 1) as session:
            np.testing.assert_allclose(session.run(batch), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["roberta", "mpnet", "electra", "distilbert"])
def test_families(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    path = export_onnx(family(name), tiny_tokenizer(), tmp_path)
    graph = onnx.load(str(path)).graph
    names = [i.name for i in graph.input]
    assert names == [
        n
        for n in ("input_ids", "token_type_ids", "attention_mask")
        if n != "token_type_ids" or name in ("electra", "roberta")
    ]
    assert [o.name for o in graph.output] == ["logits"]
    assert not graph.value_info
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_an_export_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    export_onnx(tiny_bert(layers=1), tiny_tokenizer(), tmp_path)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


def test_a_file_that_differs_from_torch_is_caught(tmp_path: Path) -> None:
    model = tiny_bert(layers=1).eval()
    path = export_onnx(model, tiny_tokenizer(), tmp_path)
    with torch.no_grad():
        model.classifier.bias += 0.001
    with pytest.raises(MeasureError, match="differs from torch by 1.0e-03"):
        _check_against_torch(model, ["input_ids", "token_type_ids", "attention_mask"], path)


def test_what_cannot_be_exported_is_a_measure_error(tmp_path: Path) -> None:
    model = tiny_bert(layers=1)
    model.bert.forward = lambda **_: 1 / 0
    with pytest.raises(MeasureError, match="ONNX export of BertForSequenceClassification failed"):
        export_onnx(model, tiny_tokenizer(), tmp_path)


def test_openvino_executes_its_own_format(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    path = export_onnx(tiny_bert(layers=1), tiny_tokenizer(), tmp_path / "onnx")
    (tmp_path / "own").mkdir()
    openvino.save_model(openvino.Core().read_model(path), tmp_path / "own" / "model.xml", compress_to_fp16=False)
    batch = inputs([2, 7, 8, 3], padded=1)
    with get_runtime("onnxruntime").load(path.parent, Form.torch, 1) as session:
        expected = session.run(batch)
    with get_runtime("openvino").load(tmp_path / "own", Form.openvino, 1) as session:
        np.testing.assert_allclose(session.run(batch), expected, atol=1e-5)
