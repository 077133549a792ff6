"""Zeros: how many weights are not zero, and what the weights' files take when they are deflated.

A format or kernel that skips zeros could profit from them; those that the table measures do not. The deflated size is what a
plain zip of the same files would take, so that sparsity is credited with what it really saves, and with no more.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.artifact import Form
from compressor.errors import Incompatible
from compressor.measure.size import NO_WEIGHTS, weight_files
from compressor.runtimes.base import the_only
from compressor.surgery import encoder_linears

if TYPE_CHECKING:
    from torch import nn

_LEVEL: Final = 6  # what zip tools use
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ZerosResult:
    """Counts of a re-loaded artifact; None where a format does not let its zeros be counted (packed integers)."""

    non_zeros: int | None
    encoder_zero_share: float | None  # of the weights of the linears inside the encoder's layers
    zipped_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_zeros(form: Form, module: nn.Module | None, folder: Path, zipped_bytes: int) -> ZerosResult:
    """Count an artifact's weights that are not zero."""
    share = None
    if form is Form.torch:
        assert module is not None
        non_zeros = _of_module(module)
        share = _encoder_share(module) if non_zeros is not None else None
    else:
        non_zeros = _of_onnx(folder) if form is Form.onnx else None
    return ZerosResult(
        non_zeros=non_zeros,
        encoder_zero_share=share,
        zipped_bytes=zipped_bytes,
    )


def _of_module(module: nn.Module) -> int | None:
    """Count non-zero parameters, shared ones once; None if weights are integers, packed, or wrapped."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    parameters = list({id(p): p for p in module.parameters()}.values())
    wrapped = any(is_traceable_wrapper_subclass(p) or not p.dtype.is_floating_point for p in parameters)
    packed = any("quantized" in type(part).__module__ for part in module.modules())
    codes = any(b.ndim >= 2 and b.dtype.itemsize == 1 and not b.dtype.is_floating_point for b in module.buffers())
    if wrapped or packed or codes:
        return None
    return sum(int(p.count_nonzero()) for p in parameters)


def _encoder_share(module: nn.Module) -> float | None:
    try:
        weights = [linear.weight for linear in encoder_linears(module).values()]
    except (Incompatible, AttributeError):  # a family without known layers, or no model of transformers
        return None
    total = sum(w.numel() for w in weights)
    return 1 - sum(int(w.count_nonzero()) for w in weights) / total if total else None


def _of_onnx(folder: Path) -> int | None:
    """Count non-zero elements of a graph's weights; None if a code other than 0 stands for zero."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(the_only(folder, ".onnx"))).graph
    points = [i for i in graph.initializer if i.name.endswith("_zero_point")]
    if any(numpy_helper.to_array(point).any() for point in points):
        return None
    weights = [i for i in graph.initializer if not i.name.endswith(NO_WEIGHTS)]
    return sum(int((numpy_helper.to_array(weight) != 0).sum()) for weight in weights)


def deflated_bytes(folder: Path) -> int:
    """Return what the weights' files take after deflating each; other threads run meanwhile."""
    return sum(_deflated(path) for path in weight_files(folder))


def _deflated(path: Path) -> int:
    packer, count = zlib.compressobj(_LEVEL), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += len(packer.compress(block))
    return count + len(packer.flush())
