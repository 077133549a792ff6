"""Least squares for an output linear whose inputs became fewer: let those that stay stand in for those that went.

What is fitted is the sum that enters the layer's norm, as in the mask tuning of Kwon et al. 2022, arXiv:2204.09656,
section 4.3; they fit one factor for each head or neuron, here the whole linear is fitted, which the same products pay for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.families import forward_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch


def least_squares(gram_KK: Tensor, cross_KD: Tensor, prior_KD: Tensor, ridge: float) -> Tensor:
    """Return argmin_W ||X W - Y||^2 + r ||W - prior||^2, given X^T X and X^T Y; r is `ridge` times the mean of the diagonal.

    A ridge above 0 keeps directions that the examples do not show at their old weights.
    """
    import torch

    strength = ridge * gram_KK.diagonal().mean()
    eye = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    return torch.linalg.solve(gram_KK + strength * eye, cross_KD + strength * prior_KD)


def refit_output(
    model: nn.Module,
    reference: nn.Module,
    *,
    output: tuple[nn.Linear, nn.Linear],
    entry: tuple[nn.Linear, nn.Linear],
    batches: Sequence[Batch],
    ridge: float = 1e-3,
) -> None:
    """Refit an output linear of `model` in place, so that block and skip connection together give what `reference` gives.

    With H what enters the block (also what the skip connection adds) and A what enters its output linear:
    min over W, b of ||H + A W^T + b - (H_ref + A_ref W_ref^T + b_ref)||^2 over the real tokens of the batches.

    Args:
        model: The narrower model; blocks before this one may differ from the reference's already, and are made up for.
        reference: The model as it was.
        output: The block's output linear in both models (the attention's or the feed-forward part's).
        entry: The block's first linear in both (the query's or the feed-forward part's); its input is H.
        batches: Calibration batches.
        ridge: See `least_squares`.
    """
    import torch

    linear = output[0]
    width, out = linear.in_features + 1, linear.out_features
    device = linear.weight.device
    gram = torch.zeros(width, width, dtype=torch.float64, device=device)
    cross = torch.zeros(width, out, dtype=torch.float64, device=device)
    with torch.inference_mode(), _entering(output[0], entry[0]) as own, _entering(output[1], entry[1]) as other:
        for batch in batches:
            for calls in (*own.values(), *other.values()):
                calls.clear()
            for one in (model, reference):
                one(**forward_inputs(one, batch.inputs))
            real = batch.inputs["attention_mask"].bool()
            for entering in zip(own[linear], own[entry[0]], other[output[1]], other[entry[1]], strict=True):
                a, h, a_ref, h_ref = (x[real].double() for x in entering)
                weight, bias = output[1].weight.double(), output[1].bias.double()
                wanted = h_ref + a_ref @ weight.T + bias - h
                a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
                gram += a.T @ a
                cross += a.T @ wanted
    with torch.no_grad():
        prior = torch.cat([linear.weight, linear.bias[:, None]], dim=1).T.double()
        fitted = least_squares(gram, cross, prior, ridge).T
        linear.weight.copy_(fitted[:, :-1])
        linear.bias.copy_(fitted[:, -1])


@contextmanager
def _entering(*linears: nn.Linear) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Collect what enters each linear, call by call, during the body."""
    heard: dict[nn.Module, list[Tensor]] = {linear: [] for linear in linears}

    def keep(module: nn.Module, args: Any) -> None:
        heard[module].append(args[0])

    handles = [linear.register_forward_pre_hook(keep) for linear in heard]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
