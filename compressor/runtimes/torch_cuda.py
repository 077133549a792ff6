"""PyTorch on a CUDA device: the saved module in eager mode or compiled, in float32, float16 or bfloat16.

A call begins with tokens in the host's memory and ends with logits there, which is what a caller waits for. Reading the
logits waits for the device, so nothing of a call is left running when the next one starts.
"""

from __future__ import annotations

from pathlib import Path

from compressor.artifact import Form
from compressor.machine import native_bf16
from compressor.runtimes.base import ModelOpener, Session
from compressor.runtimes.torch_compile import compile_for_every_length
from compressor.runtimes.torch_eager import TorchEager, TorchSession


class TorchCuda(TorchEager):
    """Execute a torch artifact on the first visible CUDA device, without TF32."""

    name = "torch_cuda"
    device = "cuda"

    def available(self) -> str | None:
        import torch

        return None if torch.cuda.is_available() else "torch sees no CUDA device"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        import torch

        torch.set_float32_matmul_precision("highest")
        return super().load(folder, form, threads, open_model=open_model)


class TorchFp16Cuda(TorchCuda):
    """The same with weights and arithmetic in float16."""

    name = "torch_fp16_cuda"
    precision = "fp16"


class TorchBf16Cuda(TorchCuda):
    """The same in bfloat16, where the device has it."""

    name = "torch_bf16_cuda"
    precision = "bf16"

    def available(self) -> str | None:
        return super().available() or _no_bf16()


class TorchCompileCuda(TorchCuda):
    """The saved module, compiled for every length by torch.compile."""

    name = "torch_compile_cuda"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        session = super().load(folder, form, threads, open_model=open_model)
        assert isinstance(session, TorchSession)
        compile_for_every_length(session.model)
        return session


class TorchCompileFp16Cuda(TorchCompileCuda):
    """The same in float16."""

    name = "torch_compile_fp16_cuda"
    precision = "fp16"


class TorchCompileBf16Cuda(TorchCompileCuda):
    """The same in bfloat16, where the device has it."""

    name = "torch_compile_bf16_cuda"
    precision = "bf16"

    def available(self) -> str | None:
        return super().available() or _no_bf16()


def _no_bf16() -> str | None:
    return None if native_bf16("cuda") else "this device has no bfloat16 arithmetic"
