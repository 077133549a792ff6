"""Dynamic int8 by ONNX Runtime's quantiser, with an account of what was and was not quantised.

Weights are stored as int8 with one scale a column; activations are quantised at run time with one scale a tensor
(Jacob et al. 2018, arXiv:1712.05877, section 2.1, without its quantisation-aware training).
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import MeasureError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_LINEAR = ("MatMul", "Gemm")
_QUANTISED = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Report:
    """What the quantiser did. `skipped` are the names of eligible linears that stayed float32."""

    quantised: int
    eligible: int
    skipped: tuple[str, ...]
    fp32_bytes: int
    int8_bytes: int


def quantize_dynamic_int8(onnx_path: Path, out_path: Path, *, embeddings: bool = False) -> Int8Report:
    """Quantise every linear with constant weights and write `out_path`.

    Args:
        onnx_path: A float32 export.
        out_path: Where the int8 file goes.
        embeddings: Quantise the embedding tables too (smaller file, same speed, one scale a table).

    Raises:
        MeasureError: Nothing was quantised, float32 copies were left behind, or the file did not shrink.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = onnx.load(str(onnx_path))
    eligible = _eligible(source.graph)
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # the quantiser logs through the root logger
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(
                source,
                str(out_path),
                op_types_to_quantize=[*_LINEAR, *(["Gather"] if embeddings else [])],
                per_channel=True,
                reduce_range=not _has_vnni(),
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    except Exception as error:
        raise MeasureError(f"int8 quantisation of {onnx_path.name} failed: {type(error).__name__}: {error}") from error
    finally:
        logger.setLevel(level)
    result = onnx.load(str(out_path))
    done = sum(node.op_type in _QUANTISED for node in result.graph.node)
    left = _eligible(result.graph)
    report = Int8Report(
        quantised=done,
        eligible=len(eligible),
        skipped=tuple(node.name for node in left),
        fp32_bytes=_bytes(onnx_path),
        int8_bytes=_bytes(out_path),
    )
    _verify(report, result, out_path)
    return report


def _eligible(graph: GraphProto) -> list[NodeProto]:
    """Return the linears whose weight is a float initialiser, directly or through Transpose, Identity or Cast."""
    from onnx import TensorProto

    weights = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT and len(i.dims) == 2}
    made_by = {output: node for node in graph.node for output in node.output}

    def is_constant(name: str) -> bool:
        while name in made_by and made_by[name].op_type in ("Transpose", "Identity", "Cast"):
            name = made_by[name].input[0]
        return name in weights

    return [n for n in graph.node if n.op_type in _LINEAR and is_constant(n.input[1])]


def _verify(report: Int8Report, result: ModelProto, path: Path) -> None:
    used = {name for node in result.graph.node for name in node.input}
    unused = [i.name for i in result.graph.initializer if i.name not in used]
    if report.quantised == 0:
        raise MeasureError(f"{path.name}: none of {report.eligible} linears was quantised")
    if unused:
        raise MeasureError(f"{path.name} still holds {len(unused)} unused tensors, such as {unused[0]}")
    if report.int8_bytes >= report.fp32_bytes:
        raise MeasureError(f"{path.name} has {report.int8_bytes:,} bytes, float32 had {report.fp32_bytes:,}")


def _bytes(path: Path) -> int:
    """Return the size of a model file with its external data."""
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*") if p.is_file())


def _has_vnni() -> bool:
    """Tell whether 8-bit products cannot saturate here; without VNNI, AVX2 and AVX-512 need 7-bit weights."""
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "vnni" in flags
