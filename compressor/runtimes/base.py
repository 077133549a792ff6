"""What a runtime is: it takes a folder and gives a session that turns token tensors into logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from compressor.artifact import Form
from compressor.errors import MeasureError, told_as

if TYPE_CHECKING:
    from torch import nn

Inputs = Mapping[str, NDArray[np.int64]]  # tokenizer tensors by name, each [B, L]
Logits = NDArray[np.float32]  # [B, C], or [B, L, C] for token tasks
ModelOpener = Callable[[Path], "nn.Module"]  # re-loads a saved torch artifact; the store stands on a higher floor


class Session(ABC):
    """A loaded model, ready to run; a context manager that frees it."""

    @abstractmethod
    def run(self, inputs: Inputs) -> Logits:
        """Return the logits of one batch; names that the model does not take are left out."""

    def close(self) -> None:  # noqa: B027 - most sessions are freed with their last reference
        """Free what the session holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Runtime(ABC):
    """An engine with the device and the precision it computes in; saved integers stay integers in any of them."""

    name: ClassVar[str]
    device: ClassVar[str] = "cpu"  # or "cuda"
    precision: ClassVar[str] = "fp32"  # of floating arithmetic: set, never left to the engine
    forms: ClassVar[frozenset[Form]]  # what it can be given
    needs_export: ClassVar[bool] = False  # True: a torch artifact must be exported to ONNX first
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions beside torch that export for it and execute

    def accepts(self, form: Form) -> bool:
        """Tell whether an artifact of this form can be executed, through an export if need be."""
        return form in self.forms

    @abstractmethod
    def available(self) -> str | None:
        """Return why it cannot be used here, or None."""

    @abstractmethod
    def load(self, folder: Path, form: Form, threads: int, *, open_model: ModelOpener | None = None) -> Session:
        """Load a model.

        Args:
            folder: The artifact for a form that the runtime executes itself; the folder of the exported
                `model.onnx` for a torch artifact in a runtime that `needs_export`.
            form: Form of the artifact.
            threads: Threads of one call; calls do not overlap.
            open_model: Re-loads a torch artifact; only the torch runtime asks for it.

        Raises:
            MissingExtra: The runtime is not installed.
            MeasureError: The folder holds no file of this runtime.
        """


def readable(path: Path) -> AbstractContextManager[None]:
    """Return a context in which whatever a runtime raises is a `MeasureError` that names the file."""
    return told_as(lambda e: MeasureError(f"{path.name} cannot be opened: {type(e).__name__}: {str(e).strip():.300}"))


def the_only(folder: Path, suffix: str) -> Path:
    """Return the one file with this suffix in a folder.

    Raises:
        MeasureError: There is none, or several.
    """
    found = sorted(folder.glob(f"*{suffix}")) or sorted(folder.rglob(f"*{suffix}"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise MeasureError(f"{folder}: {names} found", allowed=f"exactly one *{suffix} file")
    return found[0]
