"""What pruners share: how sparsity rises while a model trains, and an exact choice of the smallest values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cubic(step: int, *, first: int, last: int, start: float, end: float) -> float:
    """Return the value at `step` of a schedule that rises fast and settles slowly.

    s_t = s_f + (s_i - s_f) * (1 - (t - t_0) / (n dt))^3, equation 1 of Zhu and Gupta 2017 (arXiv:1710.01878), with
    s_i = `start` until t_0 = `first` and s_f = `end` from t_0 + n dt = `last` on.
    """
    if step >= last:
        return end
    if step <= first:
        return start
    return end + (start - end) * (1 - (step - first) / (last - first)) ** 3


def smallest(values: Tensor, count: int) -> Tensor:
    """Mark exactly `count` of the smallest values; of equal ones, those that come first.

    Args:
        values: Of any shape.
        count: How many.

    Returns:
        A bool tensor of the same shape, on the same device.
    """
    import numpy as np
    import torch

    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    flat = values.detach().float().cpu().numpy().ravel()
    limit = np.partition(flat, count - 1)[count - 1]
    chosen = flat < limit
    ties = np.flatnonzero(flat == limit)
    chosen[ties[: count - int(chosen.sum())]] = True
    return torch.from_numpy(chosen).view(values.shape).to(values.device)
