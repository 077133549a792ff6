"""PyTorch with torch.compile: one graph for every length, made by a C++ compiler on the machine itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.artifact import Form
from compressor.runtimes.base import ModelOpener, Session
from compressor.runtimes.torch_eager import TorchEager, TorchSession

if TYPE_CHECKING:
    from torch import nn


class TorchCompile(TorchEager):
    """The saved module, compiled for dynamic shapes; the first calls, which compile, are no part of a timing."""

    name = "torch_compile"

    def available(self) -> str | None:
        compiler = os.environ.get("CXX", "g++")
        return None if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and {compiler} was not found"

    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        session = super().load(folder, form, threads, open_model=open_model)
        assert isinstance(session, TorchSession)
        compile_for_every_length(session.model)
        return session


def compile_for_every_length(model: nn.Module) -> None:
    """Have a module compiled at its first call, into one graph; eager mode as a fallback would be timed under a false name."""
    import torch

    torch._dynamo.config.suppress_errors = False
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    model.compile(dynamic=True)
