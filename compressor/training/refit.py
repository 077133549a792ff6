"""Least squares for output linears whose inputs became fewer: let those that stay stand in for those that went.

What is fitted is the sum that enters the layer's norm, as in the mask tuning of Kwon et al. 2022, arXiv:2204.09656,
section 4.3; they fit one factor for each head or neuron, here the whole linear is fitted, which the same products pay for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.families import forward_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch


class Block(NamedTuple):
    """Half a layer: its first linear (the query's, or the feed-forward part's) and its output linear.

    What enters the first is also what the skip connection adds to what leaves the second.
    """

    entry: nn.Linear
    output: nn.Linear


def least_squares(gram_KK: Tensor, cross_KD: Tensor, prior_KD: Tensor, ridge: float) -> Tensor:
    """Return argmin_W ||X W - Y||^2 + r ||W - prior||^2, given X^T X and X^T Y; r is `ridge` times the mean of the diagonal.

    A ridge above 0 keeps directions that the examples do not show at their old weights.
    """
    import torch

    strength = ridge * gram_KK.diagonal().mean()
    eye = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    fitted: Tensor = torch.linalg.solve(gram_KK + strength * eye, cross_KD + strength * prior_KD)
    return fitted


def refit_outputs(
    model: nn.Module,
    reference: nn.Module,
    blocks: Sequence[tuple[Block, Block]],
    batches: Sequence[Batch],
    *,
    ridge: float = 1e-3,
) -> None:
    """Refit output linears of `model` in place, so that block and skip connection together give what `reference` gives.

    With H what enters a block and A what enters its output linear, over the real tokens of the batches:
    min over W, b of ||H + A W^T + b - (H_ref + A_ref W_ref^T + b_ref)||^2.
    Blocks are done in order, so that each makes up for what those before it could not. The cost is one forward of the
    reference and one for each block, of the part of the model up to it.

    Args:
        model: The narrower model.
        reference: The model as it was.
        blocks: Each block in the model and in the reference, bottom first.
        batches: Examples; a few times more tokens than the linear has inputs.
        ridge: See `least_squares`.
    """
    import torch

    wanted = _sums(reference, [block for _, block in blocks], batches)
    for (block, _), targets in zip(blocks, wanted, strict=True):
        linear = block.output
        width, out = linear.in_features + 1, linear.out_features
        gram = torch.zeros(width, width, dtype=torch.float64, device=linear.weight.device)
        cross = torch.zeros(width, out, dtype=torch.float64, device=linear.weight.device)
        with torch.inference_mode(), _entering([block]) as heard:
            for batch, calls in zip(batches, targets, strict=True):
                real = _run(model, batch, heard, stop_at=(linear, len(calls)))
                for a, h, target in zip(heard[linear], heard[block.entry], calls, strict=True):
                    own = a[real]
                    own = torch.cat([own, torch.ones_like(own[:, :1])], dim=1)
                    gram += own.T @ own
                    cross += own.T @ (target - h[real])
        with torch.no_grad():
            prior = torch.cat([linear.weight, linear.bias[:, None]], dim=1).T.double()
            fitted = least_squares(gram, cross, prior, ridge).T
            linear.weight.copy_(fitted[:, :-1])
            linear.bias.copy_(fitted[:, -1])


def _sums(model: nn.Module, blocks: Sequence[Block], batches: Sequence[Batch]) -> list[list[list[Tensor]]]:
    """Return block and skip connection's sum: for each block, batch and call, [real tokens, D]."""
    import torch

    sums: list[list[list[Tensor]]] = [[] for _ in blocks]
    with torch.inference_mode(), _entering(blocks) as heard:
        for batch in batches:
            real = _run(model, batch, heard)
            for block, found in zip(blocks, sums, strict=True):
                linear = block.output
                calls = zip(heard[linear], heard[block.entry], strict=True)
                found.append(
                    [torch.nn.functional.linear(a[real], linear.weight, linear.bias) + h[real] for a, h in calls]
                )
    return sums


class _Enough(Exception):
    """Everything that was to be heard of a forward has been heard."""


def _run(
    model: nn.Module, batch: Batch, heard: dict[nn.Module, list[Tensor]], stop_at: tuple[nn.Module, int] | None = None
) -> Tensor:
    """Run a forward, or as much of it as is needed, and return which tokens are real; [B, L] bool."""
    for calls in heard.values():
        calls.clear()

    def stop(module: nn.Module, args: Any) -> None:
        if stop_at is not None and len(heard[module]) == stop_at[1]:
            raise _Enough

    handle = stop_at[0].register_forward_pre_hook(stop) if stop_at else None
    try:
        model(**forward_inputs(model, batch.inputs))
    except _Enough:
        pass
    finally:
        if handle is not None:
            handle.remove()
    return batch.inputs["attention_mask"].bool()


@contextmanager
def _entering(blocks: Sequence[Block]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """Collect what enters each block's linears, call by call, during the body."""
    heard: dict[nn.Module, list[Tensor]] = {linear: [] for block in blocks for linear in block}

    def keep(module: nn.Module, args: Any) -> None:
        heard[module].append(args[0])

    handles = [linear.register_forward_pre_hook(keep) for linear in heard]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
