"""Weights as safetensors: written without pickle, read so that every tensor is set exactly once.

A torchao weight (a tensor made of integers, scales and settings) is stored in the layout that transformers reads: its parts as
tensors, its settings in the header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import MissingExtra, StoreError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

FILE_NAME = "model.safetensors"
_MOST_TIMES, _MOST_LAYERS = 1000, 1000
_FILLS = ("normal_", "uniform_", "kaiming_uniform_")  # what others of torch.nn.init draw, they draw by the first two
_TORCHAO = "tensor_names"  # torchao's header entry: the names of all its tensors, as a JSON list


def save_weights(model: nn.Module, folder: Path) -> None:
    """Write the state dict; a tensor that is shared is stored once, and the header says which names share it."""
    from safetensors.torch import save_file
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    state = model.state_dict()
    if not any(is_traceable_wrapper_subclass(tensor) for tensor in state.values()):
        kept, shared = _stored_once(model, state)
        save_file(kept, str(folder / FILE_NAME), metadata={"format": "pt", **shared})
        return
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict

    parts, header = flatten_tensor_state_dict(state)
    separate = {name: part.contiguous().clone() for name, part in parts.items()}
    save_file(separate, str(folder / FILE_NAME), metadata={"format": "pt", **_with_short_names(model, header)})


def stored_bytes(model: nn.Module) -> int | None:
    """Return the bytes of the tensors that `save_weights` stores; None for torchao's, whose size is of what they stand for."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    state = model.state_dict()
    if any(is_traceable_wrapper_subclass(tensor) for tensor in state.values()):
        return None
    return sum(tensor.numel() * tensor.element_size() for tensor in _stored_once(model, state)[0].values())


def _stored_once(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors to store, and other name -> stored name of those that are shared.

    A table that the encoder shares with its head is stored as the encoder's: whoever gives the encoder another head looks for
    it there.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, tensor in state.items():
        same = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        groups.setdefault(same, []).append(name)
    kept, shared = dict[str, "Tensor"](), dict[str, str]()
    for names in groups.values():
        first = min(names, key=lambda name: (not name.startswith(prefix), name))
        kept[first] = state[first].contiguous()
        shared |= {name: first for name in names if name != first}
    return kept, shared


def _with_short_names(model: nn.Module, header: dict[str, str]) -> dict[str, str]:
    """Describe torchao's weights by their names under the base model too: so transformers' `AutoModel` looks them up."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    whole = {name: value for name, value in header.items() if name.startswith(prefix)}
    short = {
        name.removeprefix(prefix): value for name, value in whole.items() if json.loads(value)["_type"] != "Tensor"
    }
    return {**header, **short, _TORCHAO: json.dumps([*json.loads(header[_TORCHAO]), *short])}


@contextmanager
def without_random_weights() -> Iterator[None]:
    """Build modules with zeros where random weights would be drawn: if they are read next, drawing is most of the time.

    Torch's random numbers go on as if nothing had been built.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Zeros(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            # A method of tensors, or torch's or transformers' function on them.
            if getattr(func, "__name__", "") not in _FILLS:
                return func(*args, **kwargs)
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).zero_()

    with Zeros():
        yield


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load what `save_weights` wrote, and share again what was shared.

    Raises:
        StoreError: A name is missing or unexpected, or a shape differs.
        MissingExtra: The weights are torchao's, and it is not installed.
    """
    from safetensors import SafetensorError, safe_open
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    path = folder / FILE_NAME
    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            header = file.metadata() or {}
        shared = {name: kept for name, kept in header.items() if kept in state}
        if _TORCHAO in header:
            model.load_state_dict(_joined(state, header), assign=True)
            for parameter in model.parameters():
                if is_traceable_wrapper_subclass(parameter):
                    parameter.requires_grad_(False)  # as quantised: no exporter takes integers that ask for a gradient
        else:
            model.load_state_dict({**state, **{name: state[kept] for name, kept in shared.items()}})
    except (RuntimeError, OSError, SafetensorError) as error:
        raise StoreError(f"{path} does not fit the model built from its config: {error}") from error
    for name, kept in shared.items():
        _share(model, name, kept)


def require_room(config: PretrainedConfig, folder: Path) -> None:
    """Refuse a config that asks for far more than the weights beside it can fill, before anything of that size is made.

    Raises:
        StoreError: A table, or all layers, would be a thousand times the weights; or there are more than a thousand layers.
    """
    held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    width, inner = _number(config, "hidden_size", "dim"), _number(config, "intermediate_size", "hidden_dim")
    layers = _number(config, "num_hidden_layers", "n_layers")
    asked = {
        "vocab_size": _number(config, "vocab_size") * _number(config, "embedding_size", "hidden_size", "dim"),
        "max_position_embeddings": _number(config, "max_position_embeddings") * width,
        "intermediate_size": width * inner,
        "hidden_size": width * width,
        "num_hidden_layers": layers * width if layers <= _MOST_LAYERS else _MOST_TIMES * held + 1,
    }
    for name, elements in asked.items():
        if elements > _MOST_TIMES * held:
            raise StoreError(
                f"{folder}/config.json asks for {name}={getattr(config, name, '?')}, and its files have {held:,} bytes",
                allowed="the config that the weights were saved with",
            )


def _number(config: PretrainedConfig, *names: str) -> int:
    """Return the first of these entries that is a number; 0 if none is."""
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)


def _joined(parts: dict[str, Tensor], header: dict[str, str]) -> dict[str, Tensor]:
    """Build torchao's tensors from their parts."""
    try:
        from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    except ImportError as error:
        raise MissingExtra.of("torchao", "torchao") from error
    state, left = unflatten_tensor_state_dict(parts, header)
    if left:
        raise StoreError(f"{len(left)} tensors belong to no weight, such as {next(iter(left))}")
    return state  # type: ignore[no-any-return]


def _share(model: nn.Module, name: str, kept: str) -> None:
    """Make the parameter `name` the same object as the parameter `kept`."""
    owner, _, attribute = name.rpartition(".")
    source, _, source_attribute = kept.rpartition(".")
    value = getattr(model.get_submodule(source), source_attribute)
    if attribute in model.get_submodule(owner)._parameters:
        setattr(model.get_submodule(owner), attribute, value)
