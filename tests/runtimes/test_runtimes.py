"""The table of runtimes: what each takes and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from compressor.artifact import Form
from compressor.config import RUNTIMES as CONFIGURED
from compressor.errors import ConfigError, MeasureError, MissingExtra
from compressor.runtimes import RUNTIMES, get_runtime, runtime_for
from compressor.runtimes import openvino as openvino_file


def test_the_config_and_the_table_name_the_same_runtimes() -> None:
    assert tuple(RUNTIMES) == CONFIGURED


def test_each_form_has_a_runtime_that_executes_its_own_bytes() -> None:
    assert {form: runtime_for(form).name for form in Form} == {
        Form.torch: "torch",
        Form.onnx: "onnxruntime",
        Form.openvino: "openvino",
    }
    for form in Form:
        assert runtime_for(form).accepts(form)
    assert not RUNTIMES["torch"].accepts(Form.onnx)


def test_an_unknown_runtime_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="torch, onnxruntime, openvino"):
        get_runtime("tensorrt")


def test_a_folder_without_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="exactly one"):
        RUNTIMES["onnxruntime"].load(tmp_path, Form.onnx, 1)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_file, "find_spec", lambda _: None)
    assert RUNTIMES["openvino"].available()
    with pytest.raises(MissingExtra, match=r"encoder-compressor\[openvino\]"):
        RUNTIMES["openvino"].load(tmp_path, Form.openvino, 1)
