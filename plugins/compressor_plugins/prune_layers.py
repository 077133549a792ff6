"""Whole layers are dropped: by their place, by how little they change what passes, or by what the task loses without them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from compressor.api import (
    Batch,
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    Plan,
    Task,
    draw_batches,
    encoder_layers,
    family,
    forward_inputs,
    layers_can_go,
    pick_layers,
)

if TYPE_CHECKING:
    from torch import nn


class LayerChoice(StrEnum):
    """Which layers go: by place (top, bottom, alternate, symmetric), by similarity, or by loss."""

    top = "top"
    bottom = "bottom"
    alternate = "alternate"
    symmetric = "symmetric"
    similarity = "similarity"
    loss = "loss"


@dataclass(slots=True, kw_only=True)
class PruneLayersConfig(MethodConfig):
    """Options of `prune_layers`."""

    drop: int | None = None  # how many layers go; unset: half of them
    layers: list[int] | None = None  # the layers that stay, counted from 0, instead of `drop` and `by`
    by: LayerChoice = LayerChoice.similarity  # top, bottom, alternate, symmetric, similarity, loss
    examples: int = 256  # training examples for similarity (labels unused) and loss (labels used)

    def __post_init__(self) -> None:
        if self.drop is not None and self.drop < 1:
            raise ConfigError(
                f"method.prune_layers.drop={self.drop}", allowed="1 or more, or null for half of the layers"
            )
        if self.layers is not None:
            if self.drop is not None:
                raise ConfigError(
                    f"method.prune_layers.layers={self.layers} and drop={self.drop}", allowed="one of the two"
                )
            if not self.layers or self.layers != sorted(set(self.layers)) or self.layers[0] < 0:
                raise ConfigError(
                    f"method.prune_layers.layers={self.layers}", allowed="ascending numbers from 0, such as [0,2,4]"
                )
        if self.examples < 1:
            raise ConfigError(f"method.prune_layers.examples={self.examples}", allowed="1 or more")


class PruneLayers(CompressionMethod[PruneLayersConfig]):
    """Drop layers and train nothing; the result is a plain checkpoint with fewer layers.

    `top`, `bottom`, `alternate` and `symmetric` are the places of Sajjad et al. 2023, section 3: the last layers, the first
    ones, every other one from the top down, or those in the middle, so that both ends stay. `similarity` drops the layers of
    lowest block influence, BI_i = 1 - E cos(x_i, x_i+1) over the states that enter and leave layer i (Men et al. 2024,
    equation 1); padding is not counted. `loss` drops one layer at a time, each time the one without which the task's loss on
    training examples is lowest, and scores the rest anew (the greedy search of Song et al. 2024, algorithm 1, with the
    task's loss in the place of their perplexity).

    It has its own option for how many, so that it can follow a method that read `student.*`; `drop_layers` is the one that
    reads them.
    """

    Config = PruneLayersConfig
    capabilities = Capabilities(cuts=True)
    references = (
        "Sajjad et al. 2023, arXiv:2004.03844",
        "Men et al. 2024 (ShortGPT), arXiv:2403.03853",
        "Song et al. 2024 (SLEB), arXiv:2402.09025",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse layers that are not there, a model that would keep all or none, and layers that share their weights."""
        self._count(source)

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Tell the new depth."""
        config = copy.deepcopy(source.config)
        config.num_hidden_layers = self._count(source)
        return replace(CompressionMethod.outline(self, source, plan), config=config)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Choose the layers and take the others out of a copy."""
        model = copy.deepcopy(source.model).to(ctx.device)
        depth, count = source.blueprint.layers, self._count(source.blueprint)
        scores: list[float] = []
        if self.config.layers is not None:
            kept = list(self.config.layers)
        elif self.config.by in (LayerChoice.similarity, LayerChoice.loss):
            batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.examples, ctx.seed)
            if self.config.by is LayerChoice.similarity:
                scores = block_influence(model, batches)
                kept = sorted(sorted(range(depth), key=lambda i: (-scores[i], i))[:count])
            else:
                kept, scores = _greedy(model, ctx.task, batches, count)
        else:
            kept = places(self.config.by, depth, count)
        pick_layers(model, kept)
        notes = {
            "layers_before": depth,
            "layers_kept": kept,
            "by": "layers" if self.config.layers else self.config.by.value,
        }
        if scores:
            notes["scores"] = [round(score, 5) for score in scores]
        return source.evolve(model=model.eval(), notes=notes)

    def _count(self, source: Blueprint) -> int:
        """Return how many layers stay.

        Raises:
            Incompatible: There is nothing to drop, or something else than separate layers to drop from.
        """
        depth = source.layers
        why = layers_can_go(source.config)
        if why is not None:
            raise Incompatible(f"method 'prune_layers' does not take family {family(source.config)}: {why}")
        if self.config.layers is not None:
            if self.config.layers[-1] >= depth or len(self.config.layers) == depth:
                raise Incompatible(
                    f"method.prune_layers.layers={self.config.layers}: the source has {depth} layers",
                    allowed=f"some, not all, of 0 to {depth - 1}",
                )
            return len(self.config.layers)
        drop = self.config.drop or depth // 2
        if not 1 <= drop < depth:
            raise Incompatible(
                f"method.prune_layers.drop={self.config.drop}: the source has {depth} layers",
                allowed=f"1 to {depth - 1}",
            )
        return depth - drop


def places(by: LayerChoice, depth: int, count: int) -> list[int]:
    """Return the layers that stay when the place alone decides.

    `alternate` drops every other layer from the top down (the last one stays: the paper's "odd alternate"), and goes through
    what is left again until enough are gone.
    """
    drop = depth - count
    if by is LayerChoice.top:
        return list(range(count))
    if by is LayerChoice.bottom:
        return list(range(drop, depth))
    if by is LayerChoice.symmetric:
        return [*range(-(-count // 2)), *range(depth - count // 2, depth)]
    left = list(range(depth))
    while len(left) > count:
        gone = left[::-1][1::2]
        left = [i for i in left if i not in gone[: len(left) - count]]
    return left


def block_influence(model: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """Return 1 - the mean cosine between what enters and what leaves each layer, over real tokens; equation 1 of Men et al."""
    import torch

    total, tokens = torch.zeros(int(model.config.num_hidden_layers), dtype=torch.float64), 0  # type: ignore[union-attr, arg-type]
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            states = model(**forward_inputs(model, batch.inputs), output_hidden_states=True).hidden_states
            real = batch.inputs["attention_mask"].bool()
            tokens += int(real.sum())
            for i, (before, after) in enumerate(zip(states, states[1:], strict=False)):
                total[i] += torch.cosine_similarity(before[real], after[real], dim=-1).double().sum().cpu()
    return [float(1 - cosine) for cosine in total / tokens]


def _greedy(model: nn.Module, task: Task, batches: Sequence[Batch], count: int) -> tuple[list[int], list[float]]:
    """Drop the layer whose absence leaves the lowest loss until `count` stay; the losses are those after each drop."""
    kept, losses = list(range(len(encoder_layers(model)))), []
    while len(kept) > count:
        found = {gone: _loss(model, task, batches, [i for i in kept if i != gone]) for gone in kept}
        gone = min(found, key=lambda i: (found[i], -i))
        kept.remove(gone)
        losses.append(found[gone])
    return kept, losses


def _loss(model: nn.Module, task: Task, batches: Sequence[Batch], layers: Sequence[int]) -> float:
    """Return the mean hard loss of a model with some of its layers."""
    import torch

    shorter = copy.deepcopy(model).eval()
    pick_layers(shorter, layers)
    total = count = 0.0
    with torch.inference_mode():
        for batch in batches:
            loss = task.hard_loss(shorter(**forward_inputs(shorter, batch.inputs)).logits, batch)
            total += float(loss) * len(batch.ids)
            count += len(batch.ids)
    return total / count
