"""The student's architecture and its first weights, from a source model and `student.*`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from compressor import families, surgery
from compressor.artifact import CompressedModel
from compressor.config import StudentConfig
from compressor.errors import Incompatible

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

DEFAULT_INIT = "every_other"
_AS_WIDE = ("embedding_size", "pooler_hidden_size")  # of ELECTRA and DeBERTa: where equal to the width, they follow it


def student_config(source: PretrainedConfig, student: StudentConfig) -> PretrainedConfig:
    """Return the source's config with the student's shape.

    Raises:
        Incompatible: More layers than the source, heads that do not divide the width, a student equal to its
            source, or copied layers where the widths differ.
    """
    families.layers_path(source)  # refuses a family whose layers cannot be picked
    config = copy.deepcopy(source)
    layers = int(source.num_hidden_layers)
    _check_layers(student, layers)
    for name, attribute in (
        ("layers", "num_hidden_layers"),
        ("hidden_size", "hidden_size"),
        ("intermediate_size", families.ffn_size_name(source)),
        ("heads", "num_attention_heads"),
    ):
        value = getattr(student, name)
        if value is None:
            continue
        if value > getattr(source, attribute):
            raise Incompatible(
                f"student.{name}={value}: the source has {getattr(source, attribute)}",
                allowed=f"1 to {getattr(source, attribute)}",
            )
        setattr(config, attribute, value)
    for follower in _AS_WIDE:
        if getattr(source, follower, None) == source.hidden_size:
            setattr(config, follower, config.hidden_size)
    if config.hidden_size % config.num_attention_heads:
        fits = [h for h in range(1, config.hidden_size + 1) if config.hidden_size % h == 0 and h <= 64]
        raise Incompatible(
            f"student.heads={config.num_attention_heads} does not divide the width {config.hidden_size}",
            allowed=f"student.heads of {', '.join(map(str, fits))}",
        )
    if _shape(config) == _shape(source) and student.init != "random":
        raise Incompatible(
            f"the student settings {student.chosen()} leave the source as it is ({_describe(source)})",
            hint=f"student.layers={max(1, layers // 2)}",
        )
    if _widths(config) != _widths(source) and student.init not in (None, "random"):
        raise Incompatible(
            f"student.init={student.init} copies layers, but the student is {_describe(config)} and the source "
            f"{_describe(source)}",
            allowed="student.init=random, or a student of the same width and heads",
        )
    return config


def starts_afresh(source: PretrainedConfig, student: StudentConfig) -> bool:
    """Tell whether `build_student` draws random weights: it is asked to, or no layer of the source fits."""
    return student.init == "random" or _widths(student_config(source, student)) != _widths(source)


def _check_layers(student: StudentConfig, source_layers: int) -> None:
    if not isinstance(student.init, list):
        if student.layers is not None and student.layers > source_layers:
            raise Incompatible(
                f"student.layers={student.layers}: the source has {source_layers} layers",
                allowed=f"1 to {source_layers - 1}",
                hint=f"student.layers={max(1, source_layers // 2)}",
            )
        return
    outside = [i for i in student.init if i >= source_layers]
    if outside:
        raise Incompatible(
            f"student.init={student.init}: the source has no layer {outside[0]}", allowed=f"0 to {source_layers - 1}"
        )
    if student.layers != len(student.init):
        raise Incompatible(
            f"student.init={student.init} names {len(student.init)} layers, student.layers={student.layers}",
            hint=f"student.layers={len(student.init)}",
        )


def _shape(config: PretrainedConfig) -> tuple[int, ...]:
    return (*_widths(config), _ffn(config), int(config.num_hidden_layers))


def _widths(config: PretrainedConfig) -> tuple[int, int]:
    return int(config.hidden_size), int(config.num_attention_heads)


def _ffn(config: PretrainedConfig) -> int:
    return int(getattr(config, families.ffn_size_name(config)))


def _describe(config: PretrainedConfig) -> str:
    return (
        f"{config.num_hidden_layers} layers x {config.hidden_size}, {config.num_attention_heads} heads, "
        f"FFN {_ffn(config)}"
    )


def spread(source_layers: int, student_layers: int) -> list[int]:
    """Return the last layer of each of `student_layers` equal blocks of the source.

    12 -> 6 gives 1, 3, ..., 11: a student layer stands for the block that ends where its teacher layer does, so the
    same map initialises it and tells it what to imitate (the uniform map of Jiao et al. 2020, arXiv:1909.10351, section 3).
    """
    return [-(-(i + 1) * source_layers // student_layers) - 1 for i in range(student_layers)]


def initial_layers(init: str | list[int] | None, source_layers: int, student_layers: int) -> list[int]:
    """Return the source layer that each student layer starts from.

    `every_other` is `spread`; `uniform` goes from the first layer to the last; `first` and `last` are what they say.
    """
    if isinstance(init, list):
        return list(init)
    if init == "first":
        return list(range(student_layers))
    if init == "last":
        return list(range(source_layers - student_layers, source_layers))
    if init == "uniform":
        if student_layers == 1:
            return [0]
        return [round(i * (source_layers - 1) / (student_layers - 1)) for i in range(student_layers)]
    return spread(source_layers, student_layers)


def build_student(source: CompressedModel, student: StudentConfig) -> nn.Module:
    """Return a new module of the student's shape, initialised from the source.

    A narrower student (hidden size or heads) starts from random weights, since a slice of a layer computes nothing that
    the layer did; a narrower FFN keeps the neurons whose incoming and outgoing weights are largest. Layers that lost heads
    or neurons before stay as they are.
    """
    config = student_config(source.config, student)
    if starts_afresh(source.config, student):
        return type(source.model)._from_config(config)  # type: ignore[attr-defined, no-any-return, unused-ignore]  # transformers' own
    picked = initial_layers(student.init, int(source.config.num_hidden_layers), int(config.num_hidden_layers))
    module = copy.deepcopy(source.model)
    families.pick_layers(module, picked)
    if _ffn(config) != _ffn(source.config):
        for layer in families.encoder_layers(module):
            surgery.keep_neurons(module, layer, _strongest(surgery.layer_parts(module, layer), _ffn(config)))
        surgery.settle_width(module)
    return module


def _strongest(parts: surgery.LayerParts, keep: int) -> list[int]:
    """Return the FFN neurons with the largest weights in and out, in their old order."""
    strength = parts.ffn_in.weight.norm(dim=1) * parts.ffn_out.weight.norm(dim=0)
    return [int(i) for i in strength.topk(min(keep, len(strength))).indices.sort().values]
