"""Work on paper: multiplications of a text, and bits of a parameter. Neither says how fast a model is; both are theoretical."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from compressor.artifact import Form
from compressor.errors import CompressorError, MeasureError
from compressor.families import forward_inputs
from compressor.measure.size import weight_files
from compressor.runtimes.base import the_only
from compressor.telemetry import import_openvino

if TYPE_CHECKING:
    from torch import nn

    from compressor.runtimes.base import Inputs

_BITS: Final = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
                "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "BOOL": 8, "F4": 4}  # fmt: skip
# Of an ONNX graph: what multiplies matrices. A graph with anything else that does is refused.
_PRODUCTS: Final = ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_UNCOUNTED: Final = ("Attention", "Conv", "ConvInteger", "Einsum", "QLinearConv", "GRU", "LSTM", "RNN")
_WITHOUT: Final = (
    "QuantizeLinear",
    "DequantizeLinear",
    "Gelu",
    "BiasGelu",
    "SkipLayerNormalization",
)  # ONNX Runtime's own


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkResult:
    """Of one re-loaded artifact; None has its reason beside it.

    Attributes:
        macs_per_text: Multiply-accumulates of linears and attention products, mean over the replayed texts at the lengths
            at which they run, padding included. Look-ups, norms, softmax and rescaling are not counted; zeros are.
        macs_unavailable: Why there are none.
        nominal_bits: Bits of all stored tensors, with scales and tables, over the number of parameters.
        bits_unavailable: Why there are none.
    """

    macs_per_text: float | None
    macs_unavailable: str | None
    nominal_bits: float | None
    bits_unavailable: str | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def measure_work(
    form: Form, module: nn.Module | None, folder: Path, batches: Sequence[Inputs], parameters: int
) -> WorkResult:
    """Count an artifact's work on replayed batches, [B, L] each, and the bits that it stores."""
    macs, no_macs = _or_reason(lambda: _macs(form, module, folder, batches))
    bits, no_bits = _or_reason(lambda: _stored_bits(form, folder) / parameters)
    return WorkResult(macs_per_text=macs, macs_unavailable=no_macs, nominal_bits=bits, bits_unavailable=no_bits)


def _or_reason(count: Any) -> tuple[float | None, str | None]:
    """Return the number, or what kept it from being known: whatever a library raises costs no run."""
    try:
        return float(count()), None
    except CompressorError as error:
        return None, error.got
    except (
        Exception
    ) as error:  # each counter walks a library's graph: what it does not know is a reason, not the end of a run
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _macs(form: Form, module: nn.Module | None, folder: Path, batches: Sequence[Inputs]) -> float:
    if not batches:
        raise MeasureError("no texts were replayed")
    shapes: dict[tuple[int, ...], list[Inputs]] = {}
    for batch in batches:
        shapes.setdefault(next(iter(batch.values())).shape, []).append(batch)
    if form is Form.torch:
        assert module is not None
        counts = {shape: torch_macs(module, same[0]) for shape, same in shapes.items()}
    elif form is Form.onnx:
        counts = {shape: onnx_macs(the_only(folder, ".onnx"), same[0]) for shape, same in shapes.items()}
    else:
        counts = {shape: openvino_macs(the_only(folder, ".xml"), shape) for shape in shapes}
    texts = sum(shape[0] * len(same) for shape, same in shapes.items())
    return sum(counts[shape] * len(same) for shape, same in shapes.items()) / texts


def torch_macs(module: nn.Module, inputs: Inputs) -> int:
    """Count one call's multiply-accumulates by the operations that torch executes.

    Attention runs as plain products meanwhile, for torch's counter knows no fused one of the CPU. A linear whose kernel the
    counter does not know, such as one on packed integers, counts by its shape.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    missed, before = 0, dict[int, int]()

    def enter(part: nn.Module, args: Any) -> None:
        before[id(part)] = counter.get_total_flops()

    def leave(part: nn.Module, args: Any, output: Any) -> None:
        nonlocal missed
        rows = output.numel() // part.out_features
        whole = rows * part.in_features * part.out_features  # type: ignore[operator]  # of a linear they are numbers
        missed += max(0, whole - (counter.get_total_flops() - before[id(part)]) // 2)

    linears = [p for p in module.modules() if _is_linear(p)]
    hooks = [hook for p in linears for hook in (p.register_forward_pre_hook(enter), p.register_forward_hook(leave))]
    tensors = forward_inputs(module, {name: torch.from_numpy(values) for name, values in inputs.items()})
    try:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
            module(**tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() // 2 + missed


def _is_linear(part: nn.Module) -> bool:
    """Tell whether a module is one linear map; what is made of several counts by its parts."""
    sizes = getattr(part, "in_features", None), getattr(part, "out_features", None)
    return all(isinstance(size, int) for size in sizes) and not any(_is_linear(p) for p in part.children())


def onnx_macs(path: Path, inputs: Inputs) -> int:
    """Count one call's multiply-accumulates by the shapes that its matrix products have when the graph is run.

    ONNX's own inference of shapes loses them where a dimension of 1 may be spread.

    Raises:
        MeasureError: An operator hides products.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(path))
    graph = model.graph
    for node in graph.node:
        foreign = node.domain not in ("", "ai.onnx") and node.op_type not in (*_PRODUCTS, *_WITHOUT)
        if node.op_type in _UNCOUNTED or foreign:
            raise MeasureError(f"its graph holds {node.op_type}, whose products are not counted")
    products = [node for node in graph.node if node.op_type in _PRODUCTS]
    known = {i.name: tuple(i.dims) for i in graph.initializer}
    known |= {given.name: inputs[given.name].shape for given in graph.input}
    there = {result.name for result in graph.output}
    names = dict.fromkeys(name for node in products for name in (node.output[0], node.input[0]) if name not in known)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(list(names), {given.name: inputs[given.name] for given in session.get_inputs()})
    known |= {name: values.shape for name, values in zip(names, found, strict=True)}
    macs = 0
    for node in products:
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        macs += math.prod(known[node.output[0]]) * known[node.input[0]][-2 if turned else -1]
    return macs


def openvino_macs(path: Path, shape: tuple[int, ...]) -> int:
    """Count the same of OpenVINO's own format.

    Raises:
        MeasureError: An operator hides products.
    """
    model = import_openvino().Core().read_model(path)
    model.reshape({given.get_any_name(): list(shape) for given in model.inputs})
    macs = 0
    for op in model.get_ops():
        kind = op.get_type_name()
        if kind == "MatMul":
            first = list(op.get_input_shape(0))
            macs += math.prod(op.get_output_shape(0)) * first[-2 if op.get_attributes()["transpose_a"] else -1]
        elif kind == "ScaledDotProductAttention":
            query, keys = list(op.get_input_shape(0)), list(op.get_input_shape(1))
            values = list(op.get_input_shape(2))
            macs += math.prod(query[:-1]) * keys[-2] * (query[-1] + values[-1])
        elif kind in ("Convolution", "GroupConvolution", "Einsum", "LSTMSequence", "GRUSequence"):
            raise MeasureError(f"its graph holds {kind}, whose products are not counted")
    return macs


def _stored_bits(form: Form, folder: Path) -> int:
    """Add up the bits of every stored tensor."""
    if form is Form.onnx:
        import onnx

        graph = onnx.load(str(the_only(folder, ".onnx")), load_external_data=False).graph
        return sum(math.prod(i.dims) * _onnx_bits(i.data_type) for i in graph.initializer)
    if form is Form.openvino:
        model = import_openvino().Core().read_model(the_only(folder, ".xml"))
        constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
        return sum(math.prod(op.get_output_shape(0)) * op.get_element_type().bitwidth for op in constants)
    from safetensors import safe_open

    files = weight_files(folder)
    if not files or any(path.suffix != ".safetensors" for path in files):
        raise MeasureError(f"its weights are in {', '.join(p.name for p in files) or 'no file'}, not in safetensors")
    bits = 0
    for path in files:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(name)
                bits += math.prod(part.get_shape()) * _BITS[part.get_dtype()]
    return bits


def _onnx_bits(kind: int) -> int:
    from onnx import TensorProto

    packed = {TensorProto.INT4: 4, TensorProto.UINT4: 4}
    if kind in packed:
        return packed[kind]
    from onnx.helper import tensor_dtype_to_np_dtype

    return int(tensor_dtype_to_np_dtype(kind).itemsize) * 8
