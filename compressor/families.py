"""What differs between encoder families: where the layers, the attention projections and the embeddings live.

Methods ask here and never branch on a model's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from compressor.errors import Incompatible

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Value = TypeVar("Value")

MODEL_INPUTS: Final = ("input_ids", "token_type_ids", "attention_mask")  # what a tokenizer may give


class Layout(NamedTuple):
    """Where a family keeps its layers (a path under the base model) and the linears of one (paths under a layer)."""

    layers: str
    query: str
    key: str
    value: str
    attention_output: str
    ffn_in: str
    ffn_out: str
    shared: bool = False  # several layers run the same weights, so none can be picked


_BERT = Layout(
    "encoder.layer",
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_LAYOUT: Final[Mapping[str, Layout]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "mobilebert": _BERT,
    "mpnet": _BERT._replace(
        query="attention.attn.q", key="attention.attn.k", value="attention.attn.v", attention_output="attention.attn.o"
    ),
    "distilbert": Layout(
        "transformer.layer",
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ),
    "deberta-v2": _BERT._replace(
        query="attention.self.query_proj", key="attention.self.key_proj", value="attention.self.value_proj"
    ),
    "albert": Layout(
        "encoder.albert_layer_groups",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.dense",
        "ffn",
        "ffn_output",
        shared=True,
    ),
}


class Projections(NamedTuple):
    """The query, key and value linears of one layer."""

    query: nn.Module
    key: nn.Module
    value: nn.Module


def family(config: PretrainedConfig) -> str:
    """Return the family name, transformers' `model_type`."""
    return str(config.model_type)


def layout(config: PretrainedConfig) -> Layout:
    """Return where a family keeps its layers and their linears.

    Raises:
        Incompatible: The family is not known.
    """
    name = family(config)
    if name not in _LAYOUT:
        raise Incompatible(f"encoder family '{name}' has no known list of layers", allowed=", ".join(sorted(_LAYOUT)))
    return _LAYOUT[name]


def layers_path(config: PretrainedConfig) -> str:
    """Return the dotted path of the layer list under the base model.

    Raises:
        Incompatible: The family keeps no list of layers that can be picked from.
    """
    found = layout(config)
    if found.shared:
        raise Incompatible(
            f"the layers of encoder family '{family(config)}' share their weights, so none can be picked",
            allowed=", ".join(sorted(name for name, where in _LAYOUT.items() if not where.shared)),
        )
    return found.layers


def ffn_size_name(config: PretrainedConfig) -> str:
    """Return the config attribute that holds the width of the feed-forward part."""
    return "hidden_dim" if family(config) == "distilbert" else "intermediate_size"


def reserved_positions(config: PretrainedConfig) -> int:
    """Return how many rows of the position table hold no token: RoBERTa's kin count positions from past the padding id."""
    counts_from_padding = family(config) in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return int(config.pad_token_id or 0) + 1 if counts_from_padding else 0


def most_tokens(config: PretrainedConfig) -> int | None:
    """Return the longest text that a model takes, in tokens; None where its config names no end."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions - reserved_positions(config) if positions is not None and positions > 0 else None


def forward_names(model: nn.Module) -> frozenset[str]:
    """Return the tokenizer tensors that a model's forward takes; all, if it names none and takes any (a wrapper)."""
    parameters = inspect.signature(model.forward).parameters
    named = frozenset(MODEL_INPUTS) & parameters.keys()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return frozenset(MODEL_INPUTS) if takes_any and not named else named


def forward_inputs(model: nn.Module, inputs: Mapping[str, Value]) -> dict[str, Value]:
    """Return those of `inputs` that the model's forward takes: some families have no `token_type_ids`."""
    names = forward_names(model)
    return {name: value for name, value in inputs.items() if name in names}


def base_model(model: nn.Module) -> nn.Module:
    """Return the encoder without its task head."""
    base: nn.Module = getattr(model, "base_model", model)
    return base


def _config(model: nn.Module) -> Any:
    """Return the model's config, whose entries differ from family to family; to torch an attribute is a tensor or a module."""
    return model.config


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the encoder's layer modules, bottom first; layers that share their weights are one module."""
    where = layout(_config(model))
    blocks = list(base_model(model).get_submodule(where.layers).children())
    return (
        [inner for group in blocks for inner in group.get_submodule("albert_layers").children()]
        if where.shared
        else blocks
    )


def pick_layers(model: nn.Module, picked: Sequence[int]) -> None:
    """Keep some of the encoder's layers, in place: copies where one is picked twice; the config follows.

    Raises:
        Incompatible: The family's layers share their weights.
    """
    import copy

    from torch import nn

    path = layers_path(_config(model))
    layers, seen, kept = encoder_layers(model), set[int](), []
    for number in picked:
        kept.append(copy.deepcopy(layers[number]) if number in seen else layers[number])
        seen.add(number)
    parent, _, name = path.rpartition(".")
    setattr(base_model(model).get_submodule(parent), name, nn.ModuleList(kept))
    _config(model).num_hidden_layers = len(kept)
    for number, layer in enumerate(kept):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                setattr(module, "layer_idx", number)  # noqa: B010 - torch types attributes as tensors and modules


def layer_call(model: nn.Module, number: int) -> tuple[nn.Module, int]:
    """Return the module that runs as layer `number` (from 0), and how often it has run before in the same forward."""
    layers, config = encoder_layers(model), _config(model)
    if not layout(config).shared:
        return layers[number], 0
    depth, inner = int(config.num_hidden_layers), int(config.inner_group_num)
    order = [
        group * inner + part
        for group in (int(i * len(layers) / inner / depth) for i in range(depth))
        for part in range(inner)
    ]
    return layers[order[number]], order[:number].count(order[number])


def attention_projections(model: nn.Module, layer: nn.Module) -> Projections:
    """Return the q, k and v linears of one of the model's layers."""
    where = layout(_config(model))
    return Projections(*(layer.get_submodule(path) for path in (where.query, where.key, where.value)))


def embeddings(model: nn.Module) -> nn.Module:
    """Return the embedding block (word, position and type tables with their norm)."""
    return base_model(model).get_submodule("embeddings")
