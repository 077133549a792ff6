"""Feed-forward neurons that the task can spare are cut out of the model."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd
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
    LayerParts,
    MethodConfig,
    Plan,
    draw_batches,
    encoder_layers,
    family,
    ffn_size_name,
    gate_gradients,
    keep_neurons,
    layer_parts,
    neurons_can_go,
    refit_outputs,
    settle_width,
    smallest,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig


class NeuronImportance(StrEnum):
    """Score of a neuron: Taylor's, its activation times its gradient, or the size of its weights (needs no data)."""

    taylor = "taylor"
    activation_gradient = "activation_gradient"
    magnitude = "magnitude"


# What competes: the neurons of one layer, or all of the model. (Written so because `global` is a word of Python's.)
NeuronScope = StrEnum("NeuronScope", {"per_layer": "per_layer", "global": "global"})


@dataclass(slots=True, kw_only=True)
class PruneFfnConfig(MethodConfig):
    """Options of `prune_ffn`."""

    keep: float = 0.5  # share of the feed-forward neurons that stays
    scope: NeuronScope = NeuronScope.per_layer  # per_layer: every layer keeps that share; global: the model as a whole
    importance: NeuronImportance = NeuronImportance.taylor  # taylor, activation_gradient, magnitude
    examples: int = 512  # labelled training examples that the scores are taken from
    multiple_of: int = 8  # every layer's width is a multiple of this: vector kernels like it
    reconstruct: int = 256  # training examples on which the output linears are refitted by least squares; 0: not at all

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise ConfigError(f"method.prune_ffn.keep={self.keep}", allowed="above 0 and below 1")
        for name in ("examples", "multiple_of"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.prune_ffn.{name}={getattr(self, name)}", allowed="1 or more")
        if self.reconstruct < 0:
            raise ConfigError(f"method.prune_ffn.reconstruct={self.reconstruct}", allowed="0 (not at all) or more")


class PruneFfn(CompressionMethod[PruneFfnConfig]):
    """Remove the feed-forward neurons that matter least to the task; train nothing.

    `taylor` is the first-order score of Molchanov et al. 2019 (equation 8, for the group of a neuron's weights, in its gate
    form): I_n = E_x (sum_l a_ln dL(x)/da_ln)^2 over the positions l of an example x; the squares are taken example by example
    (their "full gradient" variant), which is also the diagonal Fisher information of Kwon et al. 2022.
    `activation_gradient` is Molchanov et al. 2017 (equation 8, summed where they average over positions): the size of the same
    sum instead of its square, with each layer's scores divided by their l2 norm, as there. `magnitude` is |w_in| |w_out|
    over the layer's mean. L is the task's loss.

    `reconstruct` lets the neurons that stay take over what the others gave: the output linear, bottom layer first, is the
    least-squares solution on training text (see `refit_outputs`).
    """

    Config = PruneFfnConfig
    capabilities = Capabilities(cuts=True)
    references = (
        "Molchanov et al. 2019, arXiv:1906.10771",
        "Molchanov et al. 2017, arXiv:1611.06440",
        "Kwon et al. 2022, arXiv:2204.09656 (reconstruct)",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a family whose neurons are tied, and a share that removes none."""
        why = neurons_can_go(source.config)
        if why is not None:
            raise Incompatible(f"method 'prune_ffn' does not take family {family(source.config)}: {why}")
        width = source.neurons or _width(source.config)
        if self._kept_of(width) >= width:
            raise Incompatible(
                f"method.prune_ffn.keep={self.config.keep} keeps all of {width} neurons a layer (in multiples of "
                f"{self.config.multiple_of})",
                hint="a smaller method.prune_ffn.keep, or method.prune_ffn.multiple_of=1",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Give the narrower width, where one number tells it."""
        result = CompressionMethod.outline(self, source, plan)
        if source.neurons is None or self.config.scope is not NeuronScope.per_layer:
            unit = gcd(source.inner_multiple, self.config.multiple_of, _width(source.config))
            return replace(result.with_cut(neurons=None), inner_multiple=unit)
        kept = self._kept_of(source.neurons)
        config = copy.deepcopy(source.config)
        setattr(config, ffn_size_name(config), kept)
        return replace(result, config=config).with_cut(neurons=kept)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Score the neurons, cut out the lowest, refit the output linears if asked."""
        model = copy.deepcopy(source.model).to(ctx.device)
        layers = encoder_layers(model)
        scores = self._scores(model, source, ctx)
        widths = self._widths(scores)
        reference = copy.deepcopy(model) if self.config.reconstruct else None
        for layer, score, width in zip(layers, scores, widths, strict=True):
            order = score.argsort(descending=True, stable=True)
            keep_neurons(model, layer, sorted(order[:width].tolist()))
        settle_width(model)
        if reference is not None:
            batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.reconstruct, ctx.seed)
            parts = [
                (layer_parts(model, layer), layer_parts(reference, wide))
                for layer, wide in zip(layers, encoder_layers(reference), strict=True)
            ]
            blocks = [(Block(own.ffn_in, own.ffn_out), Block(other.ffn_in, other.ffn_out)) for own, other in parts]
            refit_outputs(model, reference, blocks, batches)
        notes = {
            "neurons_before": [len(score) for score in scores],
            "neurons_kept": widths,
            "importance": self.config.importance.value,
            "reconstructed_on": self.config.reconstruct,
        }
        return source.evolve(model=model.eval(), notes=notes)

    def _scores(self, model: nn.Module, source: CompressedModel, ctx: Context) -> list[Tensor]:
        """Return each layer's scores, one a neuron."""
        parts = [layer_parts(model, layer) for layer in encoder_layers(model)]
        if self.config.importance is NeuronImportance.magnitude:
            sizes = [_weights_of_neurons(part) for part in parts]
            return [size / size.mean() for size in sizes]
        batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.examples, ctx.seed)
        outputs = {str(number): part.ffn_out for number, part in enumerate(parts)}
        gradients = gate_gradients(model, ctx.task, batches, outputs)
        return [importance(gradients[name], self.config.importance) for name in outputs]

    def _kept_of(self, width: int, share: float | None = None) -> int:
        """Return the multiple nearest to a share of the width: at least one multiple, at most the width."""
        unit = min(self.config.multiple_of, width)
        wanted = (self.config.keep if share is None else share) * width
        return min(max(unit, round(wanted / unit) * unit), width)

    def _widths(self, scores: list[Tensor]) -> list[int]:
        """Return how many neurons each layer keeps."""
        if self.config.scope is NeuronScope.per_layer:
            return [self._kept_of(len(score)) for score in scores]
        import torch

        together = torch.cat(scores)
        kept = ~smallest(together, len(together) - max(1, round(self.config.keep * len(together))))
        return [
            self._kept_of(len(score), float(part.sum()) / len(score))
            for score, part in zip(scores, torch.split(kept, [len(score) for score in scores]), strict=True)
        ]


def importance(gradients_NF: Tensor, kind: NeuronImportance) -> Tensor:
    """Return [neurons] from the derivatives of N examples by gates on the F inputs of a feed-forward output linear."""
    scores_F: Tensor = gradients_NF.square().mean(dim=0)
    if kind is NeuronImportance.activation_gradient:
        scores_F = gradients_NF.abs().mean(dim=0)
        scores_F = scores_F / (scores_F.norm() + 1e-20)
    return scores_F


def _width(config: PretrainedConfig) -> int:
    return int(getattr(config, ffn_size_name(config)))


def _weights_of_neurons(parts: LayerParts) -> Tensor:
    """Return the product of the norms of each neuron's incoming and outgoing weights; [neurons]."""
    size: Tensor = parts.ffn_in.weight.detach().norm(dim=1) * parts.ffn_out.weight.detach().norm(dim=0)
    return size.cpu()
