"""AdamW with warm-up, linear decay and clipping, and the state that a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.config import TrainConfig
from compressor.errors import TrainingError
from compressor.training.row_gradients import RowGradient

Groups = Sequence[Mapping[str, Any]]


def default_groups(modules: Sequence[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Return all trained parameters; matrices decay, biases and norms do not (as BERT was trained)."""
    trained = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}.values()
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def rate_factor(step: int, total_steps: int, warmup_ratio: float) -> float:
    """Return the share of the learning rate that optimizer step `step` (from 0) uses: up to 1, then down towards 0."""
    warmup = round(total_steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / warmup
    return (total_steps - step) / max(1, total_steps - warmup)


class Optimizer:
    """AdamW over parameter groups of which each keeps its own learning rate."""

    def __init__(
        self,
        model: nn.Module,
        extra_modules: Mapping[str, nn.Module],
        groups: Groups | None,
        settings: TrainConfig,
        total_steps: int,
        tables: Sequence[RowGradient],
    ) -> None:
        extra = list(extra_modules.values())
        if groups is None:
            chosen = default_groups([model, *extra], settings.weight_decay)
        else:
            chosen = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
            named = {id(p) for group in chosen for p in group["params"]}
            for group in default_groups(extra, settings.weight_decay):
                group["params"] = [p for p in group["params"] if id(p) not in named]
                chosen.append(group)
        chosen = [group for group in chosen if group["params"]]
        if not chosen:
            raise TrainingError("no parameter requires grad: there is nothing to train")
        self._adamw = torch.optim.AdamW(
            chosen, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for group in self._adamw.param_groups:
            group["initial_lr"] = group["lr"]
        self.parameters: list[nn.Parameter] = [p for group in self._adamw.param_groups for p in group["params"]]
        self.names = {
            id(p): name
            for prefix, m in (("", model), *((f"{k}.", v) for k, v in extra_modules.items()))
            for name, p in m.named_parameters(prefix=prefix.rstrip("."))
        }
        self._tables = {id(table.parameter): table for table in tables}
        self._warmup_ratio = settings.warmup_ratio
        self._max_norm = settings.max_grad_norm
        self._total_steps = total_steps

    def collect(self) -> Tensor:
        """Finish the gradients of a step and return their norm, [] fp32."""
        for table in self._tables.values():
            table.collect()
        parts = [self._touched(p) for p in self.parameters]
        return torch.nn.utils.get_total_norm([g for g in parts if g is not None])

    def step(self, number: int, norm: float) -> None:
        """Clip by `norm` and step; `number` counts from 0 and decides the learning rate."""
        if norm > self._max_norm:
            scale = self._max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
            plain = [p.grad for p in self.parameters if p.grad is not None and id(p) not in self._tables]
            if plain:
                torch._foreach_mul_(plain, scale)
            for table in self._tables.values():
                table.scale(scale)
        factor = rate_factor(number, self._total_steps, self._warmup_ratio)
        for group in self._adamw.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self._adamw.step()

    def clear(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        for table in self._tables.values():
            table.clear()

    def first_bad(self) -> str:
        """Name a parameter whose gradient is not finite."""
        for parameter in self.parameters:
            gradient = self._touched(parameter)
            if gradient is not None and not torch.isfinite(gradient).all():
                return self.names.get(id(parameter), "a parameter outside the model")
        return "the sum over all parameters"

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as `<parameter number>.<name>` -> tensor."""
        state = self._adamw.state_dict()["state"]
        return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = value
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": state, "param_groups": groups})

    def _touched(self, parameter: nn.Parameter) -> Tensor | None:
        table = self._tables.get(id(parameter))
        return parameter.grad if table is None else table.touched()


@contextmanager
def frozen_embeddings(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Keep the word-embedding table from training during the body."""
    if not wanted:
        yield
        return
    find: Any = getattr(model, "get_input_embeddings", None)
    table = find() if find is not None else None
    if table is None:
        raise TrainingError(
            "train.freeze_embeddings=true, but the model does not say which table holds its word embeddings",
            hint="train.freeze_embeddings=false",
        )
    before = [(p, p.requires_grad) for p in table.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
