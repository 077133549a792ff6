"""PyTorch as it is: the saved module in eager mode, in float32 or in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from compressor.artifact import Form
from compressor.errors import MeasureError
from compressor.families import forward_names
from compressor.machine import native_bf16
from compressor.runtimes.base import Inputs, Logits, ModelOpener, Runtime, Session

if TYPE_CHECKING:
    from torch import nn

NO_BF16: Final = "this CPU has no bfloat16 arithmetic, and emulates it many times slower"


class TorchEager(Runtime):
    """Execute a torch artifact with PyTorch."""

    name = "torch"
    forms = frozenset({Form.torch})

    def available(self) -> str | None:
        return None

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        import torch

        if open_model is None:
            raise TypeError("the torch runtime needs open_model")
        torch.set_num_threads(threads)
        return TorchSession(open_model(folder), device=self.device, precision=self.precision)


class TorchBf16(TorchEager):
    """The same with floating weights and arithmetic in bfloat16; integers and their scales stay as they were saved."""

    name = "torch_bf16"
    precision = "bf16"

    def available(self) -> str | None:
        return None if native_bf16("cpu") else NO_BF16


class TorchSession(Session):
    """A module in eval mode, with its floating weights in one precision.

    In float32 too: half precision is slower on most CPUs, and a runtime's name says what it computes in. Packed or integer
    weights stay as the method saved them.

    Args:
        model: Loaded on the CPU.
        device: `cpu` or `cuda`.
        precision: fp32, fp16 or bf16.

    Raises:
        MeasureError: Half precision is asked of a module that holds integers.
    """

    def __init__(self, model: nn.Module, *, device: str = "cpu", precision: str = "fp32") -> None:
        import torch

        if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
            model = model.float()
        if precision != "fp32":
            dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
            if not is_float32(model):
                name = str(dtype).removeprefix("torch.")
                raise MeasureError(f"its weights are integers, whose arithmetic is not converted to {name}")
            model = model.to(dtype)
        self.model = model.eval()
        if device != "cpu":  # to some packed weights a move to where they are is a conversion
            self.model.to(device)
        self._device = device
        self._names = forward_names(model)

    def run(self, inputs: Inputs) -> Logits:
        import torch

        with torch.inference_mode():
            tensors = {k: torch.from_numpy(v).to(self._device) for k, v in inputs.items() if k in self._names}
            logits: Logits = self.model(**tensors).logits.float().cpu().numpy()
        return logits


def is_float32(model: nn.Module) -> bool:
    """Tell whether every weight is float32; a packed or integer weight makes logits depend on batch mates."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass  # torchao's weights call themselves float32

    packed = any("quantized" in type(m).__module__ for m in model.modules())
    indices = (torch.int64, torch.int32, torch.bool)  # position tables and masks
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.dtype not in indices]
    return not packed and all(t.dtype == torch.float32 and not is_traceable_wrapper_subclass(t) for t in tensors)
