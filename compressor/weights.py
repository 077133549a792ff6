"""Weights as safetensors: written without pickle, read so that every tensor is set exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import StoreError

if TYPE_CHECKING:
    from torch import nn

FILE_NAME = "model.safetensors"


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the state dict; a tensor that is shared is stored once, and the header says which names share it."""
    from safetensors.torch import save_model

    save_model(model, str(folder / FILE_NAME), metadata={"format": "pt"})


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load what `save_weights` wrote.

    Raises:
        StoreError: A name is missing or unexpected, or a shape differs.
    """
    from safetensors.torch import load_model

    path = folder / FILE_NAME
    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        load_model(model, str(path), strict=True)
    except (RuntimeError, OSError) as error:
        raise StoreError(f"{path} does not fit the model built from its config: {error}") from error
