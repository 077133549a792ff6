"""The gradient of a large embedding table, dense to the optimizer but never built from scratch.

A batch reads some hundred of 30,000 rows. Autograd would allocate and zero the whole table's gradient at each step (47
MB for BERT's vocabulary at width 384), which costs more than the optimizer's own pass. Here autograd gives the rows
alone, and they are added into one kept buffer that is zero elsewhere. The optimizer sees the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

_MIN_ROWS: Final = 4096  # below it the dense gradient costs next to nothing


class RowGradient:
    """The kept gradient of one table."""

    def __init__(self, table: nn.Embedding) -> None:
        self.parameter = table.weight
        self.buffer = torch.zeros_like(table.weight, requires_grad=False)
        self.rows: Tensor | None = None  # rows of the buffer that are not zero

    def collect(self) -> None:
        """Turn the rows that backward left into the dense gradient."""
        gradient = self.parameter.grad
        if gradient is None or not gradient.is_sparse:
            return  # unused in this step, or the loss used the table in another way too: the gradient is dense already
        indices = gradient._indices()[0]
        self.buffer.index_add_(0, indices, gradient._values().to(self.buffer.dtype))
        self.rows = torch.unique(indices)
        self.parameter.grad = self.buffer

    def touched(self) -> Tensor | None:
        """Return the part of the gradient that may differ from zero."""
        if self.parameter.grad is not self.buffer or self.rows is None:
            return self.parameter.grad
        return self.buffer[self.rows]

    def scale(self, factor: float) -> None:
        """Multiply the gradient."""
        if self.parameter.grad is not self.buffer or self.rows is None:
            if self.parameter.grad is not None:
                self.parameter.grad.mul_(factor)
            return
        self.buffer[self.rows] *= factor

    def clear(self) -> None:
        """Make the buffer zero again."""
        if self.rows is not None:
            self.buffer[self.rows] = 0.0
            self.rows = None


@contextmanager
def row_gradients(modules: Sequence[nn.Module], wanted: bool) -> Iterator[list[RowGradient]]:
    """Give the large, trained, unshared embedding tables row gradients during the body.

    Args:
        modules: Searched for tables.
        wanted: False on GPUs, where zeroing is cheap, and with several ranks, which reduce dense gradients.
    """
    tables = _suitable(modules) if wanted else []
    for table in tables:
        table.sparse = True
    try:
        yield [RowGradient(table) for table in tables]
    finally:
        for table in tables:
            table.sparse = False
            table.weight.grad = None


def _suitable(modules: Sequence[nn.Module]) -> list[nn.Embedding]:
    owners: dict[int, int] = {}
    every = list({id(m): m for module in modules for m in module.modules()}.values())
    for module in every:
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        m
        for m in every
        if type(m) is nn.Embedding
        and isinstance(m.weight, nn.Parameter)
        and m.weight.requires_grad
        and m.num_embeddings >= _MIN_ROWS
        and owners.get(id(m.weight)) == 1
        and not (m.sparse or m.max_norm or m.scale_grad_by_freq)
    ]
