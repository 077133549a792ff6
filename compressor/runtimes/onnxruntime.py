"""ONNX Runtime on the CPU provider; int8 files run as they are, everything else in float32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.artifact import Form
from compressor.runtimes.base import Inputs, Logits, ModelOpener, Runtime, Session, readable, the_only

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxRuntime(Runtime):
    """Execute an ONNX file: the artifact's own, or the export of a torch artifact."""

    name = "onnxruntime"
    forms = frozenset({Form.torch, Form.onnx})
    needs_export = True
    libraries = ("onnx", "onnxscript", "onnxruntime")

    def available(self) -> str | None:
        return None

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        # Spinning threads would steal the cores from the other candidates of an interleaved run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        path = the_only(folder, ".onnx")
        with readable(path):
            return OnnxSession(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


class OnnxSession(Session):
    """An inference session whose first output is the logits."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._names = tuple(i.name for i in session.get_inputs())
        self._output = session.get_outputs()[0].name

    def run(self, inputs: Inputs) -> Logits:
        logits: Logits = self._session.run([self._output], {name: inputs[name] for name in self._names})[0]
        return logits
