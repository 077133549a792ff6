"""One process or several (torchrun), behind one face built on accelerate.

Gradients are summed over the ranks in one flat reduction instead of by wrapping the model: extra modules of a loss,
parameters without gradient and modules that hooks exchange then need no special case.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that train together; each takes its share of every batch."""

    accelerator: Accelerator

    @property
    def device(self) -> str:
        """The device of this rank."""
        return str(self.accelerator.device)

    @property
    def world(self) -> int:
        """How many processes there are."""
        return int(self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        """The number of this one."""
        return int(self.accelerator.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, indices: Sequence[int]) -> tuple[list[int], int]:
        """Return this rank's part of a batch and how many of its examples count.

        A rank that is left without one runs the first with weight 0, so that all ranks take the same steps.
        """
        own = list(indices[self.rank :: self.world])
        return (own, len(own)) if own else (list(indices[:1]), 0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        if self.world == 1:
            return tensor
        reduced = self.accelerator.reduce(tensor, reduction="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks; a parameter without one on any rank keeps none."""
        if self.world == 1:
            return
        device = parameters[0].device
        has = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in parameters]
        total = self.sum(torch.cat([has, *parts]))
        places = torch.split(total[len(parameters) :], [p.numel() for p in parameters])
        for parameter, flag, values in zip(parameters, total[: len(parameters)].tolist(), places, strict=True):
            if flag:
                parameter.grad = values.view_as(parameter).to(parameter.dtype)

    def gather(self, items: list[Any]) -> list[Any]:
        """Return the items of all ranks, rank after rank."""
        if self.world == 1:
            return items
        from accelerate.utils import gather_object

        return list(gather_object(items))

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank."""
        if self.world == 1:
            return flags
        return tuple(x > 0 for x in self.sum(torch.tensor([float(f) for f in flags], device=self.device)).tolist())

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.accelerator.wait_for_everyone()


def join_ranks(device: str) -> Ranks:
    """Join the process group that torchrun or accelerate announced, or stand alone.

    Args:
        device: `cpu` or `cuda`.
    """
    from accelerate import Accelerator

    _leave_at_exit()
    return Ranks(Accelerator(cpu=device == "cpu", mixed_precision="no"))


@cache
def _leave_at_exit() -> None:
    atexit.register(_leave)


def _leave() -> None:
    """Leave the process group: torn down by the interpreter, gloo's threads now and then abort a process that had finished."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
