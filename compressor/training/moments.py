"""Second moments of what enters a model's linears: the X X^T that second-order quantisers and whitened factorisations read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from compressor.families import forward_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch

_ROWS: Final = (
    2048  # tokens that wait for one product: adding to a large matrix for each text costs more than the products
)


def input_moments(model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return, for each linear, the sum over real tokens of x x^T, x being what enters it; in float64.

    A linear that runs several times in a forward (shared layers, DeBERTa's positions) gathers all its calls; padding counts
    nothing. One that never runs has zeros. The model is run as it is: set its mode and its device before.

    Args:
        model: Any model of the project.
        linears: Some of the model's linears, by any name.
        batches: Calibration batches on the model's device.

    Returns:
        name -> [inputs, inputs].
    """
    import torch

    device = next(model.parameters()).device
    sums = {
        name: torch.zeros(m.in_features, m.in_features, dtype=torch.float64, device=device)
        for name, m in linears.items()
    }
    waiting: dict[str, list[Tensor]] = {name: [] for name in linears}
    mask = torch.zeros(0, dtype=torch.bool)

    def listen(name: str) -> Any:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach()
            waiting[name].append(x[mask] if x.shape[:-1] == mask.shape else x.flatten(0, -2))
            if sum(map(len, waiting[name])) >= _ROWS:
                add(name)

        return keep

    def add(name: str) -> None:
        rows_NI = torch.cat(waiting[name]).double()
        sums[name].addmm_(rows_NI.T, rows_NI)
        waiting[name].clear()

    handles = [module.register_forward_pre_hook(listen(name)) for name, module in linears.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = batch.inputs["attention_mask"].bool()
                model(**forward_inputs(model, batch.inputs))
    finally:
        for handle in handles:
            handle.remove()
    for name, rows in waiting.items():
        if rows:
            add(name)
    return sums
