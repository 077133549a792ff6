"""PyTorch on a CUDA device: the saved module in eager mode or compiled, in float32, float16 or bfloat16.

A call begins with tokens in the host's memory and ends with logits there, which is what a caller waits for. Reading the
logits waits for the device, so nothing of a call is left running when the next one starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.artifact import Form
from compressor.errors import MeasureError
from compressor.families import forward_names
from compressor.machine import native_bf16
from compressor.runtimes.base import Inputs, Logits, ModelOpener, Session
from compressor.runtimes.torch_compile import compile_for_every_length
from compressor.runtimes.torch_eager import TorchEager, is_float32

if TYPE_CHECKING:
    from torch import nn


class TorchCuda(TorchEager):
    """Execute a torch artifact on the first visible CUDA device, without TF32."""

    name = "torch_cuda"
    device = "cuda"

    def available(self) -> str | None:
        import torch

        return None if torch.cuda.is_available() else "torch sees no CUDA device"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        import torch

        if open_model is None:
            raise TypeError("the torch runtime needs open_model")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision("highest")
        model = open_model(folder)
        if self.precision != "fp32":
            if not is_float32(model):
                raise MeasureError(f"its weights are integers, whose arithmetic is not converted to {self.precision}")
            model = model.to(torch.float16 if self.precision == "fp16" else torch.bfloat16)
        return CudaSession(model)


class TorchFp16Cuda(TorchCuda):
    """The same with weights and arithmetic in float16."""

    name = "torch_fp16_cuda"
    precision = "fp16"


class TorchBf16Cuda(TorchCuda):
    """The same in bfloat16, where the device has it."""

    name = "torch_bf16_cuda"
    precision = "bf16"

    def available(self) -> str | None:
        return super().available() or (None if native_bf16("cuda") else "this device has no bfloat16 arithmetic")


class TorchCompileCuda(TorchCuda):
    """The saved module, compiled for every length by torch.compile."""

    name = "torch_compile_cuda"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        session = super().load(folder, form, threads, open_model=open_model)
        assert isinstance(session, CudaSession)
        compile_for_every_length(session.model)
        return session


class TorchCompileFp16Cuda(TorchCompileCuda):
    """The same in float16."""

    name = "torch_compile_fp16_cuda"
    precision = "fp16"


class CudaSession(Session):
    """A module in eval mode on the device, with one stream; packed and integer weights stay as the method saved them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().to("cuda")
        self._names = forward_names(model)

    def run(self, inputs: Inputs) -> Logits:
        import torch

        with torch.inference_mode():
            tensors = {k: torch.from_numpy(v).to("cuda") for k, v in inputs.items() if k in self._names}
            logits: Logits = self.model(**tensors).logits.float().cpu().numpy()
        return logits
