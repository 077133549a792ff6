"""An embedding block factorised as ALBERT has it: narrow tables, their norm, and a projection to the layers' width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.families import base_model, embeddings, forward_inputs
from compressor.training.starts import Tables, count_tokens, embedding_tables, truncated_svd

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch


def start_embeddings(block: Any, projection: Any, source: nn.Module, batches: Iterable[Batch] | None) -> None:
    """Fill tables, norm and the projection behind them, so that the layers are fed what the source's layers are.

    Args:
        block: The embedding block to fill: tables for words, positions and types, and their norm.
        projection: The linear from the tables' width to the layers'.
        source: The model that the layers come from.
        batches: None copies the source's tables, and its projection or the identity: exact. Otherwise the tables are
            factorised (`factorise_embeddings`) and the projection is fitted to these batches: nearly the same.
    """
    import torch

    old: Any = embeddings(source)
    tables = embedding_tables(source)
    if batches is None:
        own = getattr(base_model(source), "embeddings_project", None)  # ELECTRA's: narrow, normalised, then projected
        _fill(block, tables)
        block.LayerNorm.load_state_dict(old.LayerNorm.state_dict())
        weight = torch.eye(projection.out_features) if own is None else own.weight
        bias = torch.zeros(projection.out_features) if own is None else own.bias
    else:
        kept = [batch.to("cpu") for batch in batches]
        tokens, places = count_tokens(kept, len(tables.word_VH), len(tables.position_PH))
        norm: Any = old.LayerNorm
        factors = factorise_embeddings(
            tables,
            norm.weight.detach(),
            norm.bias.detach(),
            size=projection.in_features,
            token_counts=tokens,
            position_counts=places,
        )
        _fill(block, factors[:3])
        with torch.no_grad():
            pairs = ((_states(block, batch), _states(old, batch)) for batch in kept)
            weight, bias = refit_linear(pairs, factors.projection_HE, factors.bias_H)
    with torch.no_grad():
        projection.weight.copy_(weight)
        projection.bias.copy_(bias)


def _fill(block: Any, rows: Sequence[Tensor]) -> None:
    import torch

    with torch.no_grad():
        for table, values in zip(
            (block.word_embeddings, block.position_embeddings, block.token_type_embeddings), rows, strict=True
        ):
            table.weight.copy_(values)


def _states(block: nn.Module, batch: Batch) -> Tensor:
    """Return an embedding block's output for the real tokens of a batch, [N, width], without dropout."""
    inputs = {name: value for name, value in forward_inputs(block, batch.inputs).items() if name != "attention_mask"}
    states: Tensor = block.eval()(**inputs)
    return states[batch.inputs["attention_mask"].bool()]


class Factors(NamedTuple):
    """Embedding tables of width E, normalised there, and the projection to width H that follows."""

    word_VE: Tensor  # noqa: N815 - a shape suffix
    position_PE: Tensor  # noqa: N815
    type_KE: Tensor  # noqa: N815
    projection_HE: Tensor  # noqa: N815
    bias_H: Tensor  # noqa: N815


def factorise_embeddings(
    tables: Tables, gamma_H: Tensor, beta_H: Tensor, *, size: int, token_counts: Tensor, position_counts: Tensor
) -> Factors:
    """Find tables of width E = `size` whose norm and projection give nearly gamma * norm(word + position + type) + beta.

    A norm at width H removes the mean over H and divides by the length; so the tables are centred, reduced to the E - 1
    directions that matter most (truncated SVD of the tokens' normalised rows, weighted by how often each is used), and laid
    into the E-dimensional vectors of zero mean. The norm at width E then divides by the length of what was kept. With E = H
    nothing is lost and the result is exact.
    """
    import torch

    word, position, kind = (table.double() - table.double().mean(dim=1, keepdim=True) for table in tables)
    rows = word + (position_counts.double() / position_counts.sum()) @ position + kind[0]
    rows *= (token_counts.double() + 1).sqrt()[:, None] / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    basis_HD = truncated_svd(rows, size - 1)[1].T
    flat = torch.cat([torch.ones(size, 1), torch.eye(size)[:, 1:]], dim=1).double()
    plane_DE = torch.linalg.qr(flat)[0][:, 1:].T
    into_HE = basis_HD @ plane_DE
    scale = (word.shape[1] / size) ** 0.5  # a normalised vector has length sqrt(width)
    return Factors(
        (word @ into_HE).float(),
        (position @ into_HE).float(),
        (kind @ into_HE).float(),
        scale * gamma_H.double()[:, None] * into_HE,
        beta_H.double(),
    )


def refit_linear(
    pairs: Iterable[tuple[Tensor, Tensor]], weight_HE: Tensor, bias_H: Tensor, pull: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the linear map from states [N, E] to targets [N, H] with the least squared error.

    `pull` draws it towards the given one, by that share of the states' mean square: what the data never show keeps it.
    """
    import torch

    start = torch.cat([weight_HE.T, bias_H[None]]).double()
    gram, cross = torch.zeros(len(start), len(start)).double(), torch.zeros_like(start)
    for states_NE, targets_NH in pairs:
        states = torch.cat([states_NE, torch.ones(len(states_NE), 1)], dim=1).double()
        gram += states.T @ states
        cross += states.T @ targets_NH.double()
    ridge = pull * gram.diagonal().mean()
    solution = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).double(), cross + ridge * start)
    return solution[:-1].T, solution[-1]
