"""What differs between encoder families: where the layers, the attention projections and the embeddings live.

Methods ask here and never branch on a model's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from compressor.errors import Incompatible

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Value = TypeVar("Value")

MODEL_INPUTS: Final = ("input_ids", "token_type_ids", "attention_mask")  # what a tokenizer may give

# config.model_type -> (path of the layer list under the base model, paths of q, k, v under a layer)
_BERT = ("encoder.layer", ("attention.self.query", "attention.self.key", "attention.self.value"))
_LAYOUT: dict[str, tuple[str, tuple[str, str, str]]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "mpnet": ("encoder.layer", ("attention.attn.q", "attention.attn.k", "attention.attn.v")),
    "distilbert": ("transformer.layer", ("attention.q_lin", "attention.k_lin", "attention.v_lin")),
    "deberta-v2": (
        "encoder.layer",
        ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
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


def layers_path(config: PretrainedConfig) -> str:
    """Return the dotted path of the layer list under the base model.

    Raises:
        Incompatible: The family keeps no list of layers that can be picked from.
    """
    name = family(config)
    if name not in _LAYOUT:
        raise Incompatible(f"encoder family '{name}' has no known list of layers", allowed=", ".join(sorted(_LAYOUT)))
    return _LAYOUT[name][0]


def ffn_size_name(config: PretrainedConfig) -> str:
    """Return the config attribute that holds the width of the feed-forward part."""
    return "hidden_dim" if family(config) == "distilbert" else "intermediate_size"


def reserved_positions(config: PretrainedConfig) -> int:
    """Return how many rows of the position table hold no token: RoBERTa's kin count positions from past the padding id."""
    counts_from_padding = family(config) in ("roberta", "xlm-roberta", "camembert", "mpnet")
    return int(config.pad_token_id or 0) + 1 if counts_from_padding else 0


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
    base = getattr(model, "base_model", model)
    assert base is not None
    return base  # type: ignore[no-any-return]


def encoder_layers(model: nn.Module) -> list[nn.Module]:
    """Return the encoder's layers, bottom first."""
    path = layers_path(model.config)  # type: ignore[arg-type]
    return list(base_model(model).get_submodule(path).children())


def attention_projections(model: nn.Module, layer: nn.Module) -> Projections:
    """Return the q, k and v linears of one of the model's layers."""
    paths = _LAYOUT[family(model.config)][1]  # type: ignore[arg-type]
    return Projections(*(layer.get_submodule(path) for path in paths))


def embeddings(model: nn.Module) -> nn.Module:
    """Return the embedding block (word, position and type tables with their norm)."""
    return base_model(model).get_submodule("embeddings")
