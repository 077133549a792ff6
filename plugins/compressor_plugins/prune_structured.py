"""Hidden width, heads and feed-forward neurons go together, wherever the dependency graph says that they are the same thing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    MissingExtra,
    Plan,
    draw_batches,
    encoder_layers,
    ffn_size_name,
    forward_inputs,
    head_count,
    head_size,
    keep_heads,
    layer_parts,
    settle_width,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

# Config entries that repeat the hidden width (where they equalled it before).
_SAME_WIDTH = ("embedding_size", "pooler_hidden_size")


class GroupImportance(StrEnum):
    """Score of a group of coupled weights: the size of the weights, or of weight times gradient on the task."""

    magnitude = "magnitude"
    taylor = "taylor"


@dataclass(slots=True, kw_only=True)
class PruneStructuredConfig(MethodConfig):
    """Options of `prune_structured`."""

    hidden: float = 0.75  # share of the hidden width that stays, in whole heads; 1 leaves it alone
    heads: float | None = None  # share of each layer's heads that stays; unset: as many as fill the hidden width
    ffn: float | None = None  # share of each layer's feed-forward neurons that stays; unset: as `hidden`
    multiple_of: int = 8  # the feed-forward width is a multiple of this
    importance: GroupImportance = GroupImportance.taylor  # magnitude, taylor
    examples: int = 512  # labelled training examples for taylor

    def __post_init__(self) -> None:
        for name in ("hidden", "heads", "ffn"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"method.prune_structured.{name}={value}", allowed="above 0, at most 1")
        if {self.hidden, self.heads, self.ffn} <= {1.0, None}:
            raise ConfigError(
                f"method.prune_structured.hidden={self.hidden} removes nothing",
                allowed="hidden, heads or ffn below 1",
            )
        for name in ("multiple_of", "examples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"method.prune_structured.{name}={getattr(self, name)}", allowed="1 or more")


class PruneStructured(CompressionMethod[PruneStructuredConfig]):
    """Narrow the whole encoder, hidden width included, along its dependency graph; train nothing.

    DepGraph (Fang et al. 2023, section 3.2) traces which weights must go together: a hidden dimension is a column of every
    embedding table, an entry of every norm, a row or a column of every linear. Graph, scores and surgery are torch-pruning's,
    the authors' own library: a group scores the mean of its members, each sum |w|^2 (`magnitude`, equation 4 without its sparse
    training) or sum |w dL/dw| on labelled examples (`taylor`). Groups are ranked within themselves, since all layers
    share the hidden width and the config has one number for the others.

    A head keeps its width. With `heads` unset there are as many as fill the hidden width, and the result is a plain
    checkpoint; otherwise the layers' own shapes are recorded. A norm over fewer dimensions computes another mean and another
    variance, so no part of the model is as it was, and a training method should follow.
    """

    Config = PruneStructuredConfig
    capabilities = Capabilities(
        cuts=True,
        tasks=frozenset(
            {"classification", "regression", "token_classification"}
        ),  # a masked-LM head is tied to the table
        families=frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert"}),
        libraries=frozenset({"torch-pruning"}),
    )
    references = (
        "Fang et al. 2023 (DepGraph), arXiv:2301.12900",
        "Molchanov et al. 2019, arXiv:1906.10771 (taylor)",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse what is not installed, and shares that round to the shape that the source has."""
        _library()
        hidden, table = self._shape(source.config)[0], getattr(source.config, "embedding_size", source.hidden_size)
        if hidden == table != source.hidden_size:
            raise Incompatible(
                f"method.prune_structured.hidden={self.config.hidden} makes the hidden states as wide as the embeddings "
                f"({table}), and transformers then leaves out the projection between them",
                hint="another method.prune_structured.hidden",
            )
        filling = self._shape(source.config)[0] // (source.hidden_size // int(source.config.num_attention_heads))
        if self._shape(source.config)[2] > filling:
            raise Incompatible(
                f"method.prune_structured.heads={self.config.heads} keeps {self._shape(source.config)[2]} heads, and the "
                f"narrower hidden states have room for {filling}",
                hint="leave method.prune_structured.heads out, or set it to method.prune_structured.hidden or less",
            )
        if self._shape(source.config) == (*_widths(source.config), int(source.config.num_attention_heads)):
            raise Incompatible(
                f"method.prune_structured.hidden={self.config.hidden} removes nothing from {source.hidden_size} dimensions, "
                f"{source.config.num_attention_heads} heads",
                hint="method.prune_structured.hidden=0.5",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Tell the new widths, and the heads where they do not fill the hidden width."""
        config = copy.deepcopy(source.config)
        hidden, neurons, heads = self._shape(config)
        _settle_hidden(config, hidden)
        setattr(config, ffn_size_name(config), neurons)
        result = replace(CompressionMethod.outline(self, source, plan), config=config)
        return result.with_cut(
            heads=None if source.heads is None else min(heads, source.heads),
            neurons=None if source.neurons is None else min(neurons, source.neurons),
        )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Trace a copy, score its groups, remove the weakest members of each."""
        import torch

        model = copy.deepcopy(source.model).to(ctx.device).eval()
        hidden, neurons, heads = self._shape(model.config)  # type: ignore[arg-type]
        batches = draw_batches(ctx.batches("train", source.tokenizer), self.config.examples, ctx.seed)
        before = _traced_attention(model)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        if self.config.importance is GroupImportance.taylor:
            _gradients(model, ctx, batches)
        with torch.enable_grad():
            surgeon = Surgeon(model, forward_inputs(model, batches[0].inputs), self.config.importance)
        kept_heads = [surgeon.best_heads(layer, heads) for layer in encoder_layers(model)]
        for layer in encoder_layers(model):
            surgeon.narrow(layer_parts(model, layer).ffn_in, neurons)
        old = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        tops = surgeon.beside_the_stream(old) if hidden < old else []
        surgeon.narrow(layer_parts(model, encoder_layers(model)[0]).ffn_out, hidden)
        for top in tops:
            surgeon.narrow(top, hidden)
        model.zero_grad(set_to_none=True)
        _settle_hidden(model.config, hidden)  # type: ignore[arg-type]
        for layer, kept in zip(encoder_layers(model), kept_heads, strict=True):
            if len(kept) < head_count(model, layer):
                keep_heads(model, layer, kept)
        settle_width(model)
        if before is not None:
            model.set_attn_implementation(before)  # type: ignore[operator]
        notes = {
            "hidden": [old, hidden],
            "neurons": neurons,
            "heads_kept": kept_heads,
            "importance": self.config.importance.value,
        }
        return source.evolve(model=model.eval(), notes=notes)

    def _shape(self, config: PretrainedConfig) -> tuple[int, int, int]:
        """Return hidden width, feed-forward width and heads a layer of the result."""
        hidden, neurons = _widths(config)
        heads = int(config.num_attention_heads)
        filling = max(1, round(self.config.hidden * heads))
        unit = min(self.config.multiple_of, neurons)
        share = self.config.hidden if self.config.ffn is None else self.config.ffn
        kept = min(neurons, max(unit, round(share * neurons / unit) * unit))
        wanted = filling if self.config.heads is None else max(1, round(self.config.heads * heads))
        return filling * (hidden // heads), kept, wanted


class Surgeon:
    """A model's dependency graph, its scores, and the knife."""

    def __init__(self, model: nn.Module, inputs: dict[str, Tensor], kind: GroupImportance) -> None:
        self.library = _library()
        self.model = model
        self.graph = self.library.DependencyGraph().build_dependency(
            model,
            example_inputs=inputs,
            forward_fn=lambda module, tensors: module(**tensors),
            output_transform=lambda output: output.logits,
        )
        importances = self.library.importance
        magnitude = importances.GroupMagnitudeImportance(p=2)
        self.score = magnitude if kind is GroupImportance.magnitude else importances.GroupTaylorImportance()

    def narrow(self, linear: nn.Linear, width: int) -> None:
        """Keep the `width` best outputs of a linear, and cut whatever hangs on the others."""
        count = linear.out_features
        if width < count:
            weakest = self._scores(linear).argsort(stable=True)[: count - width]
            self._group(linear, sorted(weakest.tolist())).prune()

    def best_heads(self, layer: nn.Module, count: int) -> list[int]:
        """Return a layer's best heads, ascending; a head scores the mean of its dimensions in q, k, v and output."""
        query = layer_parts(self.model, layer).query
        scores = self._scores(query).view(-1, head_size(self.model)).mean(dim=1)
        return sorted(scores.argsort(stable=True, descending=True)[:count].tolist())

    def beside_the_stream(self, width: int) -> list[nn.Linear]:
        """Return linears as wide as the hidden states that are not themselves in the residual stream: pooler and head.

        The config gives them the hidden width, and the graph does not, since nothing adds their outputs to it.
        """
        from torch import nn

        layers = encoder_layers(self.model)
        stream = self._group(layer_parts(self.model, layers[0]).ffn_out, list(range(width)))
        outputs = {dep.target.module for dep, _ in stream if self.graph.is_out_channel_pruning_fn(dep.handler)}
        inside = {module for layer in layers for module in layer.modules()}
        linears = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m not in inside]
        return [m for m in linears if m.out_features == width and m not in outputs]

    def _group(self, linear: nn.Linear, outputs: Sequence[int]) -> Any:
        return self.graph.get_pruning_group(linear, self.library.prune_linear_out_channels, idxs=list(outputs))

    def _scores(self, linear: nn.Linear) -> Tensor:
        scores: Tensor = self.score(self._group(linear, range(linear.out_features)))
        return scores.detach().cpu()


def _library() -> Any:
    """Return torch-pruning.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtra.of("torch-pruning", "pruning") from error
    return torch_pruning


def _widths(config: PretrainedConfig) -> tuple[int, int]:
    return int(config.hidden_size), int(getattr(config, ffn_size_name(config)))


def _settle_hidden(config: PretrainedConfig, hidden: int) -> None:
    """Write the hidden width into the config, with as many heads of the old width as fill it."""
    old, width = int(config.hidden_size), int(config.hidden_size) // int(config.num_attention_heads)
    for name in _SAME_WIDTH:
        projected = name == "embedding_size" and hasattr(
            config, "num_hidden_groups"
        )  # ALBERT's tables keep their width
        if getattr(config, name, None) == old and not projected:
            setattr(config, name, hidden)
    config.hidden_size = hidden
    config.num_attention_heads = hidden // width


def _traced_attention(model: nn.Module) -> str | None:
    """Compute attention step by step, so that the graph shows it; return how it was computed before."""
    before = getattr(model.config, "_attn_implementation", None)
    if before in (None, "eager"):
        return None
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return str(before)


def _gradients(model: nn.Module, ctx: Context, batches: Sequence[Any]) -> None:
    """Leave the gradient of the task's mean loss in the model."""
    import torch

    model.zero_grad(set_to_none=True)
    count = sum(len(batch.ids) for batch in batches)
    with torch.enable_grad():
        for batch in batches:
            logits = model(**forward_inputs(model, batch.inputs)).logits
            torch.autograd.backward(ctx.task.hard_loss(logits, batch) * (len(batch.ids) / count))
