"""PyTorch as it is: the saved module, eager mode, float32 arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.artifact import Form
from compressor.families import forward_names
from compressor.runtimes.base import Inputs, Logits, ModelOpener, Runtime, Session

if TYPE_CHECKING:
    from torch import nn


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
        return TorchSession(open_model(folder))


class TorchSession(Session):
    """A module in eval mode. Floating weights are computed in float32: half precision is slower on most CPUs."""

    def __init__(self, model: nn.Module) -> None:
        import torch

        # Only half-precision tensors are widened; packed or integer weights stay as the method saved them.
        half = any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters())
        self._model = (model.float() if half else model).eval()
        self._names = forward_names(model)

    def run(self, inputs: Inputs) -> Logits:
        import torch

        with torch.inference_mode():
            tensors = {k: torch.from_numpy(v) for k, v in inputs.items() if k in self._names}
            logits: Logits = self._model(**tensors).logits.float().numpy()
        return logits
