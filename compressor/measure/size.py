"""Size: bytes as shipped, bytes of weights, parameters with tied tensors once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from compressor.artifact import Form, parameter_count
from compressor.runtimes.base import the_only

if TYPE_CHECKING:
    from torch import nn

# Written about the artifact, not part of it.
_RECORDS: Final = frozenset({"manifest.json", "result.json", "report.md", "run.yaml", "log.txt", "teacher.json"})
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".data")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeResult:
    """Apparent file sizes of an artifact; a hard-linked file counts once."""

    size_bytes: int
    weights_bytes: int


def measure_size(folder: Path) -> SizeResult:
    """Add up the files of an artifact's folder."""
    return SizeResult(
        size_bytes=sum(path.stat().st_size for path in _files(folder)),
        weights_bytes=sum(path.stat().st_size for path in weight_files(folder)),
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of an artifact's folder that hold weights."""
    return [path for path in _files(folder) if path.suffix in _WEIGHTS]


def _files(folder: Path) -> list[Path]:
    """Return what is shipped, each hard-linked file once."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _RECORDS:
            status = path.stat()
            found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def count_parameters(form: Form, module: nn.Module | None, folder: Path | None) -> int:
    """Count the weights of a re-loaded artifact.

    A torch module: parameters, shared ones once, plus packed integer weights that are no parameters any more. An
    ONNX or OpenVINO file: the elements of its constants, scales and zero points aside.
    """
    if form is Form.torch:
        assert module is not None
        return parameter_count(module) + _packed(module)
    assert folder is not None
    if form is Form.onnx:
        import onnx

        graph = onnx.load(str(the_only(folder, ".onnx")), load_external_data=False).graph
        return sum(math.prod(i.dims) for i in graph.initializer if not i.name.endswith(("_scale", "_zero_point")))
    import openvino

    model = openvino.Core().read_model(the_only(folder, ".xml"))
    sizes = [math.prod(op.get_output_shape(0)) for op in model.get_ops() if op.get_type_name() == "Constant"]
    return sum(size for size in sizes if size > 1)


def _packed(module: nn.Module) -> int:
    """Count integer weights held as buffers or inside torch.ao's packed linears, and the second of two 4-bit ones in a byte."""
    import torch

    small = (torch.int8, torch.uint8)
    buffers = {id(b): b for b in module.buffers() if b.dtype in small and b.ndim >= 2}
    count = sum(b.numel() for b in buffers.values())
    for parameter in module.parameters():
        if (
            state := getattr(parameter, "quant_state", None)
        ) is not None:  # bitsandbytes' 4-bit weights know their shape
            count += math.prod(state.shape) - parameter.numel()
    for part in module.modules():
        if "quantized" in type(part).__module__ and callable(weight := getattr(part, "weight", None)):
            bias = part.bias() if callable(part.bias) else None
            count += weight().numel() + (bias.numel() if bias is not None else 0)
    return count
