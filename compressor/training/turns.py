"""Training layer by layer, from the bottom up, within one stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.families import embeddings, encoder_layers

if TYPE_CHECKING:
    from torch import Tensor, nn


class LayerTurns:
    """A `FitHook` that gives every layer an equal share of the steps: whose turn it is, and what may move meanwhile.

    Layers above the one in turn stand still; those below move by `lower_rate` of what the optimizer would move them, which for
    AdamW is that share of the learning rate.
    """

    def __init__(self, model: nn.Module, lower_rate: float) -> None:
        layers = [list(layer.parameters()) for layer in encoder_layers(model)]
        layers[0] += list(embeddings(model).parameters())
        known = {id(p) for layer in layers for p in layer}
        self.layer = 0
        self._layers = layers
        self._rest = [p for p in model.parameters() if id(p) not in known]  # the head waits for the task
        self._lower_rate = lower_rate
        self._frozen: set[int] | None = None
        self._before: list[tuple[Tensor, Tensor]] = []

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return optimizer groups in which every layer has the same mean rate during its own turn.

        The rate of a stage falls linearly to 0, so a layer starts from a rate as much higher as its turn comes later.
        """
        groups: list[dict[str, Any]] = []
        for number, layer in enumerate(self._layers):
            rate = learning_rate / (1 - (number + 0.5) / len(self._layers))
            for decays in (True, False):
                chosen = [p for p in layer if (p.ndim >= 2) == decays]
                groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay * decays})
        return groups

    def before_forward(self, step: int, total_steps: int) -> None:
        """Pass the turn on, and remember where the lower layers are."""
        if self._frozen is None:  # what the training froze itself, the word embeddings for one
            self._frozen = {id(p) for layer in self._layers for p in layer if not p.requires_grad}
        self.layer = min(step * len(self._layers) // total_steps, len(self._layers) - 1)
        for number, layer in enumerate([*self._layers, self._rest]):
            moves = number == self.layer or (number < self.layer and self._lower_rate > 0)
            for parameter in layer:
                parameter.requires_grad_(moves and id(parameter) not in self._frozen)
        lower = [p for layer in self._layers[: self.layer] for p in layer if p.requires_grad]
        self._before = [(p, p.detach().clone()) for p in lower]

    def after_step(self, step: int, total_steps: int) -> None:
        """Take most of the lower layers' step back."""
        for parameter, before in self._before:
            parameter.detach().copy_(before.lerp(parameter.detach(), self._lower_rate))

    def state_dict(self) -> Mapping[str, Tensor]:
        """Nothing: the step says whose turn it is."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


@contextmanager
def grad_flags_kept(model: nn.Module) -> Iterator[None]:
    """Restore every parameter's `requires_grad` after the block: the last turn leaves most of them off."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
