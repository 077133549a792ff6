"""Dynamic int8 in ONNX Runtime: weights quantised once, activations at each call.

A weight is stored as rint(w / s) with s = max|w_c| / 127 for each column c, an output of the linear (where products of 8 bits
saturate, 127 is 64, see `weight_levels`). An input tensor gets a scale (max - min) / 255 and a zero point rint(-min / scale) at
each call, its range widened to hold 0 (Jacob et al. 2018, arXiv:1712.05877, section 2.1, without its training); the texts
of a batch are one tensor and share them. What was quantised is counted, not assumed: the quantiser passes by products whose
weight sits behind a Transpose, as shared weights do in an export, so these are folded first.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from compressor.api import (
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Form,
    Incompatible,
    MethodConfig,
    MissingExtra,
    onnx_graph,
)


@dataclass(slots=True, kw_only=True)
class Int8DynamicConfig(MethodConfig):
    """Options of `int8_dynamic`."""

    embeddings: bool = False  # quantise the embedding tables too, one scale a row: a smaller file, no speed
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(f"method.int8_dynamic.minimum_share={self.minimum_share}", allowed="above 0, at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Report:
    """What the quantiser did. `skipped` names the eligible linears that stayed float32."""

    linears_quantised: int
    linears_eligible: int
    skipped: tuple[str, ...]
    fp32_bytes: int
    int8_bytes: int

    @property
    def share(self) -> float:
        """Share of the eligible linears that are int8 now."""
        return self.linears_quantised / max(1, self.linears_eligible)


class Int8Dynamic(CompressionMethod[Int8DynamicConfig]):
    """Quantise every linear to per-channel dynamic int8 in ONNX Runtime; a final form."""

    Config = Int8DynamicConfig
    capabilities = Capabilities(produces=Form.onnx, leaves_trainable=False)
    references = ("Jacob et al. 2018, arXiv:1712.05877, section 2.1",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Export, quantise, count."""
        exported = ctx.export_onnx(source) / "model.onnx"
        folder = ctx.workspace / "int8"
        folder.mkdir()
        report = quantize(exported, folder / "model.onnx", embeddings=self.config.embeddings)
        if report.share < self.config.minimum_share:
            raise Incompatible(
                f"int8_dynamic: {report.linears_quantised} of {report.linears_eligible} eligible linears were quantised; "
                f"float32 stayed {', '.join(report.skipped[:8])}",
                allowed=f"{self.config.minimum_share:.0%} or more",
                hint="method.int8_dynamic.minimum_share=... if that is what you want",
            )
        ctx.logger.info("%d of %d eligible linears are int8", report.linears_quantised, report.linears_eligible)
        return source.evolve(folder=folder, form=Form.onnx, notes={**asdict(report), "skipped": list(report.skipped)})


def quantize(onnx_path: Path, out_path: Path, *, embeddings: bool = False) -> Int8Report:
    """Quantise every linear with constant weights and write `out_path`.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        Incompatible: The quantiser fails on this graph, leaves float32 copies behind, or the file does not shrink.
    """
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingExtra(f"int8_dynamic needs {error.name}", hint="pip install onnx onnxruntime") from error

    source = onnx_graph.read_graph(onnx_path)
    eligible = len(onnx_graph.weight_linears(source.graph))
    if embeddings:
        onnx_graph.pack_tables(source, per_row=True)
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # the quantiser logs through the root logger
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize_dynamic(
                source,
                str(out_path),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=onnx_graph.weight_levels() < 127,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
    except Exception as error:  # the quantiser raises bare exceptions of many kinds
        raise Incompatible(f"ONNX Runtime cannot quantise this model: {type(error).__name__}: {error}") from error
    finally:
        logger.setLevel(level)
    result = onnx.load(str(out_path))
    report = Int8Report(
        linears_quantised=onnx_graph.integer_linears(result.graph),
        linears_eligible=eligible,
        skipped=tuple(node.name for node in onnx_graph.weight_linears(result.graph)),
        fp32_bytes=_bytes(onnx_path),
        int8_bytes=_bytes(out_path),
    )
    used = {name for node in result.graph.node for name in node.input}
    unused = [i.name for i in result.graph.initializer if i.name not in used]
    if unused:
        raise Incompatible(f"the int8 file still holds {len(unused)} unused tensors, such as {unused[0]}")
    if report.int8_bytes >= report.fp32_bytes:
        raise Incompatible(f"the int8 file has {report.int8_bytes:,} bytes, float32 had {report.fp32_bytes:,}")
    return report


def _bytes(path: Path) -> int:
    """Return the size of a model file with its external data."""
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*") if p.is_file())
