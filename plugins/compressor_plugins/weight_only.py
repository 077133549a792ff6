"""Weight-only quantisation in torchao: the weights of the encoder's linears are integers, all arithmetic is float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
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
    encoder_linears,
    linears_outside,
    quantised_share,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_FILE = "model.safetensors"
_SUFFIXES = ("packed", "scale", "zero_point")  # of an int4 weight's parts in the file


@dataclass(slots=True, kw_only=True)
class Int8WeightOnlyConfig(MethodConfig):
    """Options of `int8_weight_only`."""

    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(
                f"method.int8_weight_only.minimum_share={self.minimum_share}", allowed="above 0, at most 1"
            )


class Int8WeightOnly(CompressionMethod[Int8WeightOnlyConfig]):
    """Store the encoder's linears as int8, one scale a channel, and compute in float32: smaller, not faster.

    q = clamp(round(w / s_c), -128, 127) with s_c = max|w_c| / 127.5 for output channel c: the symmetric quantiser of
    Krishnamoorthi 2018, section 2.2, over all 256 values as torchao lays them. The folder is an ordinary Hugging Face
    checkpoint for whoever has torchao.
    """

    Config = Int8WeightOnlyConfig
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True, libraries=frozenset({"torchao"}))
    references = ("Krishnamoorthi 2018, arXiv:1806.08342, section 2.2",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse to start without torchao."""
        _require_torchao()

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise a copy, count, and write into the config how transformers is to read it."""
        from torchao.quantization import Int8WeightOnlyConfig as Settings
        from transformers import TorchAoConfig

        model = ctx.build_student(source)
        settings = Settings(set_inductor_config=False)  # True would change settings of the whole process
        done = _quantise(model, encoder_linears(model), settings, "Int8Tensor")
        notes = quantised_share("int8_weight_only", done, encoder_linears(model), self.config.minimum_share)
        model.config.quantization_config = TorchAoConfig(settings, modules_to_not_convert=linears_outside(model))  # type: ignore[union-attr]
        return source.evolve(model=model, notes=notes)


@dataclass(slots=True, kw_only=True)
class Int4WeightOnlyConfig(MethodConfig):
    """Options of `int4_weight_only`."""

    group_size: int = 32  # neighbouring inputs of a channel that share scale and zero point; it must divide the widths
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if self.group_size < 8 or self.group_size % 2:
            raise ConfigError(
                f"method.int4_weight_only.group_size={self.group_size}", allowed="an even number, 8 or more"
            )
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(
                f"method.int4_weight_only.minimum_share={self.minimum_share}", allowed="above 0, at most 1"
            )


class Int4WeightOnly(CompressionMethod[Int4WeightOnlyConfig]):
    """Store the encoder's linears as int4 in groups with a scale and a zero point each, and compute in float32.

    In each group of neighbouring inputs, widened to hold 0: s = (max w - min w) / 15, z = clamp(-8 - round(min w / s), -8, 7),
    q = clamp(round(w / s) + z, -8, 7), and (q - z) s is computed with: the affine quantiser of Krishnamoorthi 2018,
    section 2.1, in small blocks, which Dettmers and Zettlemoyer 2023 find that 4 bits need.

    torchao's own int4 kernels take no float32 on a CPU: as of 0.18 `Int4WeightOnlyConfig` says "Requires mslk >= 1.0.0" (plain
    and preshuffled packing), "Int4PlainInt32Tensor does not support device 'cpu' yet" and "Only bfloat16 is supported for
    Int4TilePackedTo4dTensor". `IntxWeightOnlyConfig` works and keeps one byte a weight in memory. So the file is packed
    here, two weights a byte, and unpacked when it is loaded: small on disk, int8-sized in memory, loaded by this package only.
    """

    Config = Int4WeightOnlyConfig
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True, libraries=frozenset({"torchao"}))
    references = (
        "Krishnamoorthi 2018, arXiv:1806.08342, section 2.1",
        "Dettmers, Zettlemoyer 2023, arXiv:2212.09720",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse to start without torchao, or where groups would not fit into the encoder's width."""
        _require_torchao()
        size = self.config.group_size
        width = getattr(source.config, "true_hidden_size", source.hidden_size)  # MobileBERT's layers are thinner inside
        attention = source.attention_width
        inner = gcd(source.neurons or 0, source.inner_multiple)
        inputs = [width] * 4 + [attention, inner]  # of a layer's six linears
        if sum(i % size == 0 for i in inputs) / len(inputs) < self.config.minimum_share:
            widths = dict.fromkeys(inputs)
            allowed = [g for g in range(8, width + 1, 2) if not any(i % g for i in widths)]
            raise Incompatible(
                f"method.int4_weight_only.group_size={size} does not divide the encoder's widths, "
                f"{' and '.join(map(str, widths))}",
                allowed=", ".join(map(str, allowed)) or "no size fits: take int8_weight_only",
            )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise those linears of a copy whose inputs the group size divides, and count."""
        import torch
        from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup

        model = ctx.build_student(source)
        linears = encoder_linears(model)
        size = self.config.group_size
        fitting = {name: linear for name, linear in linears.items() if linear.in_features % size == 0}
        settings = IntxWeightOnlyConfig(
            weight_dtype=torch.int4,  # type: ignore[attr-defined]
            granularity=PerGroup(size),
            mapping_type=MappingType.ASYMMETRIC,
        )
        done = _quantise(model, fitting, settings, "IntxUnpackedToInt8Tensor")
        notes = quantised_share("int4_weight_only", done, linears, self.config.minimum_share)
        return source.evolve(model=model, notes={**notes, "group_size": size})

    def save_weights(self, model: nn.Module, folder: Path) -> None:
        """Write int4 weights two a byte, with their scales and zero points, and all else as it is."""
        from safetensors.torch import save_file

        parts: dict[str, Tensor] = {}
        for name, value in model.state_dict().items():
            weight: Any = value
            if not hasattr(weight, "qdata"):
                parts[name] = value.contiguous().clone()
                continue
            stored = (pack(weight.qdata), weight.scale, weight.zero_point)
            parts |= {f"{name}.{suffix}": part.contiguous() for suffix, part in zip(_SUFFIXES, stored, strict=True)}
        save_file(parts, str(folder / _FILE), metadata={"format": "pt"})

    def load_weights(self, model: nn.Module, folder: Path) -> None:
        """Put torchao's weights back, unpacked, and read all else as it is."""
        import torch
        from safetensors.torch import load_file

        _require_torchao()
        from torchao.quantization import IntxUnpackedToInt8Tensor

        parts = load_file(str(folder / _FILE))
        packed = [name.removesuffix(".packed") for name in parts if name.endswith(".weight.packed")]
        for name in packed:
            data, scale, zero_point = (parts.pop(f"{name}.{suffix}") for suffix in _SUFFIXES)
            qdata = unpack(data)
            parts[name] = IntxUnpackedToInt8Tensor(
                qdata=qdata,
                scale=scale,
                zero_point=zero_point,
                target_dtype=torch.int4,  # type: ignore[attr-defined]
                block_size=(1, qdata.shape[1] // scale.shape[1]),
                dtype=scale.dtype,
                activation_quantization=None,
            )
        model.load_state_dict(parts, assign=True)
        for name in packed:
            model.get_parameter(name).requires_grad_(False)  # no exporter takes integers that ask for a gradient


def pack(values: Tensor) -> Tensor:
    """Put two neighbouring values of -8 to 7 into a byte, the first into its low half; [N, K] int8 -> [N, K / 2] uint8."""
    import torch

    raised = (values + 8).to(torch.uint8)
    return raised[:, 0::2] | (raised[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """Undo `pack`."""
    import torch

    halves = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)
    return halves.to(torch.int8) - 8


def _require_torchao() -> None:
    from importlib.util import find_spec

    if find_spec("torchao") is None:
        raise MissingExtra.of("torchao", "torchao")


def _quantise(model: nn.Module, linears: Mapping[str, nn.Linear], settings: Any, kind: str) -> list[str]:
    """Quantise these linears in place; return the names of those whose weight is of torchao's type `kind` afterwards."""
    from torchao.quantization import quantize_

    chosen = set(linears.values())
    quantize_(model, settings, filter_fn=lambda module, name: module in chosen)
    return [name for name, linear in linears.items() if type(linear.weight).__name__ == kind]
