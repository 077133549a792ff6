"""Dropout of hidden states from 16 random bits an element.

torch draws each element of a CPU dropout mask by a Bernoulli trial on one thread (5 ns an element, a tenth of a bf16
step on one core and more on two). Four elements from one 64-bit draw take a seventh of that. The drop rate is rounded to
1/65536 and the scale is that rate's own, so the expectation stays exact. The draws come from torch's generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

_LEVELS: Final = 2**16


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, dropped: int) -> Tensor:
        count = values.numel()
        bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        keep = bits.view(torch.int16)[:count].view(values.shape) >= dropped - _LEVELS // 2
        scaled = keep.to(values.dtype).mul_(_LEVELS / (_LEVELS - dropped))
        ctx.save_for_backward(scaled)
        return values * scaled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (scaled,) = ctx.saved_tensors
        return gradients[0] * scaled, None


def drop(values: Tensor, rate: float) -> Tensor:
    """Zero a share of the elements and scale the others so that the expectation stays."""
    dropped = round(rate * _LEVELS)
    if values.device.type != "cpu" or not 0 < dropped < _LEVELS:
        return torch.nn.functional.dropout(values, rate)
    return _Drop.apply(values, dropped)  # type: ignore[no-any-return,no-untyped-call]


@contextmanager
def quick_dropout(modules: Sequence[nn.Module], wanted: bool) -> Iterator[None]:
    """Let the plain `nn.Dropout`s under `modules` use `drop` during the body."""
    layers = [
        m
        for module in modules
        for m in module.modules()
        if wanted and type(m) is nn.Dropout and not m.inplace and "forward" not in vars(m)
    ]
    for layer in dict.fromkeys(layers):
        vars(layer)["forward"] = _forward_of(layer)
    try:
        yield
    finally:
        for layer in dict.fromkeys(layers):
            vars(layer).pop("forward", None)


def _forward_of(layer: nn.Dropout) -> Callable[[Tensor], Tensor]:
    def forward(values: Tensor) -> Tensor:
        return drop(values, layer.p) if layer.training and layer.p > 0 else values

    return forward
