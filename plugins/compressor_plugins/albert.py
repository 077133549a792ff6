"""ALBERT's two ideas as a compression step: layers that share their weights, and a factorised embedding table.

What it buys is bytes: the shared layer still runs once for every layer of the source, and the arithmetic stays the same. Time
is gained, if at all, where the processor's caches hold the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Imitation,
    Incompatible,
    MethodConfig,
    Plan,
    copy_head,
    dropout_of,
    embedding_tables,
    embeddings,
    encoder_layers,
    family,
    layer_parts,
    neuron_count,
    parameter_count,
    spread,
    start_embeddings,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

# Layers as ALBERT's (norm after each part) and positions from a table; MPNet and DeBERTa have relative positions.
_HELD_BY_ALBERT: Final = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"})
_TIED_ONLY: Final = frozenset({"mpnet", "deberta-v2"})

_OTHER_NAMES: Final = {
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "intermediate_size": "hidden_dim",
}


class Share(StrEnum):
    """Which parameters the layers share (Lan et al. 2020, section 4.5, table 4)."""

    all = "all"
    attention = "attention"
    ffn = "ffn"


class Start(StrEnum):
    """Where the shared weights of a group of layers start from."""

    first = "first"
    last = "last"
    mean = "mean"


@dataclass(slots=True, kw_only=True)
class AlbertConfig(MethodConfig):
    """Options of `albert`."""

    share: Share = Share.all  # all, attention, or ffn (the feed-forward part)
    groups: int = 1  # sets of neighbouring layers; each set has weights of its own
    embedding_size: int | None = None  # E, width of the factorised embeddings (the paper: 128); unset: not factorised
    start: Start = Start.first  # what a group starts from: its first layer, its last, or the mean of its layers
    start_layers: list[int] | None = None  # instead of `start`: for each group the layer (from 0) that it starts from
    genuine: bool = True  # share=all: transformers' own Albert; false: tied layers in the source's architecture
    hidden_weight: float = 5.0  # weight of the hidden-state loss; 0 leaves it out
    alpha: float = 0.0  # weight of the labels; the soft targets have 1 - alpha
    temperature: float = 2.0  # softens both distributions; classes only
    dropout: float = 0.0  # while it trains; the soft targets regularise already

    def __post_init__(self) -> None:
        for name, allowed, ok in (
            ("groups", "1 or more", self.groups >= 1),
            ("embedding_size", "2 or more", self.embedding_size is None or self.embedding_size >= 2),
            ("start_layers", "one layer of the source for each group, from 0", self._start_fits()),
            ("hidden_weight", "0 or more", self.hidden_weight >= 0),
            ("alpha", "0 to 1", 0 <= self.alpha <= 1),
            ("temperature", "above 0", self.temperature > 0),
            ("dropout", "0 to below 1", 0 <= self.dropout < 1),
        ):
            if not ok:
                raise ConfigError(f"method.albert.{name}={getattr(self, name)}", allowed=allowed)

    def _start_fits(self) -> bool:
        return self.start_layers is None or (len(self.start_layers) == self.groups and min(self.start_layers) >= 0)

    def origins(self, model: nn.Module) -> list[list[int]]:
        """Return, for each group, the layers whose mean it starts from."""
        if self.start_layers is not None:
            return [[layer] for layer in self.start_layers]
        groups = grouped(len(encoder_layers(model)), self.groups)
        return [{Start.first: group[:1], Start.last: group[-1:], Start.mean: group}[self.start] for group in groups]

    @property
    def as_albert(self) -> bool:
        """Whether the result is a checkpoint of transformers' own ALBERT."""
        return self.share is Share.all and self.genuine


class Albert(CompressionMethod[AlbertConfig]):
    """Share weights across layers and factorise the embeddings, then distil: far fewer bytes, the same arithmetic.

    Sharing (Lan et al. 2020, section 3.1) makes the layers of a group one layer that runs several times. A group starts from
    its first layer: in a trial the mean of its layers, whose neurons do not correspond, recovered far worse. Factorising
    replaces the V x H embedding table by V x E and E x H. The paper trains both from scratch; here the model starts from its
    source and is brought back by `Imitation` of the teacher, whose layers it still has one for one.

    The factorised table is the truncated SVD of the source's, weighted by how often the training text uses a token: U_k S_k
    is the table, V_k^T goes into the projection. ALBERT normalises at width E, before the projection, and BERT at width H,
    after it: `start_embeddings` says how the one is made to resemble the other, and the projection is then the
    least-squares fit to the source's embedding output on the training tokens. An approximation all the same: hidden-state
    imitation includes the embeddings' output. Without factorising (E = H) the embedding output is exactly the source's.

    A head that ends in something other than tanh (ELECTRA, DistilBERT) starts from its own weights under ALBERT's tanh.
    """

    Config = AlbertConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden"}),
        tasks=frozenset({"classification", "regression", "token_classification"}),
        families=_HELD_BY_ALBERT | _TIED_ONLY,
    )
    references = ("Lan et al. 2020, arXiv:1909.11942",)

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        shared = {Share.all: {"heads", "neurons"}, Share.attention: {"heads"}, Share.ffn: {"neurons"}}[config.share]
        lone = config.as_albert and config.groups == 1 and config.start is Start.first and config.start_layers is None
        self.capabilities = replace(
            self.capabilities,
            ties_layers=not config.as_albert,
            whole_layers=frozenset({"heads"} if config.as_albert else ()),
            even_layers=frozenset(shared - ({"neurons"} if lone else set())),  # one ALBERT layer is like its first
        )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a narrower student, groups that do not fit, and what ALBERT's config cannot hold."""
        options, student = self.config, plan.student_blueprint(source)
        if student.hidden_size != source.hidden_size or plan.student.heads is not None:
            raise Incompatible(
                "albert keeps its source's width and heads: layers of another width have no weights to start from",
                hint="method=[distill,albert] student.hidden_size=... (distill makes it narrower first)",
            )
        if options.groups > student.layers:
            raise Incompatible(
                f"method.albert.groups={options.groups}: the student has {student.layers} layers",
                allowed=f"1 to {student.layers}",
            )
        outside = [layer for layer in options.start_layers or [] if layer >= student.layers]
        if outside:
            raise Incompatible(
                f"method.albert.start_layers={options.start_layers}: there is no layer {outside[0]}",
                allowed=f"0 to {student.layers - 1}",
            )
        if options.as_albert and family(source.config) not in _HELD_BY_ALBERT:
            raise Incompatible(
                f"transformers' ALBERT has no place for the relative positions of {family(source.config)}",
                allowed=", ".join(sorted(_HELD_BY_ALBERT)),
                hint="method.albert.genuine=false (the same sharing in the source's own architecture)",
            )
        self._check_embeddings(source)
        shapes = [(one.layers, one.hidden_size) for one in (student, plan.teacher)]
        alike = shapes[0][0] <= shapes[1][0] and shapes[0][1] == shapes[1][1]
        if options.hidden_weight and not (alike and plan.tokens_align(source)):
            raise Incompatible(
                f"hidden states of {shapes[0]} layers and width cannot be compared with the teacher's {shapes[1]}, or the "
                "two see different tokens",
                hint="method.albert.hidden_weight=0",
            )

    def _check_embeddings(self, source: Blueprint) -> None:
        wanted, width = self.config.embedding_size, source.hidden_size
        if wanted is None:
            return
        if not self.config.as_albert:
            raise Incompatible(
                f"method.albert.embedding_size={wanted}: only ALBERT's own architecture holds factorised embeddings",
                allowed="share=all and genuine=true",
                hint="method=[albert,factorize] for the embeddings of another architecture",
            )
        if wanted >= width or getattr(source.config, "embedding_size", width) != width:
            raise Incompatible(
                f"method.albert.embedding_size={wanted}: the source's embeddings are {_embedding_width(source)} wide, its "
                f"layers {width}",
                allowed=f"2 to {width - 1}, for a source whose embeddings are not factorised yet",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict an ALBERT of the student's shape."""
        student = super().outline(source, plan)
        if not self.config.as_albert:
            return student
        width = self.config.embedding_size or _embedding_width(source)
        return replace(student, config=_albert_config(student.config, self.config.groups, width))

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Share, factorise, train, return."""
        options = self.config
        model: nn.Module = ctx.build_student(source)
        before = encoder_parameters(model)
        tie_layers(model, options.share, options.groups, options.origins(model))
        structure: dict[str, Any] | None = {"shared": options.share.value, "groups": options.groups}
        if options.as_albert:
            model, structure = self._albert(model, source, ctx), None
        depth, teacher = int(model.config.num_hidden_layers), ctx.teacher.blueprint.layers  # type: ignore[union-attr, arg-type]
        layers = dict(enumerate(spread(teacher, depth))) if depth <= teacher else {}
        if options.embedding_size is not None:
            layers = {-1: -1, **layers}
        loss = Imitation(
            layers=layers, hidden_weight=options.hidden_weight, alpha=options.alpha, temperature=options.temperature
        )
        read: dict[str, Any] = {"signals": loss.signals, "student_signals": loss.student_signals}
        with dropout_of(model, options.dropout):
            result = ctx.fit(model, loss, **read, use_unlabelled=True, tokenizer=source.tokenizer)
        counts = {
            "encoder_parameters": encoder_parameters(model),
            "encoder_parameters_before": before,
            "parameters": parameter_count(model),
            "speed": "every layer still runs",
        }
        return source.evolve(model=model, structure=structure, notes={**result.summary(), **counts})

    def _albert(self, tied: nn.Module, source: CompressedModel, ctx: Context) -> nn.Module:
        """Move a model whose layers are tied into transformers' ALBERT."""
        import transformers

        options = self.config
        width = options.embedding_size or _embedding_width(source.blueprint)
        config = _albert_config(tied.config, options.groups, width, tied)  # type: ignore[arg-type]
        auto = getattr(transformers, ctx.task.auto_class)
        albert: nn.Module = auto.from_config(config, trust_remote_code=False)
        own_layers = encoder_layers(tied)
        for target, members in zip(encoder_layers(albert), grouped(len(own_layers), options.groups), strict=True):
            _fill_layer(target, tied, own_layers[members[0]])
        encoder: Any = albert.base_model.encoder  # type: ignore[union-attr]
        batches = None if options.embedding_size is None else ctx.batches("train", source.tokenizer)
        start_embeddings(embeddings(albert), encoder.embedding_hidden_mapping_in, tied, batches)
        copy_head(albert, tied)
        return albert


def grouped(layers: int, groups: int) -> list[list[int]]:
    """Return the layers of each group, as transformers' ALBERT assigns them: layer i to group int(i / (layers / groups))."""
    members: list[list[int]] = [[] for _ in range(groups)]
    for layer in range(layers):
        members[int(layer / (layers / groups))].append(layer)
    return members


def tie_layers(model: nn.Module, share: Share, groups: int, origins: Sequence[Sequence[int]]) -> None:
    """Give the layers of each group the same parameters, in place: objects shared, values the mean of its `origins`."""
    import torch
    from torch import nn

    layers = encoder_layers(model)
    shared: list[tuple[list[int], str, Tensor]] = []
    for number, members in enumerate(grouped(len(layers), groups)):
        for path in _shared_paths(model, layers[members[0]], share):
            values = [layers[origin].get_parameter(path).detach() for origin in origins[number]]
            shared.append((members, path, torch.stack(values).mean(dim=0)))
    for members, path, value in shared:
        parameter = nn.Parameter(value)
        owner, _, name = path.rpartition(".")
        for member in members:
            setattr(layers[member].get_submodule(owner), name, parameter)


def _shared_paths(model: nn.Module, layer: nn.Module, share: Share) -> list[str]:
    """Name a layer's parameters that are shared; the norm after each part belongs to it."""
    parts = layer_parts(model, layer)
    ffn = {id(p) for module in (parts.ffn_in, parts.ffn_out, _norms(layer)[-1]) for p in module.parameters()}
    return [
        name for name, p in layer.named_parameters() if share is Share.all or (id(p) in ffn) == (share is Share.ffn)
    ]


def _norms(layer: nn.Module) -> list[nn.Module]:
    """Return the norm after the attention and the norm after the feed-forward part."""
    from torch import nn

    return [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]


def encoder_parameters(model: nn.Module) -> int:
    """Count the parameters of the encoder's layers, shared ones once."""
    return sum({id(p): p.numel() for layer in encoder_layers(model) for p in layer.parameters()}.values())


def _embedding_width(source: Blueprint) -> int:
    return int(getattr(source.config, "embedding_size", source.hidden_size))


def _albert_config(
    config: PretrainedConfig, groups: int, embedding_size: int, model: nn.Module | None = None
) -> PretrainedConfig:
    """Return ALBERT's config for a source's; what only a model tells (rows of tables, widths after pruning) is read off it."""
    from transformers import AlbertConfig as HubConfig

    source: Any = config
    values: dict[str, Any] = {"embedding_size": embedding_size, "num_hidden_groups": groups, "inner_group_num": 1}
    for name in (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "initializer_range"),
        *("pad_token_id", "bos_token_id", "eos_token_id", "id2label", "label2id", "problem_type"),
    ):
        values[name] = getattr(source, name, None)
    for name, distilberts in _OTHER_NAMES.items():  # the activation is the source's: gelu, not ALBERT's gelu_new
        values[name] = getattr(source, name, getattr(source, distilberts, None))
    head_dropout = getattr(source, "classifier_dropout", getattr(source, "seq_classif_dropout", None))
    values["classifier_dropout_prob"] = values["hidden_dropout_prob"] if head_dropout is None else head_dropout
    if model is not None:
        tables = embedding_tables(model)
        values["max_position_embeddings"] = len(tables.position_PH)
        values["type_vocab_size"] = len(tables.type_KH)
        values["layer_norm_eps"] = embeddings(model).LayerNorm.eps  # type: ignore[union-attr]
        values["intermediate_size"] = neuron_count(model, encoder_layers(model)[0])
    return HubConfig(**values)


def _fill_layer(target: Any, model: nn.Module, layer: nn.Module) -> None:
    parts, (after_attention, after_ffn) = layer_parts(model, layer), _norms(layer)
    for new, old in (
        (target.attention.query, parts.query),
        (target.attention.key, parts.key),
        (target.attention.value, parts.value),
        (target.attention.dense, parts.attention_output),
        (target.attention.LayerNorm, after_attention),
        (target.ffn, parts.ffn_in),
        (target.ffn_output, parts.ffn_out),
        (target.full_layer_layer_norm, after_ffn),
    ):
        if any(a.shape != b.shape for a, b in zip(new.parameters(), old.parameters(), strict=True)):
            raise Incompatible("an ALBERT layer has as many heads as its width has room for, and this source lost some")
        new.load_state_dict(old.state_dict())
