"""Static int8 in ONNX Runtime: ranges of the activations found beforehand on calibration text, integer products at run time.

r = S (q - Z) for every activation tensor and every column of a weight (Jacob et al. 2018, arXiv:1712.05877, equation 1). The
file holds QuantizeLinear and DequantizeLinear before each product (QDQ), from which ONNX Runtime makes integer kernels.
ONNX Runtime's own `quantize_static` is not called: it rounds what the residual sums read as well, its histograms refuse texts
of different lengths, and its SmoothQuant needs another package. A test holds our scales and integers against its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from compressor.api import (
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Form,
    MethodConfig,
    onnx_graph,
    quantised_share,
)

if TYPE_CHECKING:
    from onnx import ModelProto

Feed = Mapping[str, NDArray[np.int64]]
_BINS = 2048


class Calibration(StrEnum):
    """How a range is chosen from what calibration saw: all of it, most of it, or what rounding likes best."""

    minmax = "minmax"
    percentile = "percentile"
    mse = "mse"
    entropy = "entropy"


@dataclass(slots=True, kw_only=True)
class Int8OnnxConfig(MethodConfig):
    """Options of `int8_onnx`."""

    examples: int = 128  # training texts that calibration reads; the draw is the run's seed
    calibration: Calibration = Calibration.minmax  # minmax, percentile, mse, entropy
    percentile: float = 99.99  # share of the values inside the range, in percent; for calibration=percentile
    smooth: float = 0.9  # SmoothQuant's alpha: how far outlying columns are moved into the weights; 0 leaves them
    symmetric: bool = False  # activations: zero in the middle of the range
    per_channel: bool = True  # weights: one scale a column, not one a matrix
    attention: bool = False  # quantise the products of attention (QK^T and PV) as well
    embeddings: bool = True  # store the embedding tables as int8, one scale a row: a smaller file, no speed
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        for name, ok, allowed in (
            ("examples", self.examples >= 1, "1 or more"),
            ("percentile", 50 < self.percentile <= 100, "above 50, at most 100"),
            ("smooth", 0 <= self.smooth < 1, "0 to below 1"),
            ("minimum_share", 0 < self.minimum_share <= 1, "above 0, at most 1"),
        ):
            if not ok:
                raise ConfigError(f"method.int8_onnx.{name}={getattr(self, name)}", allowed=allowed)


class Int8Onnx(CompressionMethod[Int8OnnxConfig]):
    """Quantise every linear to static int8 in ONNX Runtime with calibrated ranges; a final form."""

    Config = Int8OnnxConfig
    capabilities = Capabilities(needs_calibration=True, produces=Form.onnx, leaves_trainable=False)
    references = (
        "Jacob et al. 2018, arXiv:1712.05877, section 2",
        "Xiao et al. 2023, arXiv:2211.10438, equation 4 (option smooth)",
        "Migacz 2017, 8-bit Inference with TensorRT (calibration=entropy)",
    )

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Export, calibrate, write integers, count."""
        import onnx

        options = self.config
        exported = ctx.export_onnx(source) / "model.onnx"
        feeds = [
            {name: tensor.cpu().numpy() for name, tensor in batch.inputs.items()}
            for batch in ctx.calibration_batches(source.tokenizer, options.examples)
        ]
        model, levels = onnx_graph.read_graph(exported), onnx_graph.weight_levels()
        eligible = [node.name for node in onnx_graph.weight_linears(model.graph)]
        if options.smooth:
            smooth(model, feeds, options.smooth)
        products = attention_products(model) if options.attention else []
        nodes = [*eligible, *products]
        inputs = activations(model, nodes)
        ranges = calibrate(model, inputs, feeds, options)
        scales = {name: onnx_graph.affine(*ranges[name], symmetric=options.symmetric) for name in inputs}
        onnx_graph.quantise(model, scales, nodes, per_channel=options.per_channel, levels=levels)
        tables = onnx_graph.pack_tables(model, per_row=True) if options.embeddings else 0
        left = [node.name for node in onnx_graph.weight_linears(model.graph)]
        counts = quantised_share("int8_onnx", set(eligible).difference(left), eligible, options.minimum_share)
        folder = ctx.workspace / "int8"
        folder.mkdir()
        onnx.save(model, str(folder / "model.onnx"))
        notes = {
            **counts,
            "skipped": left,
            "attention_products": len(products),
            "tables": tables,
            "calibration_examples": len(feeds),
            "calibration_seed": ctx.seed,
            "weight_levels": levels,
            "fp32_bytes": exported.stat().st_size,
            "int8_bytes": (folder / "model.onnx").stat().st_size,
        }
        ctx.logger.info("%d of %d eligible linears are int8", counts["linears_quantised"], len(eligible))
        return source.evolve(folder=folder, form=Form.onnx, notes=notes)


def activations(model: ModelProto, nodes: Sequence[str]) -> list[str]:
    """Return the tensors that the named products read and that are not stored, in the order of execution."""
    stored = {i.name for i in model.graph.initializer}
    wanted = [name for node in model.graph.node if node.name in nodes for name in node.input]
    return list(dict.fromkeys(name for name in wanted if name not in stored))


def attention_products(model: ModelProto) -> list[str]:
    """Return the names of the products of two activations."""
    stored = {i.name for i in model.graph.initializer}
    return [n.name for n in model.graph.node if n.op_type == "MatMul" and not stored & set(n.input)]


def calibrate(
    model: ModelProto, names: Sequence[str], feeds: Sequence[Feed], options: Int8OnnxConfig
) -> dict[str, tuple[float, float]]:
    """Return the range of each tensor over the calibration texts."""
    seen = dict.fromkeys(names, (0.0, 0.0))
    for values in onnx_graph.observe(model, names, feeds):
        for name, value in values.items():
            seen[name] = min(seen[name][0], float(value.min())), max(seen[name][1], float(value.max()))
    if options.calibration is Calibration.minmax:
        return seen
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for values in onnx_graph.observe(model, names, feeds):
        for name, value in values.items():
            counts[name] += np.histogram(value, bins=_BINS, range=_wide(seen[name]))[0]
    return {name: choose_range(counts[name], *_wide(seen[name]), options) for name in names}


def _wide(seen: tuple[float, float]) -> tuple[float, float]:
    return seen if seen[1] > seen[0] else (seen[0], seen[0] + 1e-6)


def choose_range(counts: NDArray[np.int64], low: float, high: float, options: Int8OnnxConfig) -> tuple[float, float]:
    """Narrow the range `low` to `high` by the histogram of what lay in it."""
    edges = np.linspace(low, high, len(counts) + 1)
    if options.calibration is Calibration.percentile:
        return percentile_range(counts, edges, options.percentile)
    if options.calibration is Calibration.entropy:
        return entropy_range(counts, edges)
    return least_squares_range(counts, edges, symmetric=options.symmetric)


def percentile_range(counts: NDArray[np.int64], edges: NDArray[np.float64], percent: float) -> tuple[float, float]:
    """Cut the same share of the values from both ends."""
    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    cut = (1 - percent / 100) / 2
    return float(np.interp(cut, share, edges)), float(np.interp(1 - cut, share, edges))


def least_squares_range(
    counts: NDArray[np.int64], edges: NDArray[np.float64], *, symmetric: bool = False, steps: int = 64
) -> tuple[float, float]:
    """Return the range whose rounding and clipping have the smallest squared error; each end is searched in turn."""
    middles = (edges[1:] + edges[:-1]) / 2

    def error(low: float, high: float) -> float:
        scale, zero = onnx_graph.affine(low, high, symmetric=symmetric)
        lowest = 1 if symmetric else 0
        rounded = scale * (np.clip(np.rint(middles / scale) + zero, lowest, 255) - zero)
        return float((counts * (rounded - middles) ** 2).sum())

    low, high = float(edges[0]), float(edges[-1])
    for _ in range(2):
        high = min((edges[-1] * i / steps for i in range(steps, 0, -1)), key=lambda end: error(low, end))
        low = min((edges[0] * i / steps for i in range(steps, 0, -1)), key=lambda end: error(end, high))
    return float(low), float(high)


def entropy_range(counts: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[float, float]:
    """Return the range whose 128 levels of magnitude keep most information (Migacz 2017, slides 28 to 34).

    For each threshold T the distribution below T, with what lies above it added to the last bin, is compared with its
    quantised self by the Kullback-Leibler divergence; both ends of the range are cut at the best T.
    """
    middles = np.abs((edges[1:] + edges[:-1]) / 2)
    largest = max(-edges[0], edges[-1])
    magnitudes = np.histogram(middles, bins=_BINS, range=(0.0, largest), weights=counts)[0]
    best, found = np.inf, _BINS
    for end in range(128, _BINS + 1, 16):
        kept = magnitudes[:end]
        reference = kept.copy()
        reference[-1] += magnitudes[end:].sum()
        level = np.minimum(np.arange(end) * 128 // end, 127)
        filled = kept > 0
        total, places = np.bincount(level, kept, 128), np.bincount(level, filled, 128)
        spread = np.where(filled, (total / np.maximum(places, 1))[level], 0.0)
        here = reference > 0
        p, q = reference[here] / reference.sum(), np.maximum(spread[here] / max(spread.sum(), 1e-12), 1e-12)
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best:
            best, found = divergence, end
    limit = largest * found / _BINS
    return float(max(edges[0], -limit)), float(min(edges[-1], limit))


def smooth(model: ModelProto, feeds: Sequence[Feed], alpha: float) -> None:
    """Divide outlying columns of activations and multiply the rows of the weights by as much, in place.

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (Xiao et al. 2023, equation 4). The paper folds 1/s into the LayerNorm before;
    here the normalised states also feed the residual sum, so a product of its own is put before the linears. Linears that
    read one tensor, or share one weight, have one s.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    linears = onnx_graph.weight_linears(graph)
    stored = {i.name: i for i in graph.initializer}
    names = list(dict.fromkeys(n.input[0] for n in linears))
    peak: dict[str, NDArray[np.float32]] = {}
    for values in onnx_graph.observe(model, names, feeds):
        for name, value in values.items():
            found = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            peak[name] = np.maximum(peak[name], found) if name in peak else found
    for number, (tensors, weights) in enumerate(groups([(n.input[0], n.input[1]) for n in linears])):
        values = {name: numpy_helper.to_array(stored[name]) for name in weights}
        s = smoothing(
            np.max([peak[t] for t in tensors], axis=0),
            np.max([np.abs(w).max(axis=1) for w in values.values()], axis=0),
            alpha,
        )
        graph.initializer.append(numpy_helper.from_array((1 / s).astype(np.float32), f"smooth.{number}"))
        for name, value in values.items():
            stored[name].CopyFrom(numpy_helper.from_array((value * s[:, None]).astype(np.float32), name))
        for tensor in tensors:
            readers = [n for n in linears if n.input[0] == tensor]
            at = min(list(graph.node).index(n) for n in readers)
            graph.node.insert(at, helper.make_node("Mul", [tensor, f"smooth.{number}"], [f"{tensor}.smooth"]))
            for reader in readers:
                reader.input[0] = f"{tensor}.smooth"


def smoothing(
    activation_peak_D: NDArray[np.float32], weight_peak_D: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Return s of equation 4; columns that are never used keep 1."""
    used = (activation_peak_D > 0) & (weight_peak_D > 0)
    a, w = np.where(used, activation_peak_D, 1.0), np.where(used, weight_peak_D, 1.0)
    return np.maximum(a**alpha / w ** (1 - alpha), 1e-5).astype(np.float32)


def groups(pairs: Sequence[tuple[str, str]]) -> list[tuple[list[str], list[str]]]:
    """Join (tensor, weight) pairs that have either in common; tensors and weights of each group, in order."""
    found: list[tuple[dict[str, None], dict[str, None]]] = []
    for tensor, weight in pairs:
        touching = [g for g in found if tensor in g[0] or weight in g[1]]
        merged: tuple[dict[str, None], dict[str, None]] = ({}, {})
        for group in touching:
            merged[0].update(group[0])
            merged[1].update(group[1])
            found.remove(group)
        merged[0][tensor] = merged[1][weight] = None
        found.append(merged)
    return [(list(tensors), list(weights)) for tensors, weights in found]
