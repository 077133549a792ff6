"""Weights stored in half precision: half the bytes, the same arithmetic as before."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.api import Capabilities, CompressedModel, CompressionMethod, Context, Incompatible, MethodConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


class HalfType(StrEnum):
    """bf16: float32's range, 8 significant bits. fp16: 11 significant bits, up to 65,504."""

    bf16 = "bf16"
    fp16 = "fp16"


@dataclass(slots=True, kw_only=True)
class HalfConfig(MethodConfig):
    """Options of `half`."""

    dtype: HalfType = HalfType.fp16  # fp16: 8 times finer; bf16: the range of float32


class Half(CompressionMethod[HalfConfig]):
    """Store every weight in 16 bits: half the bytes on disk, float32 when it runs.

    Weights are rounded to the nearest value of the type (ties to even). In memory and in every runtime they are float32
    holding rounded values: what precision a model runs in belongs to the measured cell, not to a method. The folder is an
    ordinary Hugging Face checkpoint whose config says float32; `from_pretrained(folder, dtype="bfloat16")` runs it in half.

    Micikevicius et al. 2018 keep a float32 master copy because training adds updates too small for 16 bits; a model that is no
    longer trained has none to add, so here the copy is dropped. It is the end of a chain for the same reason.
    """

    Config = HalfConfig
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True)
    references = (
        "Micikevicius et al. 2018, arXiv:1710.03740, section 3.1",
        "Kalamkar et al. 2019 (bfloat16), arXiv:1905.12322",
    )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Round every floating weight of a copy."""
        import torch

        model = ctx.build_student(source)
        with torch.no_grad():
            for name, weight in model.state_dict().items():
                if not weight.is_floating_point():
                    continue
                rounded = weight.to(_torch_type(self.config.dtype)).to(weight.dtype)
                if not torch.isfinite(rounded).all():
                    raise Incompatible(
                        f"{name} holds {float(weight.abs().max()):.3g}, and {self.config.dtype} ends at 65,504",
                        hint="method.half.dtype=bf16",
                    )
                weight.copy_(rounded)
        model.config.dtype = torch.float32  # type: ignore[union-attr]  # what transformers widens the file to
        return source.evolve(model=model, notes={"stored_as": self.config.dtype.value})

    def save_weights(self, model: nn.Module, folder: Path) -> None:
        """Write a half-precision copy; reading it into a float32 model widens it again."""
        super().save_weights(copy.deepcopy(model).to(_torch_type(self.config.dtype)), folder)


def _torch_type(kind: HalfType) -> torch.dtype:
    import torch

    return torch.bfloat16 if kind is HalfType.bf16 else torch.float16
