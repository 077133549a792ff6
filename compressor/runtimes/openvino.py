"""OpenVINO on the CPU. Precision is set: left alone, it picks bfloat16 in silence where the CPU has it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.artifact import Form
from compressor.errors import MeasureError, MissingExtra
from compressor.installed import require, wrong_version
from compressor.machine import native_bf16
from compressor.runtimes.base import Inputs, Logits, ModelOpener, Runtime, Session, readable, the_only
from compressor.runtimes.torch_eager import NO_BF16
from compressor.telemetry import import_openvino

if TYPE_CHECKING:
    from openvino import CompiledModel


class OpenVino(Runtime):
    """Execute OpenVINO's own format, an ONNX file, or the export of a torch artifact."""

    name = "openvino"
    forms = frozenset({Form.torch, Form.onnx, Form.openvino})
    needs_export = True
    libraries = ("onnx", "onnxscript", "openvino")

    def available(self) -> str | None:
        return wrong_version("openvino") if find_spec("openvino") else "openvino is not installed"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        if find_spec("openvino") is None:
            raise MissingExtra.of("openvino", "openvino")
        require({"openvino"})
        core = import_openvino().Core()
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # at each call it would go back to the cores it was compiled on
        }
        path = the_only(folder, ".xml" if form is Form.openvino else ".onnx")
        with readable(path):
            compiled = core.compile_model(core.read_model(path), "CPU", settings)
        if not compiled.outputs:
            raise MeasureError(f"{path} has no output")
        return OpenVinoSession(compiled)


class OpenVinoBf16(OpenVino):
    """The same in bfloat16, where the CPU has it."""

    name = "openvino_bf16"
    precision = "bf16"

    def available(self) -> str | None:
        return super().available() or (None if native_bf16("cpu") else NO_BF16)


class OpenVinoSession(Session):
    """A compiled model with one request; its only output is the logits."""

    def __init__(self, compiled: CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._names = tuple(i.get_any_name() for i in compiled.inputs)

    def run(self, inputs: Inputs) -> Logits:
        outputs = self._request.infer({name: inputs[name] for name in self._names}, share_inputs=True)
        return np.array(outputs[0], dtype=np.float32)  # a copy: the request reuses its buffer

    def close(self) -> None:
        del self._request
