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
    """Load what `save_weights` wrote, and share again what was shared.

    Raises:
        StoreError: A name is missing or unexpected, or a shape differs.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / FILE_NAME
    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            shared = {name: kept for name, kept in (file.metadata() or {}).items() if kept in state}
        model.load_state_dict({**state, **{name: state[kept] for name, kept in shared.items()}})
    except (RuntimeError, OSError, SafetensorError) as error:
        raise StoreError(f"{path} does not fit the model built from its config: {error}") from error
    for name, kept in shared.items():
        _share(model, name, kept)


def _share(model: nn.Module, name: str, kept: str) -> None:
    """Make the parameter `name` the same object as the parameter `kept`."""
    owner, _, attribute = name.rpartition(".")
    source, _, source_attribute = kept.rpartition(".")
    value = getattr(model.get_submodule(source), source_attribute)
    if attribute in model.get_submodule(owner)._parameters:
        setattr(model.get_submodule(owner), attribute, value)
