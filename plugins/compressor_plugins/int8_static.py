"""Static int8 in OpenVINO: ranges found on calibration text by NNCF, integer products at run time.

NNCF puts a FakeQuantize on both inputs of each product (Jacob et al. 2018, arXiv:1712.05877, equation 12); the pattern of
transformers keeps LayerNorm, softmax and GELU in float32. Weights and tables are stored as int8. What was quantised is counted
in the graph, not assumed. What NNCF computes, and where it leaves the papers:

- A weight becomes rint(w / s) with s = max|w_c| / 127 for each output c of its linear, max|w_c| counting as no less than a
  hundredth of the matrix's largest entry or 8e-5. Where products of 8 bits saturate (`weight_levels`), 127 is 63.5.
- An activation has one range, [mean of the texts' minima, mean of the texts' maxima], and what lies beyond is clipped; Jacob et
  al. average batches while they train. One end then moves out until 0 is a step. In `performance`, and for the factors of
  attention's products in both presets, the range is [-128/127 m, m] with m the mean of the texts' largest sizes. Where nothing
  is negative, as after a softmax, it starts at 0.
- SmoothQuant (Xiao et al. 2023, arXiv:2211.10438) divides column j of a linear's inputs by s_j = max|X_j|^a / max|W_j|^(1-a)
  (equation 4; maxima over all texts) and multiplies the weights by it. Here s is clipped to its 10 % quantile below and 100
  above; linears that read one tensor take the s of the one with the largest min(s) / max(s), where the authors' code takes
  max|W_j| over all of them; and the division stays a product of its own, which the paper folds into the LayerNorm before.
- A bias becomes b + x (W - W_q), with W_q the rounded weights and x the mean input, each text weighing alike (Nagel et al.
  2019, arXiv:1906.04721, section 4.2, with the mean of calibration texts), unless an entry of b is 0 or would move by twice
  its size.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    quantised_share,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What may stand between a product and its inputs: changes of shape, the choice of the first token (a pooler's input is rounded
# before it), and the arithmetic that unpacks a stored weight.
_SHAPING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze")
_PICKING = "Gather"
_UNPACKING = ("Convert", "Multiply", "Subtract")


class Preset(StrEnum):
    """Activations: `mixed` has a zero point for each tensor, `performance` none (faster, coarser)."""

    mixed = "mixed"
    performance = "performance"


@dataclass(slots=True, kw_only=True)
class Int8StaticConfig(MethodConfig):
    """Options of `int8_static`."""

    examples: int = 300  # training texts that calibration reads; the draw is the run's seed
    preset: Preset = Preset.mixed  # mixed (activations with a zero point) or performance (without)
    smooth: float = 0.95  # SmoothQuant's alpha: how far outlying columns are moved into the weights; 0 leaves them
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        for name, ok, allowed in (
            ("examples", self.examples >= 1, "1 or more"),
            ("smooth", 0 <= self.smooth <= 1, "0 to 1"),
            ("minimum_share", 0 < self.minimum_share <= 1, "above 0, at most 1"),
        ):
            if not ok:
                raise ConfigError(f"method.int8_static.{name}={getattr(self, name)}", allowed=allowed)


class Int8Static(CompressionMethod[Int8StaticConfig]):
    """Quantise every linear to static int8 with NNCF, for OpenVINO; a final form."""

    Config = Int8StaticConfig
    capabilities = Capabilities(
        needs_calibration=True, produces=Form.openvino, leaves_trainable=False, libraries=frozenset({"nncf"})
    )
    references = (
        "Jacob et al. 2018, arXiv:1712.05877, equation 12",
        "Xiao et al. 2023, arXiv:2211.10438, equation 4",
        "Nagel et al. 2019, arXiv:1906.04721, section 4.2 (biases)",
        "Kozlov et al. 2020, arXiv:2002.08679 (NNCF)",
    )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Export, calibrate and quantise, count, save."""
        openvino, _ = _libraries()
        exported = ctx.export_onnx(source) / "model.onnx"
        feeds = [
            {name: tensor.cpu().numpy() for name, tensor in batch.inputs.items()}
            for batch in ctx.calibration_batches(source.tokenizer, self.config.examples)
        ]
        model = openvino.Core().read_model(one_weight_each(exported))
        eligible = len(linears(model))
        names = [str(i.get_any_name()) for i in model.inputs]
        model = quantize(model, [{name: feed[name] for name in names} for feed in feeds], self.config)
        found = linears(model)
        done = [name for name, integer in found.items() if integer]
        counts = quantised_share("int8_static", done, list(found), self.config.minimum_share)
        if len(found) != eligible:
            raise Incompatible(f"int8_static: the graph had {eligible} linears and has {len(found)} after NNCF")
        folder = ctx.workspace / "int8"
        folder.mkdir()
        number_names(model)
        openvino.save_model(model, str(folder / "model.xml"), compress_to_fp16=False)
        notes = {
            **counts,
            "skipped": [name for name in found if name not in done],
            "calibration_examples": len(feeds),
            "calibration_seed": ctx.seed,
            "fp32_bytes": exported.stat().st_size,
            "int8_bytes": sum(p.stat().st_size for p in folder.iterdir()),
        }
        ctx.logger.info("%d of %d eligible linears are int8", counts["linears_quantised"], counts["linears_eligible"])
        return source.evolve(folder=folder, form=Form.openvino, notes=notes)


def one_weight_each(exported: Path) -> Path:
    """Write the export again with each weight stored once and return the file."""
    import onnx

    path = exported.with_name("folded.onnx")
    onnx.save(onnx_graph.read_graph(exported), str(path))
    return path


def quantize(model: Any, feeds: Sequence[dict[str, NDArray[np.int64]]], options: Int8StaticConfig) -> Any:
    """Return the quantised OpenVINO model.

    Raises:
        Incompatible: NNCF fails on this graph.
    """
    _, nncf = _libraries()
    saturates = onnx_graph.weight_levels() < 127
    advanced = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if saturates else nncf.OverflowFix.DISABLE,
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=options.smooth or -1),
    )
    try:
        with _quiet():
            return nncf.quantize(
                model,
                nncf.Dataset(list(feeds)),
                preset=nncf.QuantizationPreset(options.preset.value),
                subset_size=len(feeds),
                model_type=nncf.ModelType.TRANSFORMER,
                advanced_parameters=advanced,
            )
    except Exception as error:  # errors of many kinds, from Python and from OpenVINO
        raise Incompatible(f"NNCF cannot quantise this model: {type(error).__name__}: {error}") from error


def linears(model: Any) -> dict[str, bool]:
    """Return the products with a stored weight by name, and whether both inputs are 8-bit integers."""
    found: dict[str, bool] = {}
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "MatMul":
            continue
        sides = [_source(node.input_value(i).get_node()) for i in (0, 1)]
        if sum(side.startswith("Constant") for side in sides) == 1:
            name = str(node.get_friendly_name())
            found[name if name not in found else f"{name} ({place})"] = sorted(sides) == ["Constant i8", "FakeQuantize"]
    return found


def _source(node: Any) -> str:
    """Return what an input comes from: `Constant` with its type, `FakeQuantize`, or another operation."""
    unpacked = picked = False
    while node.get_type_name() in (*_SHAPING, *_UNPACKING, _PICKING):
        unpacked = unpacked or node.get_type_name() in _UNPACKING
        picked = picked or node.get_type_name() == _PICKING
        node = node.input_value(0).get_node()
    kind = str(node.get_type_name())
    if kind == "Constant":
        return (
            _PICKING if picked else f"Constant {node.get_element_type().get_type_name()}"
        )  # rows of a table are no weight
    return "arithmetic" if unpacked else kind


def number_names(model: Any) -> None:
    """Replace the counters in names that OpenVINO made up by places in the graph: the same run gives the same bytes."""
    for place, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")


def _libraries() -> tuple[Any, Any]:
    """Import openvino and nncf; they report imports and calls to their makers if they can, and are not let."""
    logger_class = logging.getLoggerClass()
    try:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
            import openvino
    except ImportError as error:
        raise MissingExtra.of(error.name or "nncf", "openvino") from error
    finally:
        logging.setLoggerClass(logger_class)  # NNCF replaces it for everybody
    return openvino, nncf


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow NNCF's bars and messages; what goes wrong arrives as an exception."""
    logger = logging.getLogger("nncf")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
