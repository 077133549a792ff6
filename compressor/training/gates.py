"""How much each example's loss hangs on a part of the model: derivatives with respect to gates that stand at 1.

A gate multiplies what enters a linear: one gate for each input feature, the same at all positions. Its derivative is what
Taylor scores of heads and neurons are made of, and it is had for each example in one backward pass of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.families import forward_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch, Task


def draw_batches(batches: Iterable[Batch], examples: int, seed: int) -> list[Batch]:
    """Return batches in a seeded order until they hold `examples` examples (the last may bring a few more).

    A draw, because a training split may be sorted by label and its head then shows one class only.
    """
    import torch

    given = list(batches)
    order = torch.randperm(len(given), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn: list[Batch] = []
    while order and sum(len(batch.ids) for batch in drawn) < examples:
        drawn.append(given[order.pop(0)])
    return drawn


def gate_gradients(
    model: nn.Module, task: Task, batches: Sequence[Batch], linears: Mapping[str, nn.Linear]
) -> dict[str, Tensor]:
    """Return, for each linear, the derivative of each example's hard loss by a gate on each of its inputs.

    dL_x/dg_d = sum over positions l (and over calls, if layers share the linear) of a_ld * dL_x/da_ld, where a is what enters
    the linear. A sum over the features of a head is the derivative by a gate on that head.

    Args:
        model: Any model of the project; it is left as it was, in its mode and its gradients.
        task: Gives the loss. It is a mean over the batch, so the derivatives are scaled by the batch's examples; a token
            task's mean is over words, and an example then weighs as its words do.
        batches: Labelled batches.
        linears: The linears by any name.

    Returns:
        name -> [examples, inputs of the linear], on the CPU.
    """
    import torch

    from compressor.training.outputs import logits_of

    rows: dict[str, list[Tensor]] = {name: [] for name in linears}
    gates: dict[str, Tensor] = {}

    def gated(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            entering = args[0]
            if name not in gates:
                shape = (entering.shape[0], *[1] * (entering.ndim - 2), entering.shape[-1])
                gates[name] = torch.ones(shape, dtype=entering.dtype, device=entering.device, requires_grad=True)
            return (entering * gates[name], *args[1:])

        return hook

    modes = {module: module.training for module in model.modules()}
    handles = [linear.register_forward_pre_hook(gated(name)) for name, linear in linears.items()]
    try:
        model.eval()
        with torch.enable_grad():
            for batch in batches:
                gates.clear()
                loss = task.hard_loss(logits_of(model(**forward_inputs(model, batch.inputs))), batch) * len(batch.ids)
                found = torch.autograd.grad(loss, [gates[name] for name in linears])
                for name, gradient in zip(linears, found, strict=True):
                    rows[name].append(gradient.flatten(1).cpu())
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return {name: torch.cat(parts) for name, parts in rows.items()}
