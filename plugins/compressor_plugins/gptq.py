"""GPTQ: weights rounded one input at a time, each rounding error made up for by the inputs still to come.

For a linear with weights W [out, in] and calibration inputs X [in, tokens], Frantar et al. 2022 (arXiv:2210.17323) look for
codes Q that minimise ||WX - QX||^2 (equation 1). The second derivative is H = 2 X X^T for every row. With the inputs still to
be quantised F, rounding input q costs least if the others move by (equation 2)

    delta_F = -(w_q - quant(w_q)) / [H_F^-1]_qq * (H_F^-1)_:,q

and q then leaves H^-1 by one step of Gaussian elimination (equation 3). The paper's Algorithm 1 takes the inputs in one order
for all rows, reads everything that equation 3 would give off the Cholesky factor of H^-1, and brings the columns behind a
block up to date once a block (equation 4). Its damping adds a share of the mean of diag(H) to the diagonal.

Where the paper is silent the authors' code is followed: grids from the smallest to the largest weight with zero always on
them, the order by falling diag(H) ("act-order"), groups made of inputs that are neighbours in that order and fitted to the
weights as they are when their turn comes. Unlike that code, a group's weights are always up to date when its grid is fitted,
whatever the block size, and an input that calibration never saw is rounded plainly instead of set to zero.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    encoder_layers,
    encoder_linears,
    input_moments,
    quantised_share,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_WORD = {2: (1, 4), 3: (3, 8), 4: (1, 2), 8: (1, 1)}  # bits -> bytes of a word, codes in it


@dataclass(slots=True, kw_only=True)
class GptqConfig(MethodConfig):
    """Options of `gptq`."""

    bits: int = 4  # of a weight: 2, 3, 4 or 8
    group_size: int = 128  # inputs that share a scale and a zero point; -1: all inputs of a row do
    symmetric: bool = False  # grids centred on zero; otherwise from the smallest to the largest weight
    act_order: bool = True  # round the inputs with the largest diag(H) first, while many others can still move
    percdamp: float = 0.01  # added to the diagonal of H, as a share of its mean
    block_size: int = 128  # inputs between two updates of all later ones; decides speed, not the result
    examples: int = 512  # training texts that calibrate; too few, and weights are fitted to these texts alone
    minimum_share: float = 0.9  # of the encoder's linears that must be quantised; below it the result is refused

    def __post_init__(self) -> None:
        _require(self.bits in _WORD, "bits", self.bits, "2, 3, 4, 8")
        _require(self.group_size == -1 or self.group_size >= 2, "group_size", self.group_size, "2 or more, or -1")
        _require(0 <= self.percdamp <= 1, "percdamp", self.percdamp, "0 to 1")
        _require(self.block_size >= 1, "block_size", self.block_size, "1 or more")
        _require(self.examples >= 1, "examples", self.examples, "1 or more")
        _require(0 < self.minimum_share <= 1, "minimum_share", self.minimum_share, "above 0, at most 1")


def _require(ok: bool, option: str, value: object, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"method.gptq.{option}={value}", allowed=allowed)


class Gptq(CompressionMethod[GptqConfig]):
    """Store the encoder's linears in 8, 4, 3 or 2 bits, rounding errors made up for (GPTQ); bytes shrink, not time."""

    Config = GptqConfig
    capabilities = Capabilities(needs_calibration=True, rebuilds=True, leaves_trainable=False, leaves_quantised=True)
    references = ("Frantar et al. 2022, arXiv:2210.17323, Algorithm 1",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise layer after layer, each calibrated on what the quantised layers below it give."""
        from torch import nn

        student = ctx.build_student(source).to(ctx.device).eval()
        batches = list(ctx.calibration_batches(source.tokenizer, self.config.examples))
        eligible = encoder_linears(student)
        plain = {name: linear for name, linear in eligible.items() if type(linear) is nn.Linear}
        counts = quantised_share("gptq", plain, eligible, self.config.minimum_share)
        errors: list[tuple[float, float]] = []
        for layer in encoder_layers(student):
            inside = set(layer.modules())
            own = {name: linear for name, linear in plain.items() if linear in inside}
            moments = input_moments(student, own, batches)
            errors += [self._replace(student, name, linear, moments[name]) for name, linear in own.items()]
        ctx.logger.info("%d of %d eligible linears have %d bits", len(plain), len(eligible), self.config.bits)
        notes = {
            **counts,
            "calibration_examples": len(batches),
            # ||WX - QX||^2 / ||WX||^2 on the calibration inputs, mean over the linears
            "output_error": sum(ours for ours, _ in errors) / len(errors),
            "output_error_of_plain_rounding": sum(plainly for _, plainly in errors) / len(errors),
        }
        return source.evolve(model=student, structure={"linears": list(plain)}, notes=notes)

    def _replace(self, model: nn.Module, name: str, linear: nn.Linear, moments_II: Tensor) -> tuple[float, float]:
        """Put the quantised linear in the place of the plain one; return its error and that of plain rounding."""
        weight = linear.weight.detach().double()
        grid = self._grid(linear)
        order, damping = self.config.act_order, self.config.percdamp
        try:
            found = quantize(
                weight, moments_II, grid, act_order=order, percdamp=damping, block_size=self.config.block_size
            )
        except ArithmeticError as error:
            raise Incompatible(
                f"gptq: the inputs of {name} span too few directions: {error}", hint="method.gptq.percdamp=0.01"
            ) from error
        packed = _packed_class()(linear, grid, order).to(weight.device)
        packed.fill(found, linear.bias)
        model.set_submodule(name, packed)
        whole = _squared(weight, moments_II)
        return (
            _squared(weight - packed.weight.double(), moments_II) / whole,
            _squared(weight - round_to_nearest(weight, grid).dequantized(), moments_II) / whole,
        )

    def rebuild(self, skeleton: nn.Module, structure: Mapping[str, Any]) -> nn.Module:
        """Put empty packed linears where the structure names them."""
        for name in structure["linears"]:
            linear: Any = skeleton.get_submodule(name)
            skeleton.set_submodule(name, _packed_class()(linear, self._grid(linear), self.config.act_order))
        return skeleton

    def _grid(self, linear: nn.Linear) -> Grid:
        size = self.config.group_size if self.config.group_size > 0 else linear.in_features
        return Grid(bits=self.config.bits, group_size=size, symmetric=self.config.symmetric)


def _squared(weight_OI: Tensor, moments_II: Tensor) -> float:
    """Return ||W X||^2, given X X^T; a tiny positive number for nothing at all."""
    return max(float(((weight_OI @ moments_II) * weight_OI).sum()), 1e-30)


# The algorithm. O outputs, I inputs, G groups of inputs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where weights may lie: 2^bits evenly spaced values for each row and each group of inputs."""

    bits: int
    group_size: int
    symmetric: bool

    def fit(self, weight_OI: Tensor) -> tuple[Tensor, Tensor]:
        """Return a scale and a zero point for each row, so that the grid reaches from its smallest to its largest weight.

        Zero is always on the grid. A symmetric grid is centred on it and has one step less above than below, so the largest
        weight is still within half a step. The scale is rounded to float32, in which it is stored.
        """
        import torch

        low, high = weight_OI.amin(dim=1).clamp(max=0), weight_OI.amax(dim=1).clamp(min=0)
        if self.symmetric:
            high = torch.maximum(high, -low)
            low = -high
        scale = ((high - low) / (2**self.bits - 1)).float().double()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero = torch.full_like(scale, 2 ** (self.bits - 1)) if self.symmetric else torch.round(-low / scale)
        return scale, zero

    def codes(self, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the nearest codes."""
        import torch

        return (torch.round(weight / scale) + zero).clamp(0, 2**self.bits - 1)


@dataclass(frozen=True, slots=True)
class Codes:
    """A quantised matrix: w = (code - zero) * scale, with scale and zero by row and by the input's group."""

    codes: Tensor  # [O, I] uint8
    scales: Tensor  # [O, G] float32
    zeros: Tensor  # [O, G] uint8
    groups: Tensor  # [I] int64

    def dequantized(self) -> Tensor:
        """Return the weights in float64."""
        return (self.codes.double() - self.zeros.double()[:, self.groups]) * self.scales.double()[:, self.groups]


def round_to_nearest(weight_OI: Tensor, grid: Grid) -> Codes:
    """Quantise every weight by itself: what GPTQ is measured against."""
    import torch

    groups = torch.arange(weight_OI.shape[1], device=weight_OI.device) // grid.group_size
    fitted = [grid.fit(weight_OI[:, groups == g]) for g in range(int(groups[-1]) + 1)]
    scales, zeros = (torch.stack(parts, dim=1) for parts in zip(*fitted, strict=True))
    codes = grid.codes(weight_OI, scales[:, groups], zeros[:, groups])
    return Codes(codes.byte(), scales.float(), zeros.byte(), groups)


def quantize(
    weight_OI: Tensor, moments_II: Tensor, grid: Grid, *, act_order: bool, percdamp: float, block_size: int = 128
) -> Codes:
    """Run the paper's Algorithm 1 in float64 on weights and the X X^T of their inputs; see `GptqConfig` for the options.

    Raises:
        ArithmeticError: H is not positive definite, as it may be without damping.
    """
    import torch

    inputs = weight_OI.shape[1]
    hessian = _damped(2 * moments_II, percdamp)
    order = torch.arange(inputs, device=weight_OI.device)
    if act_order:
        order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    hessian = hessian[order][:, order]
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if int(failed):
        raise ArithmeticError(f"the leading minor of order {int(failed)} of H is not positive")
    # Row j right of the diagonal, over the diagonal, is what equation 2 needs once the inputs before j are eliminated.
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    weight_IO = weight_OI.T[order].contiguous()  # a row an input: what is read and written together lies together
    codes_IO = torch.empty_like(weight_IO)
    fitted = []
    for group in range(0, inputs, grid.group_size):
        group_end = min(group + grid.group_size, inputs)
        scale, zero = grid.fit(weight_IO[group:group_end].T)
        fitted.append((scale, zero))
        for start in range(group, group_end, block_size):
            end = min(start + block_size, group_end)
            errors = torch.empty_like(weight_IO[start:end])
            for j in range(start, end):
                now = weight_IO[j] - upper[start:j, j] @ errors[: j - start]
                codes_IO[j] = grid.codes(now, scale, zero)
                errors[j - start] = (now - (codes_IO[j] - zero) * scale) / upper[j, j]
            weight_IO[end:] -= upper[start:end, end:].T @ errors
    back = torch.argsort(order)
    groups = torch.arange(inputs, device=weight_IO.device) // grid.group_size
    scales, zeros = (torch.stack(parts, dim=1) for parts in zip(*fitted, strict=True))
    return Codes(codes_IO[back].T.byte(), scales.float(), zeros.byte(), groups[back])


def _damped(hessian_II: Tensor, percdamp: float) -> Tensor:
    """Return H with its diagonal raised; inputs that were never seen stand apart, so that they are rounded plainly."""
    import torch

    diagonal = hessian_II.diagonal()
    seen = diagonal > 0
    mean = diagonal[seen].mean() if bool(seen.any()) else torch.ones_like(diagonal[0])
    raised = torch.where(seen, diagonal + percdamp * mean, mean)
    return hessian_II - torch.diag(diagonal) + torch.diag(raised)


# The packed module.


def pack(codes_OI: Tensor, bits: int) -> Tensor:
    """Return rows of bytes: 8, 4 or 2 bits fill a byte each; eight 3-bit codes fill three bytes, a word.

    Code i goes into word i % W of a row's W words, and the bytes of words lie in stretches of W: unpacking copies stretches.
    """
    import torch

    size, count = _WORD[bits]
    missing = -codes_OI.shape[1] % count
    stretches = torch.nn.functional.pad(codes_OI.int(), (0, missing)).chunk(count, dim=1)
    words = torch.zeros_like(stretches[0])
    for i, stretch in enumerate(stretches):
        words |= stretch << (bits * i)
    return torch.cat([(words >> (8 * i)) & 255 for i in range(size)], dim=1).byte()


def unpack(bytes_OP: Tensor, bits: int, inputs: int) -> Tensor:
    """Undo `pack`, as floats: float32 is exact up to 24 bits, quicker here than shifts, and ONNX exports hold it."""
    import torch

    size, count = _WORD[bits]
    width = bytes_OP.shape[1] // size
    parts = [bytes_OP[:, i * width : (i + 1) * width].float() for i in range(size)]
    words = parts[0] if size == 1 else parts[0] + 256 * parts[1] + 65536 * parts[2]
    codes = []
    for _ in range(count - 1):
        rest = torch.floor(words / 2**bits)
        codes.append(words - 2**bits * rest)
        words = rest
    return torch.cat([*codes, words], dim=1)[:, :inputs]


@functools.cache
def _packed_class() -> Any:
    """Return the module's class; made on first use, so that importing this file imports no torch."""
    import torch
    from torch import nn
    from torch.nn.functional import linear as apply

    class PackedLinear(nn.Module):
        """y = W x + b with W in packed codes that are turned into floats at each call."""

        codes: Tensor
        scales: Tensor
        zeros: Tensor
        groups: Tensor | None

        def __init__(self, linear: nn.Linear, grid: Grid, act_order: bool) -> None:
            super().__init__()
            self.in_features, self.out_features = linear.in_features, linear.out_features
            self.bits, self.group_size = grid.bits, grid.group_size
            size, count = _WORD[self.bits]
            row = -(-self.in_features // count) * size
            groups = -(-self.in_features // self.group_size)
            self.register_buffer("codes", torch.zeros(self.out_features, row, dtype=torch.uint8))
            self.register_buffer("scales", torch.zeros(self.out_features, groups))
            self.register_buffer("zeros", torch.zeros(self.out_features, groups, dtype=torch.uint8))
            reordered = act_order and groups > 1
            self.register_buffer("groups", torch.zeros(self.in_features, dtype=torch.int32) if reordered else None)
            bias = None if linear.bias is None else torch.zeros(self.out_features)
            self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

        def fill(self, found: Codes, bias: Tensor | None) -> None:
            """Take over a quantised matrix."""
            self.codes.copy_(pack(found.codes, self.bits))
            self.scales.copy_(found.scales)
            self.zeros.copy_(found.zeros)
            if self.groups is not None:
                self.groups.copy_(found.groups)
            if self.bias is not None and bias is not None:
                self.bias.data.copy_(bias)

        @property
        def weight(self) -> Tensor:
            """The weights as floats, [out, in]."""
            codes = unpack(self.codes, self.bits, self.in_features)
            if self.groups is not None:
                groups = self.groups.long()
                return (codes - self.zeros.to(codes.dtype)[:, groups]) * self.scales[:, groups]
            zeros, scales = (
                part.repeat_interleave(self.group_size, dim=1)[:, : self.in_features]
                for part in (self.zeros, self.scales)
            )
            return (codes - zeros.to(codes.dtype)) * scales

        def forward(self, x: Tensor) -> Tensor:
            return apply(x, self.weight, self.bias)

    return PackedLinear
