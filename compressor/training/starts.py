"""First weights of a student whose architecture is not its source's: what carries over, whatever the family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from compressor.families import base_model, embeddings, encoder_layers, reserved_positions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressor.tasks.base import Batch


def copy_head(target: nn.Module, source: nn.Module) -> None:
    """Copy the linears of pooling and classifying, the last to the last; an activation between them stays the target's."""
    for new, old in zip(reversed(_behind(target)), reversed(_behind(source)), strict=False):
        new.load_state_dict(old.state_dict())


def _behind(model: nn.Module) -> list[nn.Module]:
    """Return the linears that stand behind the encoder's layers: in the base model (a pooler), then outside of it."""
    from torch import nn

    layers = {id(module) for layer in encoder_layers(model) for module in layer.modules()}
    base = list(base_model(model).modules())
    last = max(number for number, module in enumerate(base) if id(module) in layers)
    inside = {id(module) for module in base}
    behind = [*base[last + 1 :], *(module for module in model.modules() if id(module) not in inside)]
    return [module for module in behind if isinstance(module, nn.Linear)]


class Tables(NamedTuple):
    """The tables of an embedding block, detached; a table that a family lacks has no rows, or two of zeros for types."""

    word_VH: Tensor  # noqa: N815 - a shape suffix
    position_PH: Tensor  # noqa: N815
    type_KH: Tensor  # noqa: N815


def embedding_tables(model: nn.Module) -> Tables:
    """Return a model's word rows, the rows of positions 0, 1, ... and its type rows."""
    block: Any = base_model(model).get_submodule("embeddings")
    word = block.word_embeddings.weight.detach()
    found = {
        name: getattr(getattr(block, f"{name}_embeddings", None), "weight", None) for name in ("position", "token_type")
    }
    position, kind = found["position"], found["token_type"]
    first = reserved_positions(model.config)  # type: ignore[arg-type]
    return Tables(
        word,
        word.new_zeros(0, word.shape[1]) if position is None else position.detach()[first:],
        word.new_zeros(2, word.shape[1]) if kind is None else kind.detach(),
    )


def count_tokens(batches: Iterable[Batch], vocabulary: int, positions: int) -> tuple[Tensor, Tensor]:
    """Count how often each token and each position occurs, padding left out: [vocabulary] and [positions].

    Tokens past the last position count there.
    """
    import torch

    tokens, places = torch.zeros(vocabulary, dtype=torch.long), torch.zeros(positions, dtype=torch.long)
    for batch in batches:
        mask = batch.inputs["attention_mask"].cpu()
        real = mask.bool()
        tokens += torch.bincount(batch.inputs["input_ids"].cpu()[real], minlength=vocabulary)
        place = (mask.cumsum(dim=1) - 1).clamp(max=positions - 1)
        places += torch.bincount(place[real], minlength=positions)
    return tokens, places


def truncated_svd(matrix_NH: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return U_k S_k [N, k] and V_k^T [k, H] in fp64: their product is the nearest matrix of rank k (Eckart and Young 1936).

    The basis comes from the eigenvectors of the H x H product, which a vocabulary's table needs no large SVD for.
    """
    import torch

    matrix_NH = matrix_NH.double()
    basis_HD = torch.linalg.eigh(matrix_NH.T @ matrix_NH).eigenvectors.flip(1)[:, :rank]
    return matrix_NH @ basis_HD, basis_HD.T


def fold_embeddings(student: nn.Module, source: nn.Module, batches: Iterable[Batch]) -> None:
    """Start the student's embedding block from the source's.

    The student may have no norm that divides by a token's length, so the division moves into the tables: a word's centred
    row is divided by its usual standard deviation. That table's truncated SVD, weighted by how often the training text uses a
    token, gives the E columns and the middle third of the trigram's linear. The row of the padding token is zero, so that a
    text's last token has the same neighbour whatever the batch. A student of another width between its layers takes the
    columns alone.
    """
    import torch

    block, old = cast(Any, embeddings(student)), cast(Any, embeddings(source))
    word, position, kind = (
        table.double() - table.double().mean(dim=1, keepdim=True) for table in embedding_tables(source)
    )
    tokens, places = count_tokens(batches, len(word), max(len(position), 1))
    used_V = tokens.double()[:, None] + 1
    usual = kind[0] + (places[: len(position)].double() / places.sum()) @ position
    rate_V = 1 / (word + usual).std(dim=1, correction=0, keepdim=True).clamp(min=1e-6)
    usual_rate = (rate_V * used_V).sum() / used_V.sum()
    columns_EH = truncated_svd(word * rate_V * used_V.sqrt(), block.embedding_size)[1]
    with torch.no_grad():
        block.word_embeddings.weight.copy_(word * rate_V @ columns_EH.T)
        block.word_embeddings.weight[block.word_embeddings.padding_idx] = 0
        if block.hidden_size != word.shape[1]:
            return
        block.token_type_embeddings.weight.copy_(kind * usual_rate)
        if len(position):
            block.position_embeddings.weight.copy_(position * usual_rate)
        linear, size = block.embedding_transformation, block.embedding_size
        linear.bias.zero_()
        linear.weight.zero_()
        linear.weight[:, size : 2 * size] = columns_EH.T.float() if block.trigram_input else 0
        if not block.trigram_input:
            linear.weight.copy_(columns_EH.T)
        block.LayerNorm.weight.copy_(old.LayerNorm.weight)
        block.LayerNorm.bias.copy_(old.LayerNorm.bias)


@contextmanager
def dropout_of(model: nn.Module, probability: float) -> Iterator[None]:
    """Set every dropout of a model while the block runs."""
    from torch import nn

    before: Mapping[nn.Dropout, float] = {m: m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    try:
        for module in before:
            module.p = probability
        yield
    finally:
        for module, p in before.items():
            module.p = p
