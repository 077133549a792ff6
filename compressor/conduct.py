"""What a method must leave as it found it: the teacher, and the state of the process.

Other links and baselines go on with both. A teacher whose weights or layers were changed cannot be had back, so the run ends.
All else is put back: with a warning, except for random numbers, which a method may draw. Torch's are seeded anew for each link.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.artifact import CompressedModel
from compressor.errors import PluginError
from compressor.keys import weights_hash
from compressor.tokens import tokenizer_hash

if TYPE_CHECKING:
    from torch import nn

Guard = Callable[[str, CompressedModel], AbstractContextManager[None]]

_LOG = logging.getLogger("compressor")
_DRAWS: Final = ("random numbers of Python", "random numbers of numpy")
_HOOKS: Final = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks",
)  # fmt: skip
_HOOKS_OF_ALL: Final = (
    "_global_forward_pre_hooks", "_global_forward_hooks", "_global_forward_hooks_with_kwargs",
    "_global_forward_hooks_always_called", "_global_backward_pre_hooks", "_global_backward_hooks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the state, read as a value that can be compared and written back."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


class State:
    """The state of the process and of a model in it, as it was when this was made."""

    def __init__(self, model: nn.Module | None) -> None:
        self._parts = _parts(model)
        self._found = {name: part.read() for name, part in self._parts.items()}

    def changed(self) -> list[str]:
        """Return the names of the parts that are no longer as they were."""
        return [name for name, part in self._parts.items() if part.read() != self._found[name]]

    def careless(self) -> list[str]:
        """Return those that no method has a reason to change; random numbers may be drawn, by libraries too."""
        return [name for name in self.changed() if name not in _DRAWS]

    def put_back(self) -> None:
        """Make the state what it was."""
        for name in self.changed():
            self._parts[name].write(self._found[name])


@contextmanager
def kept(method: str, teacher: CompressedModel) -> Iterator[None]:
    """Put back what the method `method` changes in the block, and refuse a changed teacher.

    Raises:
        PluginError: The teacher's weights, layers, config or tokenizer are others.
    """
    from compressor.training.checkpoint import rng_state, set_rng_state

    state, drawn, before = State(teacher.module), rng_state(), _fingerprint(teacher)
    try:
        yield
    finally:
        careless = state.careless()
        state.put_back()
        set_rng_state(drawn)
        if careless:
            _LOG.warning("method '%s' left these changed, and they were put back: %s", method, ", ".join(careless))
    if _fingerprint(teacher) != before:
        raise PluginError(
            f"method '{method}' changed the teacher, which other links and the measurements go on with",
            allowed="a result made from a copy: ctx.build_student(source)",
        )


def _fingerprint(teacher: CompressedModel) -> tuple[object, ...]:
    """Return what makes the teacher what it is; hashing weights of 130 MB takes a tenth of a second."""
    facts = teacher.config.to_dict(), tokenizer_hash(teacher.tokenizer)
    if teacher.module is None:
        return facts
    layers = [(name, type(m), m.extra_repr(), "forward" in vars(m)) for name, m in teacher.module.named_modules()]
    return *facts, weights_hash(teacher.module), layers


def _parts(model: nn.Module | None) -> dict[str, _Part]:
    import numpy as np
    import torch
    from torch.nn.modules import module as all_modules

    modules = [] if model is None else list(model.modules())
    weights = [] if model is None else list(model.parameters())
    return {
        "grad mode": _Part(torch.is_grad_enabled, torch.set_grad_enabled),
        "default dtype": _Part(torch.get_default_dtype, torch.set_default_dtype),
        "number of threads": _Part(torch.get_num_threads, torch.set_num_threads),
        "current folder": _Part(_folder, _go_to),
        _DRAWS[0]: _Part(random.getstate, random.setstate),
        _DRAWS[1]: _Part(_numpy_state, np.random.set_state),
        "hooks of all modules": _hooks([vars(all_modules)], _HOOKS_OF_ALL),
        "hooks of the teacher": _hooks([vars(module) for module in modules], _HOOKS),
        "mode of the teacher": _flags(modules, "training"),
        "requires_grad of the teacher": _flags(weights, "requires_grad"),
    }


def _folder() -> Path | None:
    """Return the current folder; None where somebody removed it."""
    with suppress(OSError):
        return Path.cwd()
    return None


def _go_to(folder: Path | None) -> None:
    if folder is not None:
        os.chdir(folder)


def _numpy_state() -> tuple[Any, ...]:
    import numpy as np

    kind, numbers, *rest = np.random.get_state()
    return kind, tuple(np.asarray(numbers).tolist()), *rest


def _hooks(owners: Sequence[Mapping[str, Any]], names: Sequence[str]) -> _Part:
    """Return the hooks in these tables, but for those that transformers sets once, to hand out hidden states, and relies on."""

    def theirs(owner: Mapping[str, Any]) -> set[int]:
        hooks = [entry for name in names for entry in owner[name].items()]
        return {key for key, hook in hooks if str(getattr(hook, "__module__", "")).partition(".")[0] == "transformers"}

    def read() -> list[list[dict[int, Any]]]:
        return [[_without(owner[name], skipped) for name in names] for owner in owners for skipped in [theirs(owner)]]

    def write(found: list[list[dict[int, Any]]]) -> None:
        for owner, tables in zip(owners, found, strict=True):
            skipped = theirs(owner)
            for name, hooks in zip(names, tables, strict=True):
                stay = {key: hook for key, hook in owner[name].items() if key in skipped}
                owner[name].clear()
                owner[name].update(dict(sorted({**hooks, **stay}.items())))  # the order in which they were set

    return _Part(read, write)


def _without(table: Mapping[int, Any], keys: set[int]) -> dict[int, Any]:
    return {key: hook for key, hook in table.items() if key not in keys}


def _flags(owners: list[Any], name: str) -> _Part:
    def write(found: list[bool]) -> None:
        for owner, flag in zip(owners, found, strict=True):
            setattr(owner, name, flag)

    return _Part(lambda: [getattr(owner, name) for owner in owners], write)
