"""Narrower layers in place: attention heads and feed-forward neurons that are gone, not masked.

A layer's shape is how many heads and neurons it has. It is read off the model itself, so that whatever cut it, the store can
write it down and rebuild it. What remains computes exactly what it did: the removed heads and neurons only stop adding to
the sums of the two output linears.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from compressor.errors import Incompatible
from compressor.families import encoder_layers, family, ffn_size_name, layout

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

# Where the attention block counts its own heads; it is reshaped by these, not by the config.
_HEAD_COUNTS = ("num_attention_heads", "n_heads")
_INNER_WIDTHS = ("all_head_size", "dim")
# A table over heads that all layers share, and projections of relative positions beside the six linears: not cut here.
_HEADS_FIXED = {"mpnet": "its relative position bias is one table over the heads of all layers"}
_NEURONS_FIXED = {"mobilebert": "its stacked feed-forward parts share one width"}


class LayerParts(NamedTuple):
    """The six linears of one encoder layer."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    ffn_in: nn.Linear
    ffn_out: nn.Linear


def _config(model: nn.Module) -> Any:
    """Return a model's configuration, which torch types as a tensor or a module."""
    return model.config


def layer_parts(model: nn.Module, layer: nn.Module) -> LayerParts:
    """Return the six linears of one of the model's layers."""
    where = layout(_config(model))
    return LayerParts(*(layer.get_submodule(path) for path in where[1:7]))  # type: ignore[arg-type]  # they are linears


def encoder_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return every linear inside the encoder's layers by its dotted name under `model`; shared ones once.

    These are what quantisers and pruners call eligible: the embeddings, the pooler and the head are not among them.
    """
    from torch import nn

    names = {module: name for name, module in model.named_modules()}
    found: dict[str, nn.Linear] = {}
    for layer in encoder_layers(model):
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                found.setdefault(names[module], module)
    return found


def head_size(model: nn.Module) -> int:
    """Return the width of one attention head: the same in every layer, before and after surgery."""
    config: Any = model.config
    width = getattr(config, "true_hidden_size", None) or config.hidden_size
    return int(width) // int(config.num_attention_heads)


def head_count(model: nn.Module, layer: nn.Module) -> int:
    """Return how many attention heads a layer has now."""
    return _outputs(layer_parts(model, layer).query) // head_size(model)


def matched_heads(one: nn.Module, layer: int, other: nn.Module, its_layer: int) -> int:
    """Return how many attention heads a layer of each of two models has, to be compared head by head.

    Raises:
        Incompatible: One has more than the other.
    """
    counts = [head_count(model, encoder_layers(model)[number]) for model, number in ((one, layer), (other, its_layer))]
    if counts[0] != counts[1]:
        raise Incompatible(
            f"layer {layer} has {counts[0]} attention heads and layer {its_layer}, which it would be compared with head by "
            f"head, {counts[1]}",
            hint="cut heads after what compares them",
        )
    return counts[0]


def neuron_count(model: nn.Module, layer: nn.Module) -> int:
    """Return how many feed-forward neurons a layer has now."""
    return _outputs(layer_parts(model, layer).ffn_in)


def _outputs(module: nn.Module) -> int:
    """Return the outputs of a linear, or of what a method put in its place (a product of two, packed integers)."""
    from torch import nn

    if isinstance(count := getattr(module, "out_features", None), int):
        return count
    return [part.out_features for part in module.modules() if isinstance(part, nn.Linear)][-1]


def heads_can_go(config: PretrainedConfig) -> str | None:
    """Return why single layers of this family cannot lose heads; None if they can."""
    return _HEADS_FIXED.get(family(config))


def neurons_can_go(config: PretrainedConfig) -> str | None:
    """Return why single layers of this family cannot lose feed-forward neurons; None if they can."""
    return _NEURONS_FIXED.get(family(config))


def layers_can_go(config: PretrainedConfig) -> str | None:
    """Return why single layers of this family cannot go; None if they can."""
    return "its layers share their weights" if layout(config).shared else None


def keep_heads(model: nn.Module, layer: nn.Module, heads: Sequence[int]) -> None:
    """Remove all but some attention heads of a layer, in place.

    Args:
        model: The model that the layer belongs to.
        layer: One of `encoder_layers(model)`.
        heads: Numbers of the heads that stay, ascending, counted among those that the layer has now.

    Raises:
        Incompatible: No head would stay, or the family's layers cannot lose heads one by one.
    """
    import torch

    why = heads_can_go(_config(model))
    if why is not None:
        raise Incompatible(f"attention heads of {family(_config(model))} cannot be removed: {why}")
    _require_places(heads, head_count(model, layer), "attention heads")
    width = head_size(model)
    kept = (torch.tensor(list(heads))[:, None] * width + torch.arange(width)).flatten()
    for path in _attention_inputs(model, layer):
        _replace(layer, path, rows=kept)
    _replace(layer, layout(_config(model)).attention_output, columns=kept)
    _count_heads(model, layer, len(heads))


def keep_neurons(model: nn.Module, layer: nn.Module, neurons: Sequence[int]) -> None:
    """Remove all but some feed-forward neurons of a layer, in place; `neurons` ascends and counts from 0.

    Raises:
        Incompatible: No neuron would stay, or the family's widths are fixed.
    """
    import torch

    why = neurons_can_go(_config(model))
    if why is not None:
        raise Incompatible(f"feed-forward neurons of {family(_config(model))} cannot be removed: {why}")
    _require_places(neurons, neuron_count(model, layer), "feed-forward neurons")
    where = layout(_config(model))
    kept = torch.tensor(list(neurons))
    _replace(layer, where.ffn_in, rows=kept)
    _replace(layer, where.ffn_out, columns=kept)


def shapes(model: nn.Module) -> list[dict[str, int]] | None:
    """Return heads and neurons of every layer module, or None where all are as the config says."""
    config: Any = model.config
    try:
        layers = encoder_layers(model)
    except Incompatible:
        return None
    whole = {"heads": int(config.num_attention_heads), "neurons": int(getattr(config, ffn_size_name(config)))}
    found = [{"heads": head_count(model, one), "neurons": neuron_count(model, one)} for one in layers]
    return None if all(shape == whole for shape in found) else found


def cut(config: PretrainedConfig, layers: Sequence[Mapping[str, int]] | None) -> dict[str, int | None]:
    """Return `Blueprint.cut` for the layers that `shapes` found: what differs from the config, None where layers do."""
    if layers is None:
        return {}
    whole = {"heads": int(config.num_attention_heads), "neurons": int(getattr(config, ffn_size_name(config)))}
    found = {part: {layer[part] for layer in layers} for part in whole}
    return {
        part: next(iter(numbers)) if len(numbers) == 1 else None
        for part, numbers in found.items()
        if numbers != {whole[part]}
    }


def reshape(model: nn.Module, wanted: Sequence[Mapping[str, int]]) -> nn.Module:
    """Cut a model built from its config to recorded shapes; its weights are loaded afterwards.

    What another method has rebuilt by then has its shape already.
    """
    for layer, shape in zip(encoder_layers(model), wanted, strict=True):
        if shape["heads"] != head_count(model, layer):
            keep_heads(model, layer, range(shape["heads"]))
        _count_heads(model, layer, shape["heads"])
        if shape["neurons"] != neuron_count(model, layer):
            keep_neurons(model, layer, range(shape["neurons"]))
    return model


def settle_width(model: nn.Module) -> None:
    """Write the feed-forward width into the config where all layers have the same, so that the config alone describes it."""
    config: Any = model.config
    widths = {neuron_count(model, layer) for layer in encoder_layers(model)}
    if len(widths) == 1:
        setattr(config, ffn_size_name(config), widths.pop())


def _attention_inputs(model: nn.Module, layer: nn.Module) -> list[str]:
    """Return the paths of the linears whose rows belong to heads: q, k, v, and DeBERTa's own position projections."""
    where = layout(_config(model))
    block = where.query.rpartition(".")[0]
    beside = [
        f"{block}.{name}" for name in ("pos_key_proj", "pos_query_proj") if hasattr(layer.get_submodule(block), name)
    ]
    return [where.query, where.key, where.value, *beside]


def _count_heads(model: nn.Module, layer: nn.Module, heads: int) -> None:
    where = layout(_config(model))
    block: Any = layer.get_submodule(where.query.rpartition(".")[0])
    for names, value in ((_HEAD_COUNTS, heads), (_INNER_WIDTHS, heads * head_size(model))):
        for name in names:
            if hasattr(block, name):
                setattr(block, name, value)


def _replace(layer: nn.Module, path: str, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Put a linear with only some rows (outputs) or columns (inputs) in the place of another."""
    from torch import nn

    old = layer.get_submodule(path)
    if type(old) is not nn.Linear:
        raise Incompatible(
            f"{path} is a {type(old).__name__} by now, and only plain linears can be cut", hint="prune before that step"
        )
    weight, bias = old.weight.detach(), None if old.bias is None else old.bias.detach()
    if rows is not None:
        rows = rows.to(weight.device)
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns.to(weight.device)]
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype)
    new.weight = nn.Parameter(weight.clone(), requires_grad=old.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.clone(), requires_grad=old.weight.requires_grad)
    new.train(old.training)
    parent, _, name = path.rpartition(".")
    setattr(layer.get_submodule(parent), name, new)


def _require_places(kept: Sequence[int], count: int, what: str) -> None:
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= count:
        raise Incompatible(
            f"{what} {list(kept)[:8]} were to be kept of {count}",
            allowed=f"ascending numbers from 0 to {count - 1}, at least one",
        )


__all__ = [
    "LayerParts",
    "cut",
    "encoder_linears",
    "head_count",
    "head_size",
    "heads_can_go",
    "keep_heads",
    "keep_neurons",
    "layer_parts",
    "layers_can_go",
    "matched_heads",
    "neuron_count",
    "neurons_can_go",
    "reshape",
    "settle_width",
    "shapes",
]
