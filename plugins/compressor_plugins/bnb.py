"""bitsandbytes: LLM.int8() and NF4 for the encoder's linears, on the CPU and on CUDA."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
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
_BLOCK = 64  # NF4 weights that share a scale


@dataclass(slots=True, kw_only=True)
class BnbInt8Config(MethodConfig):
    """Options of `bnb_int8`."""

    threshold: float = 6.0  # inputs with an activation of this size or more are multiplied in float; 0: none are
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ConfigError(f"method.bnb_int8.threshold={self.threshold}", allowed="0 or more")
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(f"method.bnb_int8.minimum_share={self.minimum_share}", allowed="above 0, at most 1")


@dataclass(slots=True, kw_only=True)
class BnbNf4Config(MethodConfig):
    """Options of `bnb_nf4`."""

    double_quant: bool = True  # store the blocks' scales in 8 bits too: 4.13 bits a weight instead of 4.5
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(f"method.bnb_nf4.minimum_share={self.minimum_share}", allowed="above 0, at most 1")


class BnbInt8(CompressionMethod[BnbInt8Config]):
    """Store the encoder's linears as int8 by LLM.int8(): outlying inputs in float, the rest int8 by int8; smaller, slower.

    Dettmers et al. 2022: a weight w of output channel c is stored as round(127 w / max|w_c|), an input row is scaled alike at
    each call (section 3.1, vector-wise quantisation); inputs that reach `threshold` anywhere in the batch are multiplied in
    float with the dequantised weights and the two products are added (section 3.2, equation 8). So an example's logits may
    depend on its batch mates. As in the authors' library, weights and inputs are rounded to float16 before they are quantised.

    The folder is an ordinary Hugging Face checkpoint for whoever has bitsandbytes and accelerate.
    """

    Config = BnbInt8Config
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True, libraries=frozenset({"bitsandbytes"}))
    references = ("Dettmers et al. 2022, arXiv:2208.07339, sections 3.1 and 3.2, equation 8",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse to start without bitsandbytes."""
        _require_bitsandbytes()

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise a copy, count, and write into the config how transformers is to read it."""
        from transformers import BitsAndBytesConfig

        model = ctx.build_student(source)
        names = list(encoder_linears(model))
        replace(model, names, self._module)
        notes = quantised_share("bnb_int8", _of_type(model, "Linear8bitLt"), names, self.config.minimum_share)
        model.config.quantization_config = BitsAndBytesConfig(  # type: ignore[union-attr]
            load_in_8bit=True,
            llm_int8_threshold=self.config.threshold,
            llm_int8_skip_modules=linears_outside(model),
        )
        return source.evolve(model=model, notes=notes)

    def _module(self, name: str, linear: nn.Linear) -> Any:
        """Build the quantised module of a float linear."""
        import bitsandbytes as bnb

        new = _like(bnb.nn.Linear8bitLt, linear, has_fp16_weights=False, threshold=self.config.threshold)
        new.weight = bnb.nn.Int8Params(linear.weight.detach().clone(), requires_grad=False, has_fp16_weights=False)
        return new.to("cpu")  # moving it quantises

    def save_weights(self, model: nn.Module, folder: Path) -> None:
        """Write what transformers reads: int8 weights with one scale (`SCB`) a channel."""
        save(model, folder)

    def load_weights(self, model: nn.Module, folder: Path) -> None:
        """Put int8 modules in the place of the linears that are stored so, and read all else as it is."""
        import bitsandbytes as bnb

        _require_bitsandbytes()
        parts = read(folder)

        def stored(name: str, linear: nn.Linear) -> Any:
            new = _like(bnb.nn.Linear8bitLt, linear, has_fp16_weights=False, threshold=self.config.threshold)
            weight, scales = parts.pop(f"{name}.weight"), parts.pop(f"{name}.SCB")
            parts.pop(f"{name}.weight_format")
            new.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=scales)
            return new

        names = [name for name in encoder_linears(model) if f"{name}.SCB" in parts]
        replace(model, names, stored)
        fill(model, parts, names)


class BnbNf4(CompressionMethod[BnbNf4Config]):
    """Store the encoder's linears as 4-bit NormalFloat in blocks of 64, computed in float32: much smaller, slower.

    Dettmers et al. 2023, section 3: in each block of 64 neighbouring weights (counted on through the rows) a weight becomes the
    nearest of 16 values times the block's largest size. The values are those that appendix E prints and the authors' code
    makes, not the midpoints of equation 4, which hold no 0. Double quantisation stores the blocks' sizes, less their mean,
    in 8 bits by blocks of 256. The paper computes in bfloat16; here it is float32, as run-time precision is not a method's.

    Each call dequantises the weights and multiplies. bitsandbytes' own forward is passed by on purpose: on a CPU with
    AVX512-BF16 it repacks the weights at the first call for a bfloat16 kernel and rounds the blocks' sizes, after which its
    state can be neither saved nor read again as it was; and where 64 does not divide the width of a linear's inputs its CPU
    kernel gives blocks the sizes of others, in silence (0.50.2), which `Nf4Linear` avoids by dequantising block by block.

    The folder is an ordinary Hugging Face checkpoint for whoever has bitsandbytes and accelerate, as long as 64 divides all
    input widths, since transformers computes with those kernels; with other widths only this package loads it.
    """

    Config = BnbNf4Config
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True, libraries=frozenset({"bitsandbytes"}))
    references = ("Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, section 3 and appendix E",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse to start without bitsandbytes."""
        _require_bitsandbytes()

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise a copy, count, and write into the config how transformers is to read it."""
        from transformers import BitsAndBytesConfig

        model = ctx.build_student(source)
        names = list(encoder_linears(model))
        replace(model, names, self._module)
        notes = quantised_share("bnb_nf4", _of_type(model, "Nf4Linear"), names, self.config.minimum_share)
        if all(linear.in_features % _BLOCK == 0 for linear in encoder_linears(model).values()):
            model.config.quantization_config = BitsAndBytesConfig(  # type: ignore[union-attr]
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=self.config.double_quant,
                bnb_4bit_compute_dtype="float32",
                llm_int8_skip_modules=linears_outside(model),
            )
        return source.evolve(model=model, notes=notes)

    def _module(self, name: str, linear: nn.Linear) -> Any:
        """Build the quantised module of a float linear."""
        import bitsandbytes as bnb

        new = _like(_nf4_linear(), linear, quant_type="nf4")
        new.weight = bnb.nn.Params4bit(
            linear.weight.detach().clone(),
            requires_grad=False,
            compress_statistics=self.config.double_quant,
            quant_type="nf4",
            module=new,
        )
        return new.to("cpu")  # moving it quantises

    def save_weights(self, model: nn.Module, folder: Path) -> None:
        """Write what transformers reads: packed weights with their blocks' sizes and the 16 values."""
        save(model, folder)

    def load_weights(self, model: nn.Module, folder: Path) -> None:
        """Put 4-bit modules in the place of the linears that are stored so, and read all else as it is."""
        import bitsandbytes as bnb

        _require_bitsandbytes()
        parts = read(folder)

        def stored(name: str, linear: nn.Linear) -> Any:
            new = _like(_nf4_linear(), linear, quant_type="nf4")
            start = f"{name}.weight"
            state = {
                key.removeprefix(f"{start}."): parts.pop(key) for key in list(parts) if key.startswith(f"{start}.")
            }
            new.weight = bnb.nn.Params4bit.from_prequantized(parts.pop(start), state, device="cpu", module=new)
            return new

        names = [name for name in encoder_linears(model) if f"{name}.weight.absmax" in parts]
        replace(model, names, stored)
        fill(model, parts, names)


@cache
def _nf4_linear() -> Any:
    """Return the module class; made when it is first needed, since bitsandbytes takes a second to import."""
    import bitsandbytes as bnb
    import torch

    class Nf4Linear(bnb.nn.Linear4bit):  # type: ignore[misc]
        """A linear with 4-bit weights, multiplied in the type of its inputs."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(x, self.float_weight().to(x.dtype), self.bias)

        def float_weight(self) -> Tensor:
            """Dequantise with one row a block, whatever the shape of the weight; [out, in]."""
            state = self.weight.quant_state
            blocks = state.absmax.numel()
            packed = self.weight.data.reshape(-1)
            packed = torch.nn.functional.pad(packed, (0, blocks * _BLOCK // 2 - packed.numel()))
            by_block = copy.copy(state)
            by_block.shape = torch.Size((blocks, _BLOCK))
            flat: Tensor = bnb.functional.dequantize_4bit(packed, by_block).reshape(-1)
            return flat[: state.shape.numel()].view(state.shape)

    return Nf4Linear


def _like(kind: Any, linear: nn.Linear, **settings: Any) -> Any:
    """Make a module of the linear's shape that shares its bias; its weight is set by the caller."""
    new = kind(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta", **settings)
    new.bias = linear.bias
    return new.requires_grad_(False)


def replace(model: nn.Module, names: Iterable[str], build: Callable[[str, nn.Linear], Any]) -> None:
    """Put what `build` makes of each named linear into its place."""
    for name in names:
        linear: Any = model.get_submodule(name)
        new = build(name, linear)
        model.set_submodule(name, new.train(linear.training))


def save(model: nn.Module, folder: Path) -> None:
    """Write the state dict, in which bitsandbytes puts its scales beside each weight."""
    from safetensors.torch import save_file

    parts = {name: tensor.detach().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(parts, str(folder / _FILE), metadata={"format": "pt"})


def read(folder: Path) -> dict[str, Tensor]:
    """Read the tensors that `save` wrote."""
    from safetensors.torch import load_file

    return load_file(str(folder / _FILE))


def fill(model: nn.Module, parts: dict[str, Tensor], done: Iterable[str]) -> None:
    """Set every tensor but the weights of the linears in `done`, each exactly once."""
    weights = {f"{name}.weight" for name in done}
    missing, unexpected = model.load_state_dict(parts, strict=False)
    wrong = [
        *unexpected,
        *(name for name in missing if not any(name == w or name.startswith(f"{w}.") for w in weights)),
    ]
    if wrong:
        raise RuntimeError(f"the file does not fit the model: {', '.join(sorted(wrong)[:4])}")


def _of_type(model: nn.Module, kind: str) -> list[str]:
    return [name for name, linear in encoder_linears(model).items() if type(linear).__name__ == kind]


def _require_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise MissingExtra.of("bitsandbytes", "bitsandbytes")
