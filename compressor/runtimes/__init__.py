"""Runtimes by name. A new one is a file beside these and a line below; nothing else knows them."""

from __future__ import annotations

from compressor.artifact import Form
from compressor.errors import ConfigError
from compressor.runtimes.base import ModelOpener, Runtime, Session
from compressor.runtimes.onnxruntime import OnnxRuntime
from compressor.runtimes.openvino import OpenVino, OpenVinoBf16
from compressor.runtimes.torch_compile import TorchCompile
from compressor.runtimes.torch_cuda import (
    TorchBf16Cuda,
    TorchCompileBf16Cuda,
    TorchCompileCuda,
    TorchCompileFp16Cuda,
    TorchCuda,
    TorchFp16Cuda,
)
from compressor.runtimes.torch_eager import TorchBf16, TorchEager

_CPU = TorchEager(), OnnxRuntime(), OpenVino(), TorchCompile(), TorchBf16(), OpenVinoBf16()
_CUDA = (
    TorchCuda(),
    TorchFp16Cuda(),
    TorchBf16Cuda(),
    TorchCompileCuda(),
    TorchCompileFp16Cuda(),
    TorchCompileBf16Cuda(),
)
RUNTIMES: dict[str, Runtime] = {r.name: r for r in (*_CPU, *_CUDA)}

# The runtime a form is scored in: the one that executes the saved bytes themselves.
_CANONICAL = {Form.torch: "torch", Form.onnx: "onnxruntime", Form.openvino: "openvino"}


def get_runtime(name: str) -> Runtime:
    """Look up a runtime.

    Raises:
        ConfigError: No such runtime.
    """
    if name not in RUNTIMES:
        raise ConfigError(f"bench.runtimes={name}", allowed=", ".join(RUNTIMES))
    return RUNTIMES[name]


def runtime_for(form: Form) -> Runtime:
    """Return the runtime that executes the saved artifact without any conversion."""
    return RUNTIMES[_CANONICAL[form]]


__all__ = ["RUNTIMES", "ModelOpener", "Runtime", "Session", "runtime_for", "get_runtime"]
