"""What int8 methods share about an exported ONNX graph: its linears, its tables, and how integers are written into it.

`read_graph` brings every export into one shape: a linear is a MatMul whose second input is an initialiser, and each weight is
stored once however many layers use it. `quantise` then puts a QuantizeLinear and a DequantizeLinear before the products, the
form from which ONNX Runtime makes integer kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from compressor.errors import Incompatible

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_FOLDED = ("Transpose", "Identity")
_INTEGER = ("MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm", "QLinearMatMul")
_LARGEST = 2_000_000_000
MIN_ROWS = 16  # of a table worth packing: the two rows of the token types are not


class Affine(NamedTuple):
    """How a real number r is held in 8 bits without a sign: r = scale * (q - zero), q from 0 to 255."""

    scale: float
    zero: int


def affine(low: float, high: float, *, symmetric: bool = False) -> Affine:
    """Return the 8-bit scale and zero point of the range from `low` to `high` (Jacob et al. 2018, section 2.1).

    The range is widened to hold 0, which must be exact: padding and biases rely on it. A symmetric range has its zero in the
    middle and uses 255 of the 256 values, as Zafrir et al. 2019, section 2.1, do.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return Affine(float(np.float32(max(-low, high, 1e-9) / 127)), 128)
    scale = float(np.float32(max(high - low, 1e-9) / 255))
    return Affine(scale, int(np.clip(np.rint(-low / scale), 0, 255)))


def weight_levels() -> int:
    """Return the largest weight integer: 127, or 63 where sums of two 8-bit products would saturate.

    AVX2 and AVX-512 without VNNI add two products in 16 bits, and 255 * 127 * 2 does not fit.
    """
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return 127
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 63
    return 127 if "vnni" in flags else 63


def round_weight(weight: NDArray[np.float32], axis: int | None, levels: int) -> tuple[NDArray[np.int8], Any]:
    """Return symmetric integers and their scales: the largest entry becomes `levels`.

    One scale for each index of `axis`, or one for all (a scalar). Rows of zeros keep a scale of 1.
    """
    others = None if axis is None else tuple(d for d in range(weight.ndim) if d != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True).astype(np.float32)
    scale = np.where(largest > 0, largest / np.float32(levels), np.float32(1)).astype(np.float32)
    rounded = np.clip(np.rint(weight / scale), -levels, levels).astype(np.int8)
    return rounded, scale.reshape(()) if axis is None else scale.reshape(-1)


def read_graph(path: Path) -> ModelProto:
    """Load a file and bring its linears into one shape, without changing what it computes.

    Transposes of weights are folded into them, products of kind Gemm become a MatMul and an Add, and equal weights are
    stored once: an export of a model with shared layers holds either a Transpose or a copy for each use.

    Raises:
        Incompatible: More than one ONNX file can hold.
    """
    import onnx

    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    if size > _LARGEST:
        raise Incompatible(f"the exported model has {size:,} bytes", allowed=f"{_LARGEST:,} (one ONNX file)")
    model = onnx.load(str(path))
    _fold(model.graph)
    _split_gemms(model.graph)
    _store_once(model.graph)
    _drop_unused(model.graph)
    return model


def observe(
    model: ModelProto, names: Sequence[str], feeds: Iterable[Mapping[str, NDArray[np.int64]]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Run a graph in ONNX Runtime on each batch and give the named tensors, inner ones too.

    It has torch's number of threads, and they do not spin between calls.
    """
    import onnxruntime as ort
    import torch
    from onnx import ValueInfoProto

    names = list(dict.fromkeys(names))
    watched = type(model)()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = [i.name for i in session.get_inputs()]
    for feed in feeds:
        found = session.run(names, {name: feed[name] for name in taken})
        yield dict(zip(names, found, strict=True))


def weight_linears(graph: GraphProto) -> list[NodeProto]:
    """Return the products with a float matrix among the initialisers, in the order of execution: the eligible linears."""
    from onnx import TensorProto

    weights = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT and len(i.dims) == 2}
    return [n for n in graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in weights]


def integer_linears(graph: GraphProto) -> int:
    """Count the products of integers: both inputs dequantised right before, the weight from an int8 initialiser."""
    from onnx import TensorProto

    stored = {i.name for i in graph.initializer if i.data_type == TensorProto.INT8 and len(i.dims) == 2}
    made_by = {output: node for node in graph.node for output in node.output}

    def source(name: str) -> str:
        node = made_by.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else ""

    pairs = [(source(n.input[0]), source(n.input[1])) for n in graph.node if n.op_type == "MatMul"]
    return sum(n.op_type in _INTEGER for n in graph.node) + sum(bool(x) and w in stored for x, w in pairs)


def quantise(
    model: ModelProto, inputs: Mapping[str, Affine], nodes: Collection[str], *, per_channel: bool, levels: int
) -> None:
    """Make integer products of the named MatMuls, in place.

    Args:
        model: A graph from `read_graph`.
        inputs: Scale and zero point of each tensor that is multiplied and is no initialiser.
        nodes: Names of the MatMuls. Weights become int8; a product of two activations takes two entries of `inputs`.
        per_channel: One weight scale a column (the linear's output), or one a matrix.
        levels: See `weight_levels`.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {i.name: i for i in graph.initializer}
    ready: dict[str, str] = {}
    placed: list[NodeProto] = []

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def dequantised(name: str) -> str:
        if name in ready:
            return ready[name]
        out, scale = f"{name}.real", f"{name}.scale"
        if name in weights:
            packed, scales = round_weight(numpy_helper.to_array(weights[name]), 1 if per_channel else None, levels)
            zero = constant(f"{name}.zero", np.zeros(scales.shape, np.int8))
            names = [constant(f"{name}.int8", packed), constant(scale, scales), zero]
        else:
            found = inputs[name]
            names = [f"{name}.uint8", constant(scale, np.float32(found.scale)), f"{name}.zero"]
            constant(names[2], np.uint8(found.zero))
            placed.append(helper.make_node("QuantizeLinear", [name, *names[1:]], [names[0]], name=f"{name}.quantize"))
        axis = {"axis": 1} if name in weights and per_channel else {}
        placed.append(helper.make_node("DequantizeLinear", names, [out], name=f"{name}.dequantize", **axis))
        return ready.setdefault(name, out)

    for node in list(graph.node):
        if node.name in nodes:
            node.input[:] = [dequantised(name) for name in node.input]
        placed.append(node)
    del graph.node[:]
    graph.node.extend(placed)
    _drop_unused(graph)


def pack_tables(model: ModelProto, *, per_row: bool, levels: int = 127) -> int:
    """Hold the embedding tables as int8 and multiply the rows that are read by their scales, in place; count the tables.

    Only what a batch reads is turned back into float32, so the tables cost no time.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    uses: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    packed = 0
    for table in list(graph.initializer):
        readers = uses.get(table.name, [])
        if table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or table.dims[0] < MIN_ROWS or not readers:
            continue
        if any(n.op_type != "Gather" or n.input[0] != table.name or _attribute(n, "axis", 0) for n in readers):
            continue  # also used as a matrix
        rows, scales = round_weight(numpy_helper.to_array(table), 0 if per_row else None, levels)
        graph.initializer.append(numpy_helper.from_array(rows, f"{table.name}.int8"))
        graph.initializer.append(
            numpy_helper.from_array(scales.reshape(-1, 1) if per_row else scales, f"{table.name}.scale")
        )
        for number, node in enumerate(readers):
            name, out, ids = f"{table.name}.{number}", node.output[0], node.input[1]
            scale = f"{name}.row_scale" if per_row else f"{table.name}.scale"
            steps = [
                helper.make_node("Gather", [f"{table.name}.int8", ids], [f"{name}.rows"], name=f"{name}.gather"),
                helper.make_node(
                    "Cast", [f"{name}.rows"], [f"{name}.float"], name=f"{name}.cast", to=TensorProto.FLOAT
                ),
                helper.make_node("Mul", [f"{name}.float", scale], [out], name=f"{name}.mul"),
            ]
            if per_row:
                steps.insert(
                    1, helper.make_node("Gather", [f"{table.name}.scale", ids], [scale], name=f"{name}.scales")
                )
            at = list(graph.node).index(node)
            graph.node.remove(node)
            for step in reversed(steps):
                graph.node.insert(at, step)
        packed += 1
    _drop_unused(graph)
    return packed


def _fold(graph: GraphProto) -> None:
    from onnx import numpy_helper

    stored = {i.name: i for i in graph.initializer}
    folded: dict[tuple[str, tuple[int, ...]], str] = {}
    renamed: dict[str, str] = {}
    for node in list(graph.node):
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        if node.op_type not in _FOLDED or node.input[0] not in stored:
            continue
        source = stored[node.input[0]]
        order = tuple(_attribute(node, "perm", list(reversed(range(len(source.dims))))))
        if node.op_type == "Identity":
            order = tuple(range(len(source.dims)))
        key = (source.name, order)
        if key not in folded:
            value = np.ascontiguousarray(numpy_helper.to_array(source).transpose(order))
            stored[node.output[0]] = numpy_helper.from_array(value, node.output[0])
            graph.initializer.append(stored[node.output[0]])
            folded[key] = node.output[0]
        renamed[node.output[0]] = folded[key]
        graph.node.remove(node)


def _split_gemms(graph: GraphProto) -> None:
    """Write x W^T + b as two nodes; other kinds of Gemm stay."""
    from onnx import helper, numpy_helper

    stored = {i.name: i for i in graph.initializer}
    for at, node in reversed(list(enumerate(graph.node))):
        plain = [_attribute(node, name, default) for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))]
        if node.op_type != "Gemm" or plain != [1.0, 1.0, 0] or node.input[1] not in stored:
            continue
        weight = node.input[1]
        if _attribute(node, "transB", 0):
            value = np.ascontiguousarray(numpy_helper.to_array(stored[weight]).T)
            weight = f"{node.input[1]}.{node.name}"
            graph.initializer.append(numpy_helper.from_array(value, weight))
        biased = len(node.input) > 2
        product = f"{node.output[0]}.product" if biased else node.output[0]
        parts = [helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name)]
        if biased:
            parts.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}.bias"))
        graph.node.remove(node)
        for part in reversed(parts):
            graph.node.insert(at, part)


def _store_once(graph: GraphProto) -> None:
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        if len(tensor.dims) == 2:
            key = (tensor.data_type, tuple(tensor.dims), _bytes(tensor))
            renamed[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _bytes(tensor: TensorProto) -> bytes:
    from onnx import numpy_helper

    return bytes(tensor.raw_data) or numpy_helper.to_array(tensor).tobytes()


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for tensor in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(tensor)


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
