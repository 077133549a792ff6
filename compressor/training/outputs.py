"""One forward of a model, with the inner outputs that a loss asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import Incompatible
from compressor.families import attention_projections, forward_inputs, layer_call
from compressor.training.signals import Outputs, TeacherSignals


def run_model(model: nn.Module, inputs: Mapping[str, Tensor], signals: TeacherSignals) -> Outputs:
    """Run one forward on those of `inputs` that the model takes; the logits are always returned.

    For `signals.attention` the model must compute attention eagerly: see `eager_attention`.

    Raises:
        Incompatible: A layer was asked for that the model does not have, or its attention maps are not given out.
    """
    with ExitStack() as stack:
        heard = {layer: stack.enter_context(_listen(model, layer)) for layer in signals.qkv}
        extra: dict[str, Any] = {}
        if signals.hidden:
            extra["output_hidden_states"] = True
        if signals.attention:
            extra["output_attentions"] = True
        result = model(**forward_inputs(model, inputs), **extra)
    attention = _picked("attention", getattr(result, "attentions", None), signals.attention, first=0)
    return Outputs(
        logits=logits_of(result),
        hidden=_picked("hidden", getattr(result, "hidden_states", None), signals.hidden, first=-1),
        attention=attention,
        qkv={layer: (found[0], found[1], found[2]) for layer, found in heard.items()},
    )


def logits_of(result: Any) -> Tensor:
    """Return the logits of whatever a forward returns: a model output, a tuple, or the tensor itself."""
    if isinstance(result, Tensor):
        return result
    logits = result.logits if hasattr(result, "logits") else result[0]
    assert isinstance(logits, Tensor)
    return logits


def _picked(kind: str, given: Any, layers: tuple[int, ...], *, first: int) -> dict[int, Tensor]:
    """Pick layers from a tuple whose first entry belongs to layer `first`."""
    if not layers:
        return {}
    if given is None or any(entry is None for entry in given):
        raise Incompatible(
            f"the model gives out no {kind} outputs", allowed="a model of transformers with eager attention"
        )
    last = len(given) - 1 + first
    for layer in layers:
        if not first <= layer <= last:
            raise Incompatible(f"{kind} of layer {layer} was asked for", allowed=f"layers {first} to {last}")
    return {layer: given[layer - first] for layer in layers}


@contextmanager
def _listen(model: nn.Module, number: int) -> Iterator[list[Tensor]]:
    """Collect the q, k and v of one layer during the body."""
    depth = int(model.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    if not 0 <= number < depth:
        raise Incompatible(f"qkv of layer {number} was asked for", allowed=f"layers 0 to {depth - 1}")
    layer, runs_before = layer_call(model, number)
    found: list[Tensor] = []
    calls: dict[nn.Module, int] = {}

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        if calls.setdefault(module, 0) == runs_before:
            found.append(output)
        calls[module] += 1

    handles = [m.register_forward_hook(keep) for m in attention_projections(model, layer)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def eager_attention(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Compute attention eagerly in the body, so that its maps can be had (the fused kernels return none)."""
    switch: Any = getattr(model, "set_attn_implementation", None)
    config: Any = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if not wanted or switch is None or before in (None, "eager"):
        yield
        return
    switch("eager")
    try:
        yield
    finally:
        switch(before)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the body with the model in eval mode and without gradients, then restore every module's own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
