"""Attention heads that the task can spare are cut out of the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from compressor.api import (
    Block,
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    Plan,
    draw_batches,
    encoder_layers,
    family,
    gate_gradients,
    head_size,
    heads_can_go,
    keep_heads,
    layer_parts,
    refit_outputs,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class HeadImportance(StrEnum):
    """Score of a head: Michel's, the Taylor one of Molchanov, or the size of its weights (needs no data)."""

    michel = "michel"
    taylor = "taylor"
    magnitude = "magnitude"


# What competes: the heads of one layer, or all heads of the model. (Written so because `global` is a word of Python's.)
HeadScope = StrEnum("HeadScope", {"per_layer": "per_layer", "global": "global"})


@dataclass(slots=True, kw_only=True)
class PruneHeadsConfig(MethodConfig):
    """Options of `prune_heads`."""

    keep: float = 0.5  # share of the heads that stays; every layer keeps at least one
    scope: HeadScope = HeadScope.per_layer  # per_layer: each layer keeps that share; global: the model as a whole
    importance: HeadImportance = HeadImportance.taylor  # michel, taylor, magnitude
    examples: int = 512  # labelled training examples that the scores are taken from
    reconstruct: int = 256  # training examples on which the output linears are refitted by least squares; 0: not at all

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ConfigError(f"method.prune_heads.keep={self.keep}", allowed="above 0 and below 1")
        if self.examples < 1:
            raise ConfigError(f"method.prune_heads.examples={self.examples}", allowed="1 or more")
        if self.reconstruct < 0:
            raise ConfigError(f"method.prune_heads.reconstruct={self.reconstruct}", allowed="0 (not at all) or more")


class PruneHeads(CompressionMethod[PruneHeadsConfig]):
    """Remove the attention heads that matter least to the task; train nothing.

    `michel` is equation 2 of Michel et al. 2019: I_h = E_x |Att_h(x)^T dL(x)/dAtt_h(x)|, the size of the derivative by a gate
    on the head, with each layer's scores divided by their l2 norm (section 4.1). The authors' BERT code takes the absolute
    value at each token before it sums; here x is an example, as in the paper. `taylor` is the first-order score of Molchanov et
    al. 2019 (equation 8 for a group of weights, in its gate form): I_h = E_x (dL(x)/dg_h)^2, example by example as in their
    "full gradient" variant, and comparable across layers as it is. L is the task's own loss, as in both papers. `magnitude`
    is the l2 norm of a head's weights over the layer's mean.

    `reconstruct` lets the heads that stay take over what the others gave: the attention's output linear, bottom layer first, is
    the least-squares solution on training text (see `refit_outputs`).
    """

    Config = PruneHeadsConfig
    capabilities = Capabilities(cuts=True)
    references = (
        "Michel, Levy, Neubig 2019, arXiv:1905.10650",
        "Molchanov et al. 2019, arXiv:1906.10771",
        "Kwon et al. 2022, arXiv:2204.09656 (reconstruct)",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a family whose heads are tied across layers, and a share that removes none."""
        why = heads_can_go(source.config)
        if why is not None:
            raise Incompatible(f"method 'prune_heads' does not take family {family(source.config)}: {why}")
        heads = source.heads or int(source.config.num_attention_heads)
        most = heads if self.config.scope is HeadScope.per_layer else heads * source.layers
        if round(self.config.keep * most) >= most or heads == 1:
            raise Incompatible(
                f"method.prune_heads.keep={self.config.keep} keeps all of {heads} heads a layer",
                allowed="every layer keeps at least one",
                hint=f"method.prune_heads.keep={(heads - 1) / heads:.2f}" if heads > 1 else "leave 'prune_heads' out",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Tell how many heads each layer keeps, where one number tells it."""
        result = super().outline(source, plan)
        if source.heads is None or self.config.scope is not HeadScope.per_layer:
            return result.with_cut(heads=None)
        return result.with_cut(heads=kept_of(source.heads, self.config.keep))

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Score the heads, cut out the lowest, refit the output linears if asked."""
        model = copy.deepcopy(source.model).to(ctx.device)
        layers = encoder_layers(model)
        scores = self._scores(model, source, ctx)
        kept = choose(scores, self.config.keep, self.config.scope)
        reference = copy.deepcopy(model) if self.config.reconstruct else None
        for layer, heads in zip(layers, kept, strict=True):
            keep_heads(model, layer, heads)
        if reference is not None:
            batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.reconstruct, ctx.seed)
            parts = [
                (layer_parts(model, layer), layer_parts(reference, wide))
                for layer, wide in zip(layers, encoder_layers(reference), strict=True)
            ]
            blocks = [
                (Block(own.query, own.attention_output), Block(other.query, other.attention_output))
                for own, other in parts
            ]
            refit_outputs(model, reference, blocks, batches)
        notes = {
            "heads_before": [len(layer) for layer in scores],
            "heads_kept": kept,
            "importance": self.config.importance.value,
        }
        return source.evolve(model=model.eval(), notes=notes)

    def _scores(self, model: nn.Module, source: CompressedModel, ctx: Context) -> list[Tensor]:
        """Return each layer's scores, one a head."""
        width = head_size(model)
        parts = [layer_parts(model, layer) for layer in encoder_layers(model)]
        if self.config.importance is HeadImportance.magnitude:
            sizes = [_weights_of_heads(part._asdict(), width) for part in parts]
            return [size / size.mean() for size in sizes]
        batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.examples, ctx.seed)
        outputs = {str(number): part.attention_output for number, part in enumerate(parts)}
        gradients = gate_gradients(model, ctx.task, batches, outputs)
        return [importance(gradients[name], width, self.config.importance) for name in outputs]


def importance(gradients_ND: Tensor, width: int, kind: HeadImportance) -> Tensor:
    """Return [heads] from the derivatives of N examples by gates on the D inputs of an attention's output linear.

    Args:
        gradients_ND: From `gate_gradients`; a head's `width` inputs lie side by side.
        width: Of one head.
        kind: `michel` (with the layer's l2 norm taken out) or `taylor`.
    """
    by_head_NH: Tensor = gradients_ND.view(len(gradients_ND), -1, width).sum(dim=2)
    scores_H: Tensor = by_head_NH.square().mean(dim=0)
    if kind is HeadImportance.michel:
        scores_H = by_head_NH.abs().mean(dim=0)
        scores_H = scores_H / (scores_H.norm() + 1e-20)
    return scores_H


def choose(scores: list[Tensor], keep: float, scope: HeadScope) -> list[list[int]]:
    """Return the heads that stay, by layer, ascending; ties go to the lower layer and head.

    In global scope each layer first keeps its best head, and the share is filled up with the best of all others.
    """
    ranked = [layer.argsort(descending=True, stable=True).tolist() for layer in scores]
    if scope is HeadScope.per_layer:
        return [sorted(order[: kept_of(len(order), keep)]) for order in ranked]
    kept = [[order[0]] for order in ranked]
    rest = [(-float(scores[i][head]), i, head) for i, order in enumerate(ranked) for head in order[1:]]
    wanted = round(keep * sum(len(layer) for layer in scores)) - len(kept)
    for _, i, head in sorted(rest)[: max(0, wanted)]:
        kept[i].append(head)
    return [sorted(heads) for heads in kept]


def kept_of(heads: int, keep: float) -> int:
    """Return how many of a layer's heads are the share to keep: one at least."""
    return max(1, round(keep * heads))


def _weights_of_heads(parts: Mapping[str, nn.Linear], width: int) -> Tensor:
    """Return the l2 norm of each head's weights in q, k, v and the output linear; [heads]."""
    each: Tensor = parts["attention_output"].weight.detach().square().sum(dim=0)
    for name in ("query", "key", "value"):
        each = each + parts[name].weight.detach().square().sum(dim=1)
    size: Tensor = each.view(-1, width).sum(dim=1).sqrt()
    return size.cpu()
